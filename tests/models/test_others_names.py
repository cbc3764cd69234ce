"""Names that other projects have for architectures lead to ours."""

import pytest

from vision_jax.errors import ConfigError
from vision_jax.models.registry import check_name


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("vit_base_patch16_224", "'vit_b16'?"),
        ("google/vit-huge-patch14-224-in21k", "'vit_h14'?"),
        ("deit_tiny_patch16_224", "'vit_ti16'?"),
        ("vit_b_16", "'vit_b16'?"),
        ("ViT-B_16", "'vit_b16'?"),
        ("ViT-B-32", "'vit_b32' or 'clip_vit_b32'?"),
        ("vitl16", "'vit_l16'?"),
        ("vit_base", "'vit_b16' or 'vit_b32' or 'vit_b8'?"),
        ("facebook/vit-mae-huge", "'mae_vit_h14'?"),
        ("mae_vit_base_patch16", "'mae_vit_b16'?"),
        ("openai/clip-vit-large-patch14-336", "'clip_vit_l14_336'?"),
        ("vit_base_patch16_clip_224", "'clip_vit_b16'?"),
        ("RN50x4", "'clip_rn50x4'?"),
        ("swin_tiny_patch4_window7_224", "'swin_t'?"),
        ("microsoft/swin-base-patch4-window12-384", "'swin_b_w12'?"),
        ("swin_v2_t", "'swinv2_t'?"),
        ("swinv2_base_window12to16_192to256", "'swinv2_b_w12to16'?"),
        ("swim_t", "'swin_t'?"),
        ("resnet18", "there are resnet26, resnet50"),
        ("convnext_tiny", "there are swinv2, swin, mae, clip, resnet, vit, ..."),
    ],
)
def test_ours_is_named(theirs, ours):
    with pytest.raises(ConfigError) as error:
        check_name(theirs)
    assert ours in str(error.value)
