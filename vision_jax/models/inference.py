"""What users do with a model and its variables, for every family."""

import jax
import jax.numpy as jnp

from vision_jax.errors import ConfigError
from vision_jax.models.clip import CLIP
from vision_jax.models.mae import MAE
from vision_jax.models.stacking import unstack_blocks


def encode(model, variables: dict, images) -> jax.Array:
    """Features float32[B, D] of images float[B, H, W, C], already normalised: what a classifier's head would get.

    A head's parameters among the variables are ignored. For an MAE, `variables` give its encoder's features, with nothing
    masked; for a CLIP, its image tower's, before the projection. Raises ConfigError for a model without `num_classes`,
    which 0 turns into a feature extractor.
    """
    if isinstance(model, CLIP):
        return model.apply(variables, images, method=CLIP.image_features)
    if isinstance(model, MAE):
        return model.apply(variables, images, method=MAE.encode)
    if not hasattr(model, "num_classes"):
        raise ConfigError(
            f"{type(model).__name__} has no field 'num_classes', of which 0 would ask for features [B, D] instead of outputs"
        )
    return model.clone(num_classes=0).apply(variables, images)


def reconstruct(model, variables: dict, images, noise=None, seed: int = 0) -> tuple[jax.Array, jax.Array]:
    """(images float32[B, H, W, C] as an MAE predicts them, mask float32[B, N], 1 for a patch that was hidden).

    images: float[B, H, W, C], already normalised, like the result. noise: float[B, N], which decides the hidden patches;
    by default it is drawn from `seed`. Raises ConfigError for a model that does not reconstruct.
    """
    if not isinstance(model, MAE):
        raise ConfigError(f"{type(model).__name__} does not reconstruct images; a masked autoencoder (mae_vit_*) does")
    return model.apply(variables, images, noise, rngs={"masking": jax.random.key(seed)}, method=MAE.reconstruct)


def model_variables(model, image_size: tuple[int, int]) -> dict:
    """What `model.init` returns for images of `image_size` (height, width) and any other inputs it takes; seed 0."""
    inputs = [jnp.zeros((1, *image_size, 3))]
    if isinstance(model, CLIP):
        inputs.append(jnp.zeros((1, model.context_length), jnp.int32))
    key = jax.random.key(0)
    return model.init({"params": key, "masking": key}, *inputs)


def variable_shapes(model, image_size: tuple[int, int]) -> dict:
    """The variables of `model_variables` as jax.ShapeDtypeStructs; computes nothing."""
    is_unrolled = not getattr(model, "scan", True)
    traced = model.clone(scan=True) if is_unrolled else model  # one block is traced instead of all
    shapes = jax.eval_shape(lambda: model_variables(traced, image_size))
    return {name: unstack_blocks(tree) for name, tree in shapes.items()} if is_unrolled else shapes
