import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn import draw

import vision_jax as vj
from vision_jax.errors import ConfigError
from vision_jax.models import MAE, ModifiedResNet, ResNet, Swin, ViT, layers, stack_blocks
from vision_jax.models.swin import SwinBlock
from vision_jax.models.text import TextTransformer
from vision_jax.models.window_attention import WindowAttention
from vision_jax.ops.windows import cyclic_shift, partition, unpartition, window_regions

SIZES = {"patch_size": 4, "width": 8, "depth": 2, "num_heads": 2, "mlp_dim": 12}
TEXT = {"text_width": 12, "text_depth": 2, "text_num_heads": 3, "vocab_size": 20, "context_length": 7, "embed_dim": 6}
SWIN = {"patch_size": 2, "width": 8, "depths": (2, 1), "num_heads": (1, 2), "window": 2}
IMAGES = np.random.default_rng(0).normal(size=(3, 16, 12, 3)).astype(np.float32)
TOKENS = np.array([[17, 3, 19, 0, 0, 0], [17, 19, 0, 0, 0, 0], [17, 1, 2, 3, 4, 19]], np.int32)
LARGE_IMAGES = np.zeros((3, 32, 64, 3), np.float32)

run = jax.jit(vj.intermediates, static_argnums=0, static_argnames="attention")


def clip(image=SIZES, name="clip_vit_b32", **fields):
    return vj.create_model(name, **{**TEXT, "image": image, **fields})


def vit_states(tokens, width=8, prefix="", heads=2):
    blocks = [
        item
        for i in range(2)
        for item in (
            (f"{prefix}blocks_{i}/attn", (3, heads, tokens, tokens)),
            (f"{prefix}blocks_{i}", (3, tokens, width)),
        )
    ]
    return [(f"{prefix}embed", (3, tokens, width)), *blocks, (f"{prefix}norm", (3, tokens, width))]


def resnet_states(channels, pool=None, prefix=""):
    states = [
        (f"{prefix}stages_0/units_0", (3, 8, 16, channels)),
        (f"{prefix}stages_0/units_1", (3, 8, 16, channels)),
        (f"{prefix}stages_1/units_0", (3, 4, 8, 2 * channels)),
    ]
    return states if pool is None else [*states, (f"{prefix}attn_pool/attn", (3, pool, 1, 33))]


TEXT_STATES = vit_states(6, 12, "text/", heads=3)
SWIN_STATES = [
    ("embed", (3, 8, 6, 8)),
    ("stages_0/blocks_0/attn", (3, 12, 1, 4, 4)),
    ("stages_0/blocks_0", (3, 8, 6, 8)),
    ("stages_0/blocks_1/attn", (3, 12, 1, 4, 4)),
    ("stages_0/blocks_1", (3, 8, 6, 8)),
    ("stages_0/downsample", (3, 4, 3, 16)),
    ("stages_1/blocks_0/attn", (3, 4, 2, 4, 4)),  # of the map padded to whole windows
    ("stages_1/blocks_0", (3, 4, 3, 16)),
    ("norm", (3, 4, 3, 16)),
]
RESNET = {"blocks": (2, 1), "width": 4}
FAMILIES = {
    "vit": (ViT(5, **SIZES), (IMAGES,), vit_states(13)),
    "vit, normalised after pooling": (
        ViT(5, **SIZES, pool="gap", norm_pooled=True, head_batch_norm=True),
        (IMAGES,),
        vit_states(12)[:-1],
    ),
    "vit, pooled by attention": (
        ViT(5, **SIZES, pool="map", num_registers=2, posemb="relative", scan=True),
        (IMAGES,),
        [*vit_states(14), ("map_head/attn", (3, 2, 1, 14))],
    ),
    "hybrid": (
        ViT(5, **{**SIZES, "patch_size": 1}, stem=(1,)),
        (IMAGES,),
        [("backbone/stages_0/units_0", (3, 4, 3, 256)), *vit_states(13)],
    ),
    "swin": (Swin(5, **SWIN), (IMAGES,), SWIN_STATES),
    "swin, pyramid": (Swin(**SWIN, version=2, features_only=True, scan=True), (IMAGES,), SWIN_STATES[:-1]),
    "mae": (MAE(**SIZES, decoder_width=8, decoder_depth=1, decoder_num_heads=1), (IMAGES,), vit_states(13)),
    "resnet": (ResNet(5, (2, 1), 32), (LARGE_IMAGES,), resnet_states(128)),
    "modified resnet": (ModifiedResNet(5, **RESNET), (LARGE_IMAGES,), resnet_states(16, 1)),
    "clip": (clip(), (IMAGES, TOKENS), vit_states(13, prefix="image/") + TEXT_STATES),
    "clip, resnet": (
        clip(RESNET, "clip_rn50", scan=True, remat="full"),
        (LARGE_IMAGES, TOKENS),
        resnet_states(16, 1, "image/") + TEXT_STATES,
    ),
    "clip, swin": (
        clip(SWIN, image_tower="swin"),
        (IMAGES, TOKENS),
        [(f"image/{name}", shape) for name, shape in SWIN_STATES] + TEXT_STATES,
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_names_shapes_and_order(family):
    model, inputs, expected = FAMILIES[family]
    rngs = {"params": jax.random.key(0), "masking": jax.random.key(1)}
    variables = jax.eval_shape(model.init, rngs, *inputs)

    def shapes(*inputs, **options):
        states = jax.eval_shape(functools.partial(vj.intermediates, half, **options), variables, *inputs)
        for name, x in states.items():
            assert x.dtype == (jnp.float32 if name.endswith("attn") else jnp.bfloat16), name
        return [(name, x.shape) for name, x in states.items()]

    half = model.clone(dtype=jnp.bfloat16)
    assert shapes(*inputs, attention=True) == expected
    assert shapes(*inputs) == [item for item in expected if not item[0].endswith("attn")]
    if len(inputs) == 2:
        assert shapes(inputs[0], attention=True) == [item for item in expected if item[0].startswith("image/")]


@pytest.mark.parametrize(
    ("model", "scanned", "inputs"),
    [
        (ViT(5, **SIZES), {"remat": "dots"}, (IMAGES,)),
        (Swin(5, **SWIN), {"remat": "full"}, (IMAGES,)),
        (clip(), {"image": {**clip().image, "scan": True, "remat": "full"}}, (IMAGES, TOKENS)),
        (clip(), {"image": {**clip().image, "scan": False}, "remat": "full"}, (IMAGES, TOKENS)),
    ],
)
def test_scanned_models_give_the_same(model, scanned, inputs):
    variables = draw(model, *inputs)
    params = stack_blocks(variables["params"])
    scanned = model.clone(scan=True, **scanned)
    layout = jax.eval_shape(scanned.init, jax.random.key(0), *inputs)["params"]
    if "blocks_0" in layout.get("image", {}):
        params["image"] = variables["params"]["image"]
    chex.assert_trees_all_equal_shapes(params, layout)
    states = [run(model, variables, *inputs, attention=True), run(scanned, {"params": params}, *inputs, attention=True)]
    assert list(states[0]) == list(states[1])
    chex.assert_trees_all_close(*states, rtol=1e-6, atol=1e-6)


def test_hidden_states_lead_to_the_outputs():
    """Every state, by the rest of the model alone, gives what the whole model gives."""
    model = ViT(5, **SIZES, pool="map", pre_norm=True, layer_scale_init=0.5)
    variables = draw(model, IMAGES)
    states = run(model, variables, IMAGES)

    @jax.jit
    def ways(variables, states):
        bound = model.bind(variables)
        block = layers.Block(**bound.transformer.block)
        x = states["blocks_0"]
        assert set(states) == {"embed", "blocks_0", "blocks_1", "norm"}
        following = block.apply({"params": variables["params"]["blocks_1"]}, x)
        return (
            (states["embed"], bound.embed(IMAGES)),
            (states["blocks_1"], following),
            (states["norm"], bound.norm(states["blocks_1"])),
            (bound.head(bound.pool_tokens(states["norm"])), model.apply(variables, IMAGES)),
        )

    for got, expected in ways(variables, states):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_the_last_states_are_what_gives_the_features():
    models = {
        "mae": FAMILIES["mae"][0].clone(pool="gap"),
        "swin": Swin(5, **SWIN),
        "resnet": ResNet(5, (1, 1), 32),
        "clip": clip(),
    }
    variables = {name: draw(models[name], IMAGES) for name in ("swin", "resnet")}
    variables["clip"] = draw(models["clip"], IMAGES, TOKENS)
    variables["mae"] = draw(ViT(**SIZES, posemb="sincos2d", num_classes=0), IMAGES)  # whose encoder alone serves

    @jax.jit
    def both(variables):
        states = {name: vj.intermediates(models[name], variables[name], IMAGES) for name in ("mae", "swin", "resnet")}
        states["clip"] = vj.intermediates(models["clip"], variables["clip"], IMAGES, TOKENS)
        text = TextTransformer.__call__(models["clip"].bind(variables["clip"]).text_model, TOKENS)
        return states, {name: vj.encode(models[name], variables[name], IMAGES) for name in states}, text

    states, features, text = both(variables)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
    close(states["mae"]["norm"][:, 1:].mean(1), features["mae"])
    close(states["swin"]["norm"].mean((1, 2)), features["swin"])
    close(states["resnet"]["stages_1/units_0"].mean((1, 2)), features["resnet"])
    close(states["clip"]["image/norm"][:, 0], features["clip"])
    close(states["clip"]["text/norm"][np.arange(3), [2, 1, 5]], text)


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def heads_of(layer, x, heads):
    """[..., heads, N, d] of tokens [..., N, D], by numpy."""
    x = x @ layer["kernel"] + layer.get("bias", 0)
    return x.reshape(*x.shape[:-1], heads, -1).swapaxes(-3, -2)


def out_of(layer, maps, values):
    x = (maps @ values).swapaxes(-3, -2)
    return x.reshape(*x.shape[:-2], -1) @ layer["kernel"] + layer["bias"]


@pytest.mark.parametrize("tower", ["image", "text"])
def test_maps_are_the_softmax_of_queries_and_keys(tower):
    model = clip()
    variables = draw(model, IMAGES, TOKENS)
    heads, params = {"image": 2, "text": 3}[tower], variables["params"][tower]["blocks_1"]
    params["attn"]["query"]["kernel"] *= 20  # so that weights differ
    states = run(model, variables, IMAGES, TOKENS, attention=True)
    before, after = (np.asarray(states[f"{tower}/blocks_{i}"], np.float64) for i in range(2))

    def norm(layer, x):
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * layer["scale"] + layer["bias"]

    attn, x = params["attn"], norm(params["norm1"], before)
    q, k, v = (heads_of(attn[name], x, heads) for name in ("query", "key", "value"))
    logits = q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1])
    later = np.triu(np.ones(logits.shape[-2:], bool), 1)
    if tower == "text":
        logits = np.where(later, -np.inf, logits)
    maps = np.asarray(states[f"{tower}/blocks_1/attn"])
    np.testing.assert_allclose(maps, softmax(logits), atol=1e-5)
    np.testing.assert_allclose(maps.sum(-1), 1, atol=1e-5)
    assert (maps[..., later] == 0).all() == (tower == "text") and maps.std(-1).max() > 0.05
    y = before + out_of(attn["out"], maps, v)
    hidden = norm(params["norm2"], y) @ params["mlp"]["fc1"]["kernel"] + params["mlp"]["fc1"]["bias"]
    hidden = hidden / (1 + np.exp(-1.702 * hidden))
    y = y + hidden @ params["mlp"]["fc2"]["kernel"] + params["mlp"]["fc2"]["bias"]
    np.testing.assert_allclose(y, after, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("version", [1, 2])
def test_maps_of_shifted_windows(version):
    """Their product with the values, back in its place on the map, is what the layer gives."""
    model = Swin(5, **SWIN | {"depths": (2,), "num_heads": (2,), "window": 3}, version=version)
    variables = draw(model, IMAGES)
    states = run(model, variables, IMAGES, attention=True)
    params = variables["params"]["stages_0"]["blocks_1"]["attn"]
    x = np.asarray(states["stages_0/blocks_0"])
    layer = WindowAttention(**model.block(0)["attention"], shifted=True)
    expected, kept = jax.jit(lambda x: layer.apply({"params": params}, x, mutable=["attention"]))(x)
    maps = np.asarray(kept["attention"]["weights"])
    assert maps.shape == (3, 6, 2, 9, 9) == states["stages_0/blocks_1/attn"].shape
    padded = np.pad(x, [(0, 0), (0, 1), (0, 0), (0, 0)])  # 8 x 6 to whole windows
    values = heads_of(params["value"], np.asarray(partition(cyclic_shift(padded, (1, 1)), (3, 3))), 2)
    got = cyclic_shift(unpartition(jnp.asarray(out_of(params["out"], maps, values)), (9, 6), (3, 3)), (-1, -1))
    np.testing.assert_allclose(got[:, :8], expected, rtol=1e-4, atol=1e-4)
    if version == 2:  # the branch begins with the attention itself, whose maps are then those of the whole model
        np.testing.assert_allclose(states["stages_0/blocks_1/attn"], maps, atol=1e-5)
    regions = window_regions((8, 6), (3, 3), (1, 1))
    apart = regions[:, :, None] != regions[:, None, :]
    whole = np.asarray(states["stages_0/blocks_1/attn"]).swapaxes(1, 2)
    assert apart.any() and (whole[:, :, apart] < 1e-12).all() and (whole[:, :, ~apart] > 1e-12).all()
    np.testing.assert_allclose(whole.sum(-1), 1, atol=1e-5)


def test_nothing_is_kept_that_nobody_asks_for(monkeypatch):
    """Neither in `init` nor in `apply`; a scanned model, whose maps have no place, keeps none either."""
    block = SwinBlock(12, Swin(5, **SWIN).block(0)["attention"], shifted=True)
    vit, maps = ViT(5, **SIZES), np.ones((1, 4, 4, 8), np.float32)
    weights, asked = layers.attention_weights, []
    monkeypatch.setattr(
        layers, "attention_weights", lambda *args, **options: asked.append(1) or weights(*args, **options)
    )
    variables = jax.eval_shape(vit.init, jax.random.key(0), IMAGES)
    assert set(variables) == {"params"}
    assert set(jax.eval_shape(block.init, jax.random.key(0), maps)) == {"params"}
    train = {"train": True, "rngs": {"dropout": jax.random.key(0)}}
    _, kept = jax.eval_shape(lambda v: vit.apply(v, IMAGES, **train, mutable=["batch_stats"]), variables)
    assert not kept and not asked
    scanned = vit.clone(scan=True)
    _, kept = jax.eval_shape(
        lambda: scanned.apply(scanned.init(jax.random.key(0), IMAGES), IMAGES, mutable=["attention"])
    )
    assert not kept and not asked
    _, kept = jax.eval_shape(lambda v: vit.apply(v, IMAGES, mutable=["attention"]), variables)
    assert kept["attention"]["blocks_1"]["attn"]["weights"].shape == (3, 2, 13, 13) and len(asked) == 2


def test_gradients_and_outputs_are_the_same_while_maps_are_kept():
    model = ViT(5, **SIZES, attention_dropout_rate=0.3)
    variables = draw(model, IMAGES)

    def loss(variables, mutable):
        rngs = {"dropout": jax.random.key(3)}
        out, _ = model.apply(variables, IMAGES, train=True, rngs=rngs, mutable=mutable)
        return (out**2).sum()

    with_maps, without = jax.jit(lambda v: [jax.value_and_grad(loss)(v, names) for names in (["attention"], [])])(
        variables
    )
    chex.assert_trees_all_close(with_maps, without, rtol=1e-6)


def test_deterministic_with_jit_and_without():
    model = ViT(5, **SIZES, dropout_rate=0.5, drop_path_rate=0.5)
    variables = draw(model, IMAGES)
    plain, compiled = (give(model, variables, IMAGES, attention=True) for give in (vj.intermediates, run))
    assert list(plain) == list(compiled)
    chex.assert_trees_all_close(plain, compiled, rtol=1e-5, atol=1e-5)
    headless = {"params": nn.FrozenDict({name: x for name, x in variables["params"].items() if name != "head"})}
    chex.assert_trees_all_equal(run(model, headless, IMAGES, attention=True), compiled)


def test_what_has_no_text_tower_takes_no_tokens():
    with pytest.raises(ConfigError, match=r"tokens.*ViT has no text tower"):
        vj.intermediates(ViT(5, **SIZES), {"params": {}}, IMAGES, TOKENS)
