import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import vision_jax as vj
from vision_jax.errors import ConfigError
from vision_jax.models import ViT, stack_blocks, unstack_blocks
from vision_jax.models.layers import Transformer, drop_path

TINY = {"num_classes": 5, "patch_size": 4, "width": 16, "depth": 2, "num_heads": 2, "mlp_dim": 24, "head_init": 0.3}
RATES = {"dropout_rate": 0.3, "attention_dropout_rate": 0.3, "drop_path_rate": 0.5}


def images_of(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(*shape, 3)), jnp.float32)


def tiny(**fields):
    return ViT(**{**TINY, **fields})


def init(model, images):
    """Variables with every parameter moved off its initial value, so that zeros hide nothing."""
    variables = jax.jit(model.init)(jax.random.key(0), images)
    leaves, tree = jax.tree.flatten(variables)
    rng = np.random.default_rng(0)
    return jax.tree.unflatten(tree, [x + 0.1 * rng.normal(size=x.shape).astype(x.dtype) for x in leaves])


def apply(model, variables, *args, **kwargs):
    """`model.apply`, compiled: eager application would compile every operation by itself."""
    return jax.jit(lambda variables: model.apply(variables, *args, **kwargs))(variables)


def loss_and_grads(model, params, images, **kwargs):
    def loss(params):
        logits = model.apply({"params": params}, images, **kwargs)
        return (logits**2).sum(), logits

    (_, logits), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    return logits, grads


@pytest.fixture(scope="module")
def plain():
    """The unrolled model, its parameters, and what it makes of some images."""
    images = images_of(2, 8, 12)
    params = init(tiny(), images)["params"]
    return images, params, loss_and_grads(tiny(), params, images)


@pytest.mark.parametrize("remat", ["none", "dots", "full"])
@pytest.mark.parametrize("scan", [False, True])
def test_scan_and_remat_change_neither_values_nor_gradients(plain, scan, remat):
    images, params, (logits, grads) = plain
    model = tiny(scan=scan, remat=remat)
    got, got_grads = loss_and_grads(model, stack_blocks(params) if scan else params, images)
    chex.assert_trees_all_close(got, logits, rtol=1e-5, atol=1e-5)
    chex.assert_trees_all_close(unstack_blocks(got_grads), grads, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("remat", ["dots", "full"])
def test_remat_recomputes_the_same_dropout(plain, remat):
    images, params, _ = plain
    rates, kwargs = {"depth": 1, "dropout_rate": 0.3}, {"train": True, "rngs": {"dropout": jax.random.key(1)}}
    expected = loss_and_grads(tiny(**rates), params, images, **kwargs)
    got = loss_and_grads(tiny(remat=remat, **rates), params, images, **kwargs)
    chex.assert_trees_all_close(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("remat", ["dots", "full"])
def test_remat_saves_less(plain, remat):
    images, params, _ = plain

    def saved(model):
        def loss(params):
            return (model.apply({"params": params}, images) ** 2).sum()

        _, back = jax.eval_shape(lambda params: jax.vjp(loss, params), params)
        return sum(leaf.size for leaf in jax.tree.leaves(back))

    assert saved(tiny(remat=remat)) < 0.8 * saved(tiny())


@pytest.mark.parametrize("scan", [False, True])
def test_train_draws_and_evaluation_needs_no_key(scan):
    images = images_of(4, 8, 8)
    model = tiny(scan=scan, **RATES)
    variables = init(model, images)
    exact = apply(model, variables, images)
    np.testing.assert_allclose(exact, apply(tiny(scan=scan), variables, images), rtol=1e-6)
    train = jax.jit(lambda key: model.apply(variables, images, train=True, rngs={"dropout": key}))
    first, again, other = (train(jax.random.key(i)) for i in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other) and not np.allclose(first, exact)
    with pytest.raises(Exception, match="dropout"):
        jax.eval_shape(lambda: model.apply(variables, images, train=True))


def test_drop_path_is_per_sample_and_keeps_the_expectation():
    x = jnp.ones((20_000, 2, 3))
    out = np.asarray(drop_path(x, 0.3, jax.random.key(0)))
    assert (out == out[:, :1, :1]).all()
    np.testing.assert_allclose(np.unique(out), [0, 1 / 0.7], rtol=1e-6)
    np.testing.assert_allclose(out.mean(), 1, atol=0.02)


@pytest.mark.parametrize("scan", [False, True])
def test_drop_path_grows_linearly_and_draws_for_each_branch(scan):
    """Each branch adds its own power of 10 to the stream: from the sum it can be read which were kept."""
    depth, samples = 3, 4000
    block = {"num_heads": 1, "mlp_dim": 2, "layer_scale_init": 1.0}
    model = Transformer(depth, block, drop_path_rate=0.8, scan=scan)
    x = jnp.zeros((samples, 1, 1))
    params = jax.jit(lambda: unstack_blocks(model.init(jax.random.key(0), x[:1])["params"]))()
    params = jax.tree.map(jnp.zeros_like, params)
    keep = 1 - np.linspace(0, 0.8, depth)
    for i in range(depth):
        for branch, (output, scale) in enumerate(((("attn", "out"), "ls1"), (("mlp", "fc2"), "ls2"))):
            params[f"blocks_{i}"][output[0]][output[1]]["bias"] = jnp.ones(1)
            params[f"blocks_{i}"][scale] = jnp.full(1, keep[i] * 2.0 ** (2 * i + branch))
    params = stack_blocks(params) if scan else params
    total = jax.jit(lambda p: model.apply({"params": p}, x, train=True, rngs={"dropout": jax.random.key(1)}))(params)
    bits = (np.rint(np.asarray(total))[:, 0, 0].astype(int)[:, None] >> np.arange(2 * depth)) & 1
    np.testing.assert_allclose(bits.mean(0), np.repeat(keep, 2), atol=0.04)
    assert np.abs(np.corrcoef(bits[:, 2:].T) - np.eye(4)).max() < 0.08


POSITIONS = {  # grid of 2 x 3 patches, width 16, with cls
    "none": {},
    "learn_1d": {"pos_embed": (1, 7, 16)},
    "learn_2d": {"pos_embed_x": (3, 8), "pos_embed_y": (2, 8)},
    "sincos2d": {},
    "sincos2d_bv": {},
    "relative": {"rel_embed": (11, 8)},
}


def test_every_kind_of_positions_runs_differs_and_has_its_parameters():
    images = images_of(2, 8, 12)
    pooling = {"depth": 1, "pool": "gap", "cls_token": True}  # the class token alone would see no relative positions
    base = init(tiny(posemb="none", **pooling), images)["params"]
    outputs = []
    for kind, shapes in POSITIONS.items():
        model = tiny(posemb=kind, **pooling)
        params = init(model, images)["params"]
        own = params["blocks_0"]["attn"] if kind == "relative" else params
        assert {name: own[name].shape for name in own if "embed" in name and name != "patch_embed"} == shapes
        shared = {name: value for name, value in base.items() if name != "blocks_0"}
        attn = {**jax.tree.map(lambda x: 10 * x, params["blocks_0"]["attn"]), **base["blocks_0"]["attn"]}
        params = {**params, **shared, "blocks_0": {**base["blocks_0"], "attn": attn}}
        outputs.append(np.asarray(apply(model, {"params": params}, images)))
    for i, one in enumerate(outputs):
        assert all(np.abs(one - other).max() > 1e-3 for other in outputs[:i])


def test_two_tables_stand_for_columns_and_rows():
    model = tiny(depth=1, posemb="learn_2d", pool="gap")
    images = images_of(1, 8, 12)
    variables = init(model, images)
    params = variables["params"]
    tokens = np.asarray(apply(model, variables, images, method=ViT.embed))[0]
    patches = np.asarray(apply(tiny(depth=1, posemb="none", pool="gap"), variables, images, method=ViT.embed))[0]
    for row, column in np.ndindex(2, 3):
        expected = np.concatenate([params["pos_embed_x"][column], params["pos_embed_y"][row]])
        np.testing.assert_allclose(tokens[row * 3 + column] - patches[row * 3 + column], expected, atol=1e-5)


def test_relative_logits_by_hand():
    """Query times embedding of p_q - p_k for patches; none for the class token."""
    from vision_jax.models.layers import Attention

    x = images_of(1, 4)[..., :1].repeat(4, -1) * jnp.arange(1.0, 5)
    model = Attention(1, relative=True, num_prefix=1)
    params = init(model, x)["params"]
    q, k, v = (x[0] @ params[name]["kernel"] + params[name]["bias"] for name in ("query", "key", "value"))
    logits = np.array(q @ k.T)
    for a, b in np.ndindex(3, 3):
        logits[a + 1, b + 1] += q[a + 1] @ params["rel_embed"][a - b + 2]
    expected = jax.nn.softmax(logits / 2) @ v @ params["out"]["kernel"] + params["out"]["bias"]
    np.testing.assert_allclose(apply(model, {"params": params}, x)[0], expected, rtol=1e-4, atol=1e-4)


def test_pooling_and_heads():
    images = images_of(2, 8, 12)
    shapes = {"token": (2, 16), "gap": (2, 16), "map": (2, 16), "none": (2, 8, 16)}
    for pool, shape in shapes.items():
        model = tiny(depth=1, num_classes=0, pool=pool, cls_token=True, num_registers=1)
        out, variables = jax.jit(model.init_with_output)(jax.random.key(0), images)
        chex.assert_shape(out, shape)
        tokens = apply(model, variables, images, method=lambda m, x: m.apply_blocks(m.embed(x)))
        expected = {"token": tokens[:, 0], "gap": tokens[:, 2:].mean(1), "none": tokens}
        if pool in expected:
            np.testing.assert_allclose(out, expected[pool], atol=1e-5)
    assert "cls_token" not in init(tiny(depth=1, pool="gap"), images)["params"]
    model = tiny(depth=1, representation_size=7, num_classes=0)
    variables = init(model, images)
    features = apply(tiny(depth=1, num_classes=0), variables, images)
    layer = variables["params"]["pre_logits"]
    np.testing.assert_allclose(
        apply(model, variables, images), np.tanh(features @ layer["kernel"] + layer["bias"]), atol=1e-5
    )


def test_official_initial_values():
    model = ViT(10, 8, 256, 1, 4, 512, head_bias_init=-10.0)
    params = jax.jit(model.init)(jax.random.key(0), images_of(1, 64, 64))["params"]
    assert (
        not params["cls_token"].any() and not params["head"]["kernel"].any() and (params["head"]["bias"] == -10).all()
    )
    np.testing.assert_allclose(params["pos_embed"].std(), 0.02, rtol=0.05)
    np.testing.assert_allclose(params["patch_embed"]["kernel"].std(), (1 / (8 * 8 * 3)) ** 0.5, rtol=0.05)
    block = params["blocks_0"]
    for name, layer in block["attn"].items():
        bound = (6 / (256 + 256)) ** 0.5
        assert 0.98 * bound < np.abs(layer["kernel"]).max() <= bound, name
        assert not layer["bias"].any()
    bound = (6 / (256 + 512)) ** 0.5
    for layer in block["mlp"].values():
        assert 0.98 * bound < np.abs(layer["kernel"]).max() <= bound
        np.testing.assert_allclose(layer["bias"].std(), 1e-6, rtol=0.2)


def test_layers_of_a_stack_start_differently():
    params = jax.jit(tiny(scan=True).init)(jax.random.key(0), images_of(1, 8, 8))["params"]
    kernel = params["blocks"]["attn"]["query"]["kernel"]
    chex.assert_shape(kernel, (2, 16, 16))
    assert not np.allclose(kernel[0], kernel[1])


@pytest.mark.parametrize("fields", [{}, {"scan": True, "remat": "dots", "posemb": "relative"}])
def test_bfloat16_keeps_float32_parameters_and_logits(fields):
    images = images_of(2, 8, 8)
    model = tiny(dtype=jnp.bfloat16, **fields)
    variables = init(model, images)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    logits, grads = loss_and_grads(model, variables["params"], images)
    chex.assert_type(logits, jnp.float32)
    assert {leaf.dtype for leaf in jax.tree.leaves(grads)} == {jnp.dtype("float32")}
    exact = apply(tiny(**fields), variables, images)
    assert 0 < np.abs(logits - exact).max() < 0.1 * np.abs(exact).max()
    assert apply(model, variables, images, method=ViT.embed).dtype == jnp.bfloat16


def test_the_blocks_take_any_subset_of_patches():
    """As MAE encodes what it did not mask: the tokens left out are as if they were never there."""
    images = images_of(1, 8, 8)
    model = tiny()
    variables = init(model, images)

    def encode(m, images, keep):
        patches, cls_position = m.embed_patches(images)
        return m.apply_blocks(m.add_prefix(patches[:, keep], cls_position))

    everything = apply(model, variables, images, np.arange(4), method=encode)
    np.testing.assert_allclose(
        everything, apply(model, variables, images, method=lambda m, x: m.apply_blocks(m.embed(x))), atol=1e-5
    )
    shuffled = apply(model, variables, images, np.array([2, 0, 3, 1]), method=encode)
    np.testing.assert_allclose(shuffled[:, 1:], everything[:, 1:][:, [2, 0, 3, 1]], atol=1e-5)
    chex.assert_shape(apply(model, variables, images, np.array([3]), method=encode), (1, 2, 16))


def test_a_causal_mask_hides_what_comes_later():
    model = Transformer(2, {"num_heads": 2, "mlp_dim": 8})
    x = images_of(1, 5).repeat(4, -1)[..., :8]
    variables = model.init(jax.random.key(0), x)
    mask = np.tri(5, dtype=bool)
    out = apply(model, variables, x, mask)
    changed = apply(model, variables, x.at[:, 3:].add(jnp.arange(8.0)), mask)
    np.testing.assert_allclose(changed[:, :3], out[:, :3], atol=1e-6)
    assert np.abs(changed[:, 3] - out[:, 3]).max() > 0.1


@pytest.mark.parametrize("posemb", ["learn_1d", "learn_2d", "sincos2d"])
@pytest.mark.parametrize("stem", [None, (1,)])
def test_resized_parameters_fit_the_new_size(posemb, stem):
    model = tiny(depth=1, posemb=posemb, patch_size=2, stem=stem)
    shapes = {}
    for size in ((16, 24), (32, 16)):
        images = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
        shapes[size] = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    params = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), shapes[16, 24])
    resized = model.resize_params(params, (16, 24), (32, 16))
    chex.assert_trees_all_equal_shapes_and_dtypes(resized, shapes[32, 16])
    chex.assert_trees_all_close(resized, jax.tree.map(np.ones_like, resized))


def test_relative_positions_do_not_resize():
    with pytest.raises(ConfigError, match="relative"):
        tiny(posemb="relative").resize_params({}, (8, 8), (16, 8))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"pool": "tokens"}, ["pool", "'tokens'", "'token'"]),
        ({"posemb": "learn1d"}, ["posemb", "learn_1d"]),
        ({"act": "gelu_tan"}, ["act", "gelu_tanh"]),
        ({"remat": "dot"}, ["remat", "dots"]),
        ({"attention_impl": "flash"}, ["attention_impl", "flash", "xla"]),
        ({"head_init": "zero"}, ["head_init", "zeros"]),
        ({"width": 18, "num_heads": 4}, ["width", "18", "4"]),
        ({"cls_token": False}, ["token", "cls_token"]),
        ({"width": 18, "num_heads": 2, "posemb": "sincos2d"}, ["18", "sincos2d"]),
    ],
)
def test_values_that_cannot_work_are_named(fields, words):
    with pytest.raises(ConfigError) as error:
        vj.create_model("vit_ti16", **{**TINY, **fields})
    assert all(word in str(error.value) for word in words)


def test_images_that_the_patches_do_not_divide():
    with pytest.raises(ConfigError, match=r"10x8.*4x4"):
        jax.eval_shape(tiny().init, jax.random.key(0), images_of(1, 10, 8))


def test_an_nnx_user_can_train_it():
    images, labels = images_of(8, 8, 8), jnp.arange(8) % 5
    model = nnx.bridge.ToNNX(tiny(dropout_rate=0.1), rngs=nnx.Rngs(0, dropout=1)).lazy_init(images)
    optimizer = nnx.Optimizer(model, optax.adam(3e-3), wrt=nnx.Param)

    def loss(model):
        logits = model(images, train=True)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    @nnx.jit
    def step(model, optimizer):
        value, grads = nnx.value_and_grad(loss)(model)
        optimizer.update(model, grads)
        return value

    losses = [float(step(model, optimizer)) for _ in range(10)]
    assert losses[-1] < 0.7 * losses[0]
