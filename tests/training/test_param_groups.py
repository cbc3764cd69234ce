import jax
import jax.numpy as jnp
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from vision_jax.config import base_config
from vision_jax.errors import ConfigError
from vision_jax.models import Swin
from vision_jax.training.param_groups import layers_above, param_groups

BLOCK = {"norm1/scale": (8,), "attn/query/kernel": (8, 8), "attn/query/bias": (8,), "mlp/fc1/kernel": (8, 32)}
OUTSIDE = {
    "cls": (1, 1, 8),
    "pos_embed": (1, 5, 8),
    "patch_embed/kernel": (4, 4, 3, 8),
    "patch_embed/bias": (8,),
    "norm/scale": (8,),
    "head/kernel": (8, 10),
    "head/bias": (10,),
}


def vit_shapes(layers=3, scanned=False):
    if scanned:
        blocks = {f"blocks/{name}": (layers, *shape) for name, shape in BLOCK.items()}
    else:
        blocks = {f"blocks_{i}/{name}": shape for i in range(layers) for name, shape in BLOCK.items()}
    return OUTSIDE | blocks


def tree(shapes):
    leaves = {tuple(path.split("/")): jax.ShapeDtypeStruct(shape, jnp.float32) for path, shape in shapes.items()}
    return unflatten_dict(leaves)


def groups_of(shapes, **optimizer):
    config = base_config()
    config.optimizer = optimizer
    return {group.path: group for group in param_groups(config, tree(shapes))}


def mae_layer_id(name, num_layers):
    """The rule of get_layer_id_for_vit in MAE's util/lr_decay.py, in our names."""
    if name in ("cls", "pos_embed") or name.startswith("patch_embed"):
        return 0
    if name.startswith("blocks"):
        return int(name.split("/")[0].split("_")[1]) + 1
    return num_layers


def test_layer_decay_is_mae_s_for_vit_b():
    groups = groups_of(vit_shapes(12), layer_decay=0.65)
    num_layers = 12 + 1
    scales = [0.65 ** (num_layers - i) for i in range(num_layers + 1)]
    for path, group in groups.items():
        assert group.lr_scale == pytest.approx(scales[mae_layer_id(path, num_layers)], rel=1e-12), path
    assert groups["head/kernel"].lr_scale == groups["norm/scale"].lr_scale == 1.0
    assert groups["blocks_11/norm1/scale"].lr_scale == 0.65
    assert groups["cls"].lr_scale == pytest.approx(0.65**13)


def test_scanned_layers_have_the_scales_of_unrolled_ones():
    unrolled = groups_of(vit_shapes(5), layer_decay=0.75)
    scanned = groups_of(vit_shapes(5, scanned=True), layer_decay=0.75)
    for name in BLOCK:
        assert scanned[f"blocks/{name}"].lr_scale == tuple(unrolled[f"blocks_{i}/{name}"].lr_scale for i in range(5))
    for path in OUTSIDE:
        assert scanned[path].lr_scale == unrolled[path].lr_scale
    assert scanned["blocks/norm1/scale"].stacked and not unrolled["blocks_0/norm1/scale"].stacked


def test_hierarchical_models_number_blocks_through():
    """The ids of Swin's fine-tuning code (SimMIM's get_swin_layer); the sum of all depths + 1 is the last."""
    depths = (2, 2, 6, 2)
    shapes = {"patch_embed/proj/kernel": (4, 4, 3, 8), "norm/scale": (8,), "head/kernel": (8, 10)}
    expected = {"patch_embed/proj/kernel": 0, "norm/scale": 13, "head/kernel": 13}
    for stage, depth in enumerate(depths):
        for block in range(depth):
            shapes[path := f"stages_{stage}/blocks_{block}/attn/query/kernel"] = (8, 8)
            expected[path] = sum(depths[:stage]) + block + 1
        shapes[path := f"stages_{stage}/downsample/reduction/kernel"] = (8, 8)
        expected[path] = sum(depths[: stage + 1])
    assert {path: 13 - above for path, above in layers_above(shapes).items()} == expected
    scanned = layers_above({"stages_0/blocks/norm/scale": (2, 8), "stages_1/blocks/norm/scale": (3, 8)})
    assert scanned == {"stages_0/blocks/norm/scale": (5, 4), "stages_1/blocks/norm/scale": (3, 2, 1)}


@pytest.mark.parametrize(("version", "scan"), [(1, False), (2, True)])
def test_swin_s_own_tree(version, scan):
    """SimMIM's ids; decay as the official code: neither tables of biases nor V2's scales and MLP of offsets."""
    depths = (2, 3)
    model = Swin(5, 4, 8, depths, (1, 2), 3, version=version, scan=scan)
    params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))["params"]
    paths = {"/".join(path): leaf.shape for path, leaf in flatten_dict(params).items()}
    for path, above in layers_above(paths).items():
        stage = int(path[len("stages_")]) if path.startswith("stages_") else None
        first = 0 if stage is None else sum(depths[:stage])
        if path.startswith("patch_"):
            expected = 0
        elif stage is None:
            expected = 6
        elif "/downsample/" in path:
            expected = first + depths[stage]
        elif scan:
            expected = tuple(first + 1 + i for i in range(depths[stage]))
        else:
            expected = first + 1 + int(path.split("blocks_")[1][0])
        assert (tuple(6 - n for n in above) if isinstance(above, tuple) else 6 - above) == expected, path
    config = base_config()
    config.optimizer.decay = r"(?!.*cpb_mlp).*/kernel"
    decays = {group.path for group in param_groups(config, params) if group.decays}
    shapes = {path: shape[1:] if "/blocks/" in path else shape for path, shape in paths.items()}
    skipped = ("relative_position_bias_table", "cpb_mlp", "logit_scale")
    official = {path for path, shape in shapes.items() if len(shape) > 1 and not any(name in path for name in skipped)}
    assert decays == official and len(decays) > 5


def test_hybrid_backbone_stands_before_the_blocks():
    backbone = {"backbone/stages_1/blocks_2/conv1/kernel": (1, 1, 8, 8), "backbone/stem/kernel": (7, 7, 3, 8)}
    above = layers_above(vit_shapes(3) | backbone)
    assert {above[path] for path in (*backbone, "cls")} == {4} and above["blocks_0/norm1/scale"] == 3


def test_towers_count_for_themselves():
    shapes = {f"visual/{path}": shape for path, shape in vit_shapes(4).items()}
    shapes |= {f"text/{path}": shape for path, shape in vit_shapes(2).items()} | {"logit_scale": ()}
    above = layers_above(shapes)
    assert above["visual/cls"] == 5 and above["text/cls"] == 3
    assert above["visual/blocks_0/norm1/scale"] == 4 and above["text/blocks_0/norm1/scale"] == 2
    assert above["text/head/bias"] == above["logit_scale"] == 0


def test_rows_cover_every_parameter_once_in_tree_order():
    config = base_config()
    params = tree(vit_shapes(2))
    groups = param_groups(config, params)
    assert [group.size for group in groups] == [leaf.size for leaf in jax.tree.leaves(params)]
    assert {group.path for group in groups} == set(vit_shapes(2)) and len(groups) == len(vit_shapes(2))


def test_default_decay_is_kernels():
    assert {path for path, group in groups_of(vit_shapes()).items() if group.decays} == {
        path for path in vit_shapes() if path.endswith("kernel")
    }
    assert groups_of(vit_shapes(), decay=(".*/kernel", "cls"))["cls"].decays
    assert not any(group.decays for group in groups_of(vit_shapes(), decay="").values())


def test_first_lr_scale_counts_and_multiplies_layer_decay():
    groups = groups_of(vit_shapes(3), layer_decay=0.5, lr_scale=(("head/bias", 20), ("(head|blocks_2)/.*", 10.0)))
    assert groups["head/bias"].lr_scale == 20 and groups["head/kernel"].lr_scale == 10
    assert groups["blocks_2/attn/query/bias"].lr_scale == 5 and groups["blocks_1/attn/query/bias"].lr_scale == 0.25
    scanned = groups_of(vit_shapes(3, scanned=True), layer_decay=0.5, lr_scale=(("blocks/mlp/.*", 8.0),))
    assert scanned["blocks/mlp/fc1/kernel"].lr_scale == (1.0, 2.0, 4.0)


def test_frozen_neither_decays_nor_learns():
    groups = groups_of(vit_shapes(), freeze=r"(?!head/).*", lr_scale=((".*", 3.0),))
    for path, group in groups.items():
        assert group.frozen is not path.startswith("head/")
        assert group.decays is (path == "head/kernel")
        assert group.lr_scale == (0.0 if group.frozen else 3.0)


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        ({"freeze": "haed/.*"}, "'optimizer.freeze': 'haed/.*' matches no parameter.*nearest path is 'head/bias'"),
        ({"freeze": ("head/.*", "patch_embed")}, "'patch_embed' matches no .*whole path.*path is 'patch_embed/"),
        ({"decay": r".*/kernels$"}, "'optimizer.decay': .*kernels"),
        ({"lr_scale": (("blocks_7/.*", 2.0),)}, "'optimizer.lr_scale': 'blocks_7/.*' matches no .*'blocks_"),
        ({"freeze": ".*"}, "'optimizer.freeze' leaves no parameter to train"),
        ({"freeze": "("}, r"'optimizer.freeze': '\(' is no regular expression"),
        ({"lr_scale": ("head/.*", 2.0)}, "'optimizer.lr_scale' takes .* pairs, got 'head/"),
        ({"lr_scale": (("head/.*", 0.0),)}, "'optimizer.lr_scale': the factor .* must be positive.*'optimizer.freeze'"),
        ({"layer_decay": 1.5}, r"'optimizer.layer_decay' must lie in \(0, 1\], got 1.5"),
    ],
)
def test_bad_patterns_name_the_key(optimizer, message):
    with pytest.raises(ConfigError, match=message):
        groups_of(vit_shapes(), **optimizer)


@pytest.mark.parametrize(
    ("pattern", "said"), [(r"[[a]x", "matches no"), (r"([a-z/_0-9]*)*!", "takes too long"), (3, "no regular")]
)
def test_odd_patterns_end_in_one_line(pattern, said, recwarn):
    with pytest.raises(ConfigError, match=said):
        groups_of(vit_shapes(), freeze=(pattern,))
    assert not recwarn.list


def test_layer_decay_without_blocks():
    with pytest.raises(ConfigError, match="layer_decay': the model has no 'blocks_0'"):
        groups_of(OUTSIDE, layer_decay=0.9)
