"""What users ask of a model and its variables, whatever its family."""

import jax
import jax.numpy as jnp

from vision_jax.errors import ConfigError
from vision_jax.models.clip import CLIP
from vision_jax.models.mae import MAE
from vision_jax.models.stacking import unstack_blocks


def encode(model, variables: dict, images) -> jax.Array:
    """Features float32[B, D] of images float[B, H, W, C], already normalised: what a classifier's head would see.

    Parameters of a head among the variables do no harm. `variables` of an MAE give its encoder's, nothing masked;
    those of a CLIP its image tower's, before the projection. Raises ConfigError for a model without `num_classes`, of
    which 0 asks for features.
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
    """An MAE's (images float32[B, H, W, C] as predicted, mask float32[B, N], 1 where a patch was hidden).

    images: float[B, H, W, C], already normalised, as the result. noise: float[B, N], by which patches are hidden; by
    default it is drawn from `seed`. Raises ConfigError for a model that does not reconstruct.
    """
    if not isinstance(model, MAE):
        raise ConfigError(f"{type(model).__name__} does not reconstruct images; a masked autoencoder (mae_vit_*) does")
    return model.apply(variables, images, noise, rngs={"masking": jax.random.key(seed)}, method=MAE.reconstruct)


def model_variables(model, image_size: tuple[int, int]) -> dict:
    """What `model.init` gives for images of `image_size` (height, width), whatever else the model takes; seed 0."""
    inputs = [jnp.zeros((1, *image_size, 3))]
    if isinstance(model, CLIP):
        inputs.append(jnp.zeros((1, model.context_length), jnp.int32))
    key = jax.random.key(0)
    return model.init({"params": key, "masking": key}, *inputs)


def variable_shapes(model, image_size: tuple[int, int]) -> dict:
    """The variables of `model_variables` as jax.ShapeDtypeStructs; nothing is computed."""
    is_unrolled = not getattr(model, "scan", True)
    traced = model.clone(scan=True) if is_unrolled else model  # one block is traced instead of all
    shapes = jax.eval_shape(lambda: model_variables(traced, image_size))
    return {name: unstack_blocks(tree) for name, tree in shapes.items()} if is_unrolled else shapes
