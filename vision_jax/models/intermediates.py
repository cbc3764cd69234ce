"""Hidden states and attention maps of any model, recorded where its own forward pass computes them."""

from collections import OrderedDict
from collections.abc import Mapping

import flax.linen as nn
import jax

from vision_jax.errors import ConfigError
from vision_jax.models import modified_resnet, resnet
from vision_jax.models.clip import CLIP
from vision_jax.models.layers import MAPS, Attention, Block, LayerNorm
from vision_jax.models.mae import MAE
from vision_jax.models.modified_resnet import AttentionPool
from vision_jax.models.stacking import unstack_blocks
from vision_jax.models.swin import PatchMerging, Swin, SwinBlock
from vision_jax.models.text import TextTransformer
from vision_jax.models.vit import ViT
from vision_jax.models.window_attention import WindowAttention

_MODELS = (ViT, Swin, TextTransformer)
_STEPS = (Block, SwinBlock, PatchMerging, resnet.Bottleneck, modified_resnet.Bottleneck)
_ATTENTIONS = (Attention, WindowAttention, AttentionPool)


def intermediates(model, variables: Mapping, images, tokens=None, attention: bool = False) -> dict[str, jax.Array]:
    """Hidden states and, on request, attention maps by name, in order of execution; the model is deterministic.

    A name is the path of the module that computes the array, as in unrolled parameters; scanned models use the same names.
    Hidden states are in the model's dtype: tokens [B, N, D], or maps [B, H, W, D] for Swin and ResNets.

        embed                    input of the first block; not for ResNets
        blocks_3                 output of that block; stages_0/blocks_3 in Swin, stages_0/units_3 in ResNets
        stages_0/downsample      Swin's map, merged for the next stage
        norm                     output of the norm after the last block, if the model has one
        blocks_3/attn            with attention=True, the weights of that layer after softmax, float32[B, heads, N, N]
        stages_0/blocks_3/attn   Swin's, float32[B, windows, heads, n, n], of the shifted map if the block shifts it
        map_head/attn            the pooling query's, float32[B, heads, 1, N]; attn_pool/attn in CLIP's ResNet

    Names in a hybrid's stem begin with backbone/. A masked autoencoder gives its encoder's states, with nothing masked.
    CLIP's names begin with image/ and, if tokens are given, text/ for the text tower's.

    Under `jax.jit` the model and `attention` are static, and what the caller drops is not computed:
    `jax.jit(intermediates, static_argnums=0, static_argnames="attention")`.

    Args:
        model: any model from `create_model`.
        images: float[B, H, W, C], already normalised.
        tokens: int32[B, L], for CLIP only.

    Raises ConfigError for tokens if there is no text tower.
    """
    if tokens is not None and not isinstance(model, CLIP):
        raise ConfigError(f"tokens were given, but {type(model).__name__} has no text tower; a CLIP (clip_*) does")
    model, variables = _unrolled(model), {**variables, "params": unstack_blocks(variables["params"])}
    found: OrderedDict[str, jax.Array] = OrderedDict()  # its order survives jax.jit, which sorts a dict's names

    def record(call, args, kwargs, context):
        result, module, method = call(*args, **kwargs), context.module, context.method_name
        if _is_state(module, method):
            found["/".join(module.path if method == "__call__" else (*module.path, method))] = result
        elif attention and isinstance(module, _ATTENTIONS) and method == "__call__":
            path = (*module.path, "attn") if isinstance(module, AttentionPool) else module.path
            found["/".join(path)] = module.get_variable(MAPS, "weights")
        return result

    mutable = [MAPS] if attention else []
    with nn.intercept_methods(record):
        model.apply(variables, images, method=_image_method(model), mutable=mutable)
        if tokens is not None:
            model.apply(variables, tokens, method=CLIP.encode_text, mutable=mutable)
    return found


def _unrolled(model):
    """The model without a head and with unrolled blocks, so that each has a name."""
    plain = {"scan": False, "remat": "none", "num_classes": 0}
    changed = {name: value for name, value in plain.items() if hasattr(model, name)}
    if isinstance(model, CLIP):
        changed["image"] = {name: value for name, value in model.image.items() if name not in plain}
    return model.clone(**changed)


def _is_state(module, method: str) -> bool:
    if method != "__call__":
        return method == "embed" and isinstance(module, _MODELS)
    last_norm = isinstance(module, LayerNorm) and module.name == "norm" and isinstance(module.parent, _MODELS)
    return last_norm or isinstance(module, _STEPS)


def _image_method(model):
    if isinstance(model, CLIP):
        return CLIP.image_features
    return MAE.encode if isinstance(model, MAE) else None
