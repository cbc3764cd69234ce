import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vision_jax as vj
from vision_jax.errors import ConfigError
from vision_jax.models import Swin, stack_blocks, unstack_blocks
from vision_jax.models.swin import PatchMerging
from vision_jax.training.initialization import merge

TINY = dict(num_classes=5, patch_size=2, width=8, depths=(2, 1), num_heads=(2, 4), window=3, mlp_ratio=2.0)
RATES = dict(dropout_rate=0.3, attention_dropout_rate=0.3, drop_path_rate=0.5)
TABLE = "relative_position_bias_table"


def images_of(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=(*shape, 3)).astype(np.float32)


def tiny(**fields):
    return Swin(**{**TINY, **fields})


def shapes_of(model, size):
    return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *size, 3)))["params"]


def init(model, images):
    return jax.device_get(jax.jit(model.init)(jax.random.key(0), images)["params"])


def drawn(model, size=(8, 8)):
    """Random parameters, none of them zero, with kernels that keep the scale; unrolled layers."""
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        name, noise = path[-1].key, rng.normal(size=leaf.shape)
        values = {"kernel": noise * math.prod(leaf.shape[:-1]) ** -0.5, "scale": 1 + 0.1 * noise}
        return values.get(name, 0.1 * noise).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes_of(model.clone(scan=False), size))


def apply(model, params, *args, **kwargs):
    """`model.apply`, compiled: eager application would compile every operation by itself."""
    return jax.device_get(jax.jit(lambda params: model.apply({"params": params}, *args, **kwargs))(params))


def loss_and_grads(model, params, images, **kwargs):
    def loss(params):
        logits = model.apply({"params": params}, images, **kwargs)
        return (logits**2).sum(), logits

    (_, logits), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    return jax.device_get((logits, grads))


@pytest.mark.parametrize("version", [1, 2])
def test_parameters_serve_images_of_any_size(version):
    """Rectangles, sides that neither patch nor window divides, and images of less than a patch."""
    model = tiny(version=version)
    params = drawn(model, (16, 16))
    for size in [(13, 27), (5, 2), (1, 1)]:
        images = images_of(2, *size)
        chex.assert_trees_all_equal_shapes(shapes_of(model, size), params)
        logits, maps = apply(model, params, images, method=lambda m, x: (m(x), m.features(x)))
        rows, columns = (math.ceil(side / 2) for side in size)
        chex.assert_shape(logits, (2, 5))
        chex.assert_shape(maps, [(2, rows, columns, 8), (2, math.ceil(rows / 2), math.ceil(columns / 2), 16)])
        chex.assert_tree_all_finite((logits, maps))


def test_a_picture_does_not_see_its_batch_nor_where_whole_padding_begins():
    """The padding of images to whole patches is that by hand."""
    model, images = tiny(), images_of(2, 9, 7)
    params = drawn(model)
    whole = np.pad(images, ((0, 0), (0, 1), (0, 1), (0, 0)))
    logits = apply(model, params, images)
    np.testing.assert_allclose(apply(model, params, whole), logits, atol=1e-5)
    np.testing.assert_allclose(apply(model, params, images[1:]), logits[1:], atol=1e-5)


def test_merging_by_loops():
    for version in (1, 2):
        x = images_of(1, 5, 4)[..., :2]
        model = PatchMerging(version=version)
        params = jax.tree.map(lambda leaf: leaf + 0.1, init(model, x))
        scale, bias = (params["norm"][name] for name in ("scale", "bias"))

        def norm(y, scale=scale, bias=bias):
            return (y - y.mean()) / np.sqrt(y.var() + 1e-5) * scale + bias

        padded, got = np.pad(x, ((0, 0), (0, 1), (0, 0), (0, 0))), apply(model, params, x)
        chex.assert_shape(got, (1, 3, 2, 4))
        for i, j in np.ndindex(3, 2):
            y = np.concatenate([padded[0, 2 * i + a, 2 * j + b] for a, b in ((0, 0), (1, 0), (0, 1), (1, 1))])
            kernel = params["reduction"]["kernel"]
            expected = norm(y) @ kernel if version == 1 else norm(y @ kernel)
            np.testing.assert_allclose(got[0, i, j], expected, atol=1e-5)


def test_pyramid_for_detection():
    images = images_of(2, 18, 12)
    model = tiny(features_only=True, depths=(1, 2, 1), num_heads=(2, 2, 2), dtype=jnp.bfloat16)
    params = init(model, images)
    assert not {"norm", "head"} & params.keys()
    pyramid = apply(model, params, images)
    chex.assert_shape(pyramid, [(2, 9, 6, 8), (2, 5, 3, 16), (2, 3, 2, 32)])
    chex.assert_type(pyramid, jnp.float32)
    for x in pyramid:  # norms at their initial values
        np.testing.assert_allclose(x.mean(-1), 0.0, atol=0.02)
        np.testing.assert_allclose(x.std(-1), 1.0, atol=0.02)
    model = model.clone(dtype=jnp.float32)
    params = drawn(model)
    maps = apply(model, params, images, method="features")
    for s, (x, y) in enumerate(zip(maps, apply(model, params, images), strict=True)):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        norm = params[f"feature_norms_{s}"]
        np.testing.assert_allclose(y, x * norm["scale"] + norm["bias"], rtol=1e-4, atol=1e-4)


def test_features_and_the_head():
    images = images_of(2, 12, 8)
    params = drawn(tiny())
    last = apply(tiny(), params, images, method="features")[-1]
    body = {name: value for name, value in params.items() if name != "head"}
    chex.assert_trees_all_equal_shapes(shapes_of(tiny(num_classes=0), (12, 8)), body)
    features = apply(tiny(num_classes=0), body, images)
    x = (last - last.mean(-1, keepdims=True)) / np.sqrt(last.var(-1, keepdims=True) + 1e-5)
    expected = (x * params["norm"]["scale"] + params["norm"]["bias"]).mean((1, 2))
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)
    head = params["head"]
    np.testing.assert_allclose(apply(tiny(), params, images), features @ head["kernel"] + head["bias"], atol=1e-5)


DEEP = dict(depths=(3,), num_heads=(2,))


@pytest.fixture(scope="module", params=[1, 2])
def plain(request):
    """Fields of an unrolled model, its parameters, and what it makes of some images."""
    fields, images = DEEP | {"version": request.param}, images_of(2, 14, 10)
    params = drawn(tiny(**fields))
    return fields, images, params, loss_and_grads(tiny(**fields), params, images)


@pytest.mark.parametrize(("scan", "remat"), [(True, "none"), (False, "dots"), (True, "full")])
def test_scan_and_remat_change_neither_values_nor_gradients(plain, scan, remat):
    """Three blocks, too: a pair in the scan, the last one after it."""
    fields, images, params, (logits, grads) = plain
    got, got_grads = loss_and_grads(
        tiny(scan=scan, remat=remat, **fields), stack_blocks(params) if scan else params, images
    )
    chex.assert_trees_all_close(got, logits, rtol=1e-5, atol=1e-5)
    scale = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(grads))
    chex.assert_trees_all_close(unstack_blocks(got_grads), grads, rtol=1e-4, atol=1e-5 * max(scale, 1.0))


@pytest.mark.parametrize("depth", [1, 2])
def test_layers_of_a_scanned_stage_are_those_of_stack_blocks_and_start_differently(depth):
    fields = dict(depths=(depth, 2))
    scanned = init(tiny(scan=True, **fields), images_of(1, 8, 8))
    expected = jax.eval_shape(stack_blocks, shapes_of(tiny(**fields), (8, 8)))
    chex.assert_trees_all_equal_shapes_and_dtypes(scanned, expected)
    chex.assert_shape(scanned["stages_0"]["blocks"]["attn"]["query"]["kernel"], (depth, 8, 8))
    first, second = scanned["stages_1"]["blocks"]["attn"]["query"]["kernel"]
    np.testing.assert_allclose(first.std(), 0.02, rtol=0.2)
    assert np.abs(first - second).max() > 0.01


@pytest.mark.parametrize(("scan", "remat"), [(False, "dots"), (True, "full")])
def test_remat_recomputes_the_same_dropout(scan, remat):
    fields, images = {"depths": (2,), "num_heads": (2,), "scan": scan, **RATES}, images_of(2, 14, 10)
    params, kwargs = drawn(tiny(**fields)), {"train": True, "rngs": {"dropout": jax.random.key(1)}}
    params = stack_blocks(params) if scan else params
    expected, grads = loss_and_grads(tiny(**fields), params, images, **kwargs)
    got, got_grads = loss_and_grads(tiny(remat=remat, **fields), params, images, **kwargs)
    chex.assert_trees_all_close(got, expected, rtol=1e-5, atol=1e-5)
    scale = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(grads))
    chex.assert_trees_all_close(got_grads, grads, rtol=1e-4, atol=1e-5 * max(scale, 1.0))


@pytest.mark.parametrize(("scan", "rate"), [(False, rate) for rate in RATES] + [(True, "attention_dropout_rate")])
def test_train_draws_and_evaluation_needs_no_key(scan, rate):
    images = images_of(4, 8, 8)
    model = tiny(scan=scan, depths=(2,), num_heads=(2,), **{rate: RATES[rate]})
    params = drawn(model)
    params = stack_blocks(params) if scan else params
    exact = apply(model, params, images)
    train = jax.jit(lambda key: model.apply({"params": params}, images, train=True, rngs={"dropout": key}))
    first, again, other = (train(jax.random.key(i)) for i in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other) and not np.allclose(first, exact)
    with pytest.raises(Exception, match="dropout"):
        jax.eval_shape(lambda: model.apply({"params": params}, images, train=True))


def test_without_rates_training_needs_no_key():
    images, model = images_of(1, 8, 8), tiny(scan=True)
    params = stack_blocks(drawn(model))
    np.testing.assert_array_equal(apply(model, params, images, train=True), apply(model, params, images))


@pytest.mark.parametrize("scan", [False, True])
def test_drop_path_grows_linearly_through_all_stages_and_draws_for_each_branch(scan):
    """Each branch adds its own power of 2 to its stage's map: from the sum it can be read which were kept."""
    depths, samples = (3, 2), 4000
    fields = dict(patch_size=1, width=1, depths=depths, num_heads=(1, 1), window=1, mlp_ratio=1.0, scan=scan)
    model = Swin(num_classes=0, drop_path_rate=0.8, **fields)
    images = jnp.zeros((samples, 2, 1, 3))
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes_of(model.clone(scan=False), (2, 1)))
    keep = 1 - np.linspace(0, 0.8, sum(depths))
    number = 0
    for stage, depth in enumerate(depths):
        for i in range(depth):
            block = params[f"stages_{stage}"][f"blocks_{i}"]
            for branch, output in enumerate((block["attn"]["out"], block["mlp"]["fc2"])):
                output["bias"] = jnp.full(output["bias"].shape, keep[number] * 2.0 ** (2 * i + branch))
            number += 1
    maps = apply(
        model,
        stack_blocks(params) if scan else params,
        images,
        train=True,
        rngs={"dropout": jax.random.key(1)},
        method="features",
    )
    bits = []
    for x, depth in zip(maps, depths, strict=True):
        total = np.rint(np.asarray(x)).astype(int)
        assert (total == total[:, :1, :1, :1]).all()
        bits.append((total[:, 0, 0, :1] >> np.arange(2 * depth)) & 1)
    bits = np.concatenate(bits, axis=1)
    np.testing.assert_allclose(bits.mean(0), np.repeat(keep, 2), atol=0.04)
    assert np.abs(np.corrcoef(bits[:, 2:].T) - np.eye(8)).max() < 0.08


def test_v2_starts_as_the_identity():
    """With norms of scale 0 behind each branch, and with finite gradients where maps are padded with zeros."""
    model, images = tiny(version=2), images_of(2, 14, 10)
    params = init(model, images)
    embedded = apply(model, params, images, method="embed")
    first, second = apply(model, params, images, method="features")
    np.testing.assert_array_equal(first, embedded)
    merging = PatchMerging(version=2)
    np.testing.assert_allclose(second, apply(merging, params["stages_0"]["downsample"], first), atol=1e-6)
    _, grads = loss_and_grads(model, params, images)
    chex.assert_tree_all_finite(grads)
    norms = grads["stages_0"]["blocks_1"]
    assert all(norms[name]["scale"].any() for name in ("norm1", "norm2"))  # so it leaves that state


def assert_normal(x, std=0.02):
    np.testing.assert_allclose(x.std(), std, rtol=5 / math.sqrt(2 * x.size))
    assert abs(x.mean()) < 5 * std / math.sqrt(x.size)


def test_official_initial_values_of_v1():
    model = Swin(10, 4, 64, (2,), (4,), 7)
    params = init(model, images_of(1, 28, 28))
    bound = (4 * 4 * 3) ** -0.5
    for value in params["patch_embed"].values():
        assert 0.9 * bound < np.abs(value).max() <= bound and value.min() < -0.8 * bound and value.std() > 0.5 * bound
    block = params["stages_0"]["blocks_1"]
    layers = [block["attn"][name] for name in ("query", "key", "value", "out")]
    for layer in (*layers, *block["mlp"].values(), params["head"]):
        assert_normal(layer["kernel"])
        assert not layer["bias"].any()
    chex.assert_shape(block["attn"][TABLE], (13, 13, 4))
    assert_normal(block["attn"][TABLE])
    for norm in (params["patch_norm"], block["norm1"], block["norm2"], params["norm"]):
        assert (norm["scale"] == 1).all() and not norm["bias"].any()


def test_official_initial_values_of_v2():
    model = Swin(10, 4, 64, (1, 1), (4, 8), 7, version=2)
    params = init(model, images_of(1, 28, 28))
    stage, block = params["stages_0"], params["stages_0"]["blocks_0"]
    attn = block["attn"]
    assert attn.keys() == {"query", "key", "value", "out", "logit_scale", "cpb_mlp"} and attn["key"].keys() == {
        "kernel"
    }
    np.testing.assert_allclose(attn["logit_scale"], np.full(4, math.log(10)), rtol=1e-6)
    chex.assert_shape([attn["cpb_mlp"][name]["kernel"] for name in ("hidden", "out")], [(2, 512), (512, 4)])
    assert not attn["cpb_mlp"]["hidden"]["bias"].any() and attn["cpb_mlp"]["out"].keys() == {"kernel"}
    kernels = [attn[name]["kernel"] for name in ("query", "key", "value", "out")]
    kernels += [stage["downsample"]["reduction"]["kernel"]]
    kernels += [layer["kernel"] for layer in (*block["mlp"].values(), *attn["cpb_mlp"].values())]
    for kernel in kernels:
        assert_normal(kernel)
    assert not any(value.any() for name in ("norm1", "norm2") for value in block[name].values())
    for norm in (params["patch_norm"], stage["downsample"]["norm"], params["norm"]):
        assert (norm["scale"] == 1).all() and not norm["bias"].any()


@pytest.mark.parametrize("fields", [{}, {"version": 2}, {"scan": True, "remat": "dots"}])
def test_bfloat16_keeps_float32_parameters_and_logits(fields):
    images = images_of(2, 14, 10)
    fields = DEEP | {"depths": (2,)} | fields
    model = tiny(dtype=jnp.bfloat16, **fields)
    chex.assert_type(jax.tree.leaves(shapes_of(model, (14, 10))), jnp.float32)
    params = stack_blocks(drawn(model)) if model.scan else drawn(model)
    logits, grads = loss_and_grads(model, params, images)
    chex.assert_type([logits, *jax.tree.leaves(grads)], jnp.float32)
    chex.assert_tree_all_finite(grads)
    exact = apply(tiny(**fields), params, images)
    assert 0 < np.abs(logits - exact).max() < 0.1 * np.abs(exact).max()
    maps = jax.eval_shape(lambda: model.apply({"params": params}, images, method="features"))
    assert {x.dtype for x in maps} == {jnp.dtype("bfloat16")}


@pytest.mark.parametrize(("old", "new"), [(7, 12), (8, 3), (1, 2), (4, (3, 6))])
def test_tables_are_resampled_as_by_torch(old, new):
    torch = pytest.importorskip("torch")
    rule = {} if isinstance(new, int) else {"window_rule": "axis"}
    params = drawn(tiny(window=old))
    model = tiny(window=new, **rule)
    resized = model.resize_params(params, (8, 8), (8, 8))
    chex.assert_trees_all_equal_shapes_and_dtypes(resized, shapes_of(model, (8, 8)))
    for stage, block in ((0, 0), (0, 1), (1, 0)):
        table, got = (tree[f"stages_{stage}"][f"blocks_{block}"]["attn"].pop(TABLE) for tree in (params, resized))
        grid = torch.from_numpy(table.transpose(2, 0, 1)[None])
        expected = torch.nn.functional.interpolate(grid, got.shape[:2], mode="bicubic", align_corners=False)
        np.testing.assert_allclose(got, expected[0].numpy().transpose(1, 2, 0), rtol=1e-5, atol=1e-5)
    chex.assert_trees_all_equal(resized, params)


@pytest.mark.parametrize(("from_scan", "to_scan"), [(False, True), (True, False), (True, True)])
def test_another_window_image_size_and_layout_start_from_trained_parameters(from_scan, to_scan):
    params = drawn(tiny())
    model = tiny(window=4, scan=to_scan, num_classes=7)
    fresh = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), shapes_of(model, (12, 20)))
    merged, report = merge(stack_blocks(params) if from_scan else params, 8, model, (12, 20), fresh)
    expected = tiny(window=4).resize_params(params, (8, 8), (12, 20))
    assert expected["stages_0"]["blocks_1"]["attn"][TABLE].shape == (7, 7, 2)
    expected["head"] = {"kernel": np.zeros((16, 7)), "bias": np.zeros(7)}
    chex.assert_trees_all_equal(unstack_blocks(merged), expected)
    names = (
        ["stages_0/blocks", "stages_1/blocks"]
        if to_scan
        else [f"stages_{s}/blocks_{i}" for s, i in ((0, 0), (0, 1), (1, 0))]
    )
    assert sorted(report.resized) == [f"{name}/attn/{TABLE}" for name in names]
    assert sorted(report.new) == ["head/bias", "head/kernel"]


def test_v2_takes_another_window_as_it_is():
    params = jax.tree.map(lambda leaf: np.ones(leaf.shape), shapes_of(tiny(version=2), (8, 8)))
    resized = tiny(version=2, window=5, pretrained_window=3).resize_params(params, (8, 8), (16, 16))
    chex.assert_trees_all_equal(resized, params)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"window": (3, 4)}, ["'window'", "(3, 4)", "square"]),
        ({"window": 0}, ["'window'", "between 1 and"]),
        ({"num_heads": (3, 4)}, ["'num_heads'", "stage 0", "8", "3"]),
        ({"num_heads": (2, 3)}, ["'num_heads'", "stage 1", "16", "3"]),
        ({"depths": (2, 1, 1)}, ["'depths'", "'num_heads'", "(2, 1, 1)"]),
        ({"depths": (2, 0)}, ["'depths'", "between 1 and", "got 0"]),
        ({"version": 3}, ["'version'", "1 or 2", "3"]),
        ({"pretrained_window": 6}, ["'pretrained_window'", "6", "version 2"]),
        ({"version": 2, "pretrained_window": (6, 3, 3)}, ["'pretrained_window'", "(6, 3, 3)", "2 stages"]),
        ({"window_rule": "sqare"}, ["'window_rule'", "'sqare'", "'square'"]),
        ({"act": "gelu_tan"}, ["'act'", "'gelu_tanh'"]),
        ({"remat": "dot"}, ["'remat'", "'dots'"]),
        ({"attention_impl": "flash"}, ["'attention_impl'", "'flash'", "xla"]),
        ({"head_init": "zero"}, ["'head_init'", "'zeros'"]),
    ],
)
def test_values_that_cannot_work_are_named(fields, words):
    with pytest.raises(ConfigError) as error:
        vj.create_model("swin_t", **{**TINY, **fields})
    assert all(word in str(error.value) for word in words)
    assert "\n" not in str(error.value)


def test_a_window_of_two_sides_is_taken_by_axis():
    model = tiny(window=(2, 4), window_rule="axis")
    images = images_of(1, 12, 20)
    params = drawn(model)
    chex.assert_shape(params["stages_0"]["blocks_0"]["attn"][TABLE], (3, 7, 2))
    chex.assert_tree_all_finite(apply(model, params, images))


@pytest.mark.parametrize("fields", [{}, {"version": 2}, {"mask_padding": False}])
def test_no_gather_and_no_scatter_forwards_or_backwards(fields):
    model, images = tiny(**fields), images_of(1, 14, 10)
    params = shapes_of(model, (14, 10))

    def loss(params):
        return (model.apply({"params": params}, images) ** 2).sum()

    text = jax.jit(jax.value_and_grad(loss)).lower(params).as_text()
    assert "dot_general" in text and not any(word in text for word in ("gather", "scatter"))
