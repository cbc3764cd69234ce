import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn import draw, flat

import vision_jax as vj
from vision_jax.errors import ConfigError
from vision_jax.models import CLIP, stack_blocks
from vision_jax.models.inference import encode
from vision_jax.models.text import TextTransformer

IMAGE = {"patch_size": 4, "width": 16, "depth": 1, "num_heads": 2, "mlp_dim": 32}
TEXT = {"text_width": 12, "text_depth": 1, "text_num_heads": 3, "vocab_size": 20, "context_length": 7, "embed_dim": 8}
RESNET = {"blocks": (1, 1), "width": 4}
IMAGES = np.random.default_rng(0).normal(size=(4, 8, 12, 3)).astype(np.float32)
LARGE_IMAGES = np.random.default_rng(0).normal(size=(4, 32, 64, 3)).astype(np.float32)
TOKENS = np.array(
    [[17, 3, 19, 0, 0, 0, 0], [17, 19, 0, 0, 0, 0, 0], [17, 1, 2, 3, 4, 5, 19], [17, 18, 2, 18, 19, 0, 0]], np.int32
)


def tiny(name="clip_vit_b32", image=IMAGE, **fields):
    return vj.create_model(name, **{**TEXT, "image": image, **fields})


def tiny_resnet(**fields):
    return tiny("clip_rn50", **{"image": RESNET, **fields})


def test_what_comes_back():
    model = tiny()
    variables = draw(model, IMAGES, TOKENS)

    @jax.jit
    def run(variables):
        image = model.apply(variables, IMAGES, method=CLIP.encode_image)
        text = model.apply(variables, TOKENS, method=CLIP.encode_text)
        return model.apply(variables, IMAGES, TOKENS), (image, text), encode(model, variables, IMAGES)

    (images, texts, scale), plain, features = run(variables)
    chex.assert_shape([images, texts], (4, 8))
    chex.assert_type([images, texts, scale], jnp.float32)
    np.testing.assert_allclose(scale, np.exp(variables["params"]["logit_scale"]), rtol=1e-6)
    for unit, any_length in zip((images, texts), plain, strict=True):
        length = np.linalg.norm(any_length, axis=-1, keepdims=True)
        assert (np.abs(length - 1) > 1e-3).all()
        np.testing.assert_allclose(unit, any_length / length, atol=1e-6)
    kernel = variables["params"]["image_projection"]["kernel"]
    np.testing.assert_allclose(features @ kernel, plain[0], rtol=1e-5, atol=1e-5)


def test_bfloat16_keeps_float32_where_it_matters():
    model, half = tiny(), tiny(dtype=jnp.bfloat16)
    variables = draw(half, IMAGES, TOKENS)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    outputs = jax.jit(half.apply)(variables, IMAGES, TOKENS)
    chex.assert_type(outputs, jnp.float32)
    exact = jax.jit(model.apply)(variables, IMAGES, TOKENS)
    assert 0 < np.abs(outputs[0] - exact[0]).max() < 0.05
    assert 0 < np.abs(outputs[1] - exact[1]).max() < 0.05


def text_tower(**fields):
    tower = TextTransformer(vocab_size=20, context_length=7, width=12, depth=2, num_heads=3, **fields)
    return tower, draw(tower, TOKENS)


def test_a_later_token_never_changes_an_earlier_reading():
    tower, variables = text_tower()
    run = jax.jit(lambda tokens: tower.apply(variables, tokens, method=TextTransformer.apply_blocks))
    before = run(TOKENS)
    for place in range(1, 7):
        changed = TOKENS.copy()
        changed[:, place] = (changed[:, place] + 5) % 20
        after = run(changed)
        np.testing.assert_array_equal(after[:, :place], before[:, :place])
        assert (np.abs(after[:, place:] - before[:, place:]).max((1, 2)) > 1e-4).all()
    open_tower, _ = text_tower(causal=False)
    changed = TOKENS.copy()
    changed[:, -1] = 7
    run = jax.jit(lambda tokens: open_tower.apply(variables, tokens, method=TextTransformer.apply_blocks))
    got = [run(tokens)[:, 0] for tokens in (TOKENS, changed)]
    assert (np.abs(got[0] - got[1]).max(-1) > 1e-4).all()


def test_the_end_token_is_read():
    tower, variables = text_tower()
    last, _ = text_tower(pool="last")
    repeated = TOKENS.copy()
    repeated[0, 4] = 19  # the first of several largest ids counts

    @jax.jit
    def run(variables):
        everywhere = tower.apply(variables, TOKENS, method=TextTransformer.apply_blocks)
        return everywhere, *(one.apply(variables, x) for one, x in ((tower, TOKENS), (last, TOKENS), (tower, repeated)))

    everywhere, got, at_last, again = run(variables)
    np.testing.assert_allclose(got, everywhere[np.arange(4), [2, 1, 6, 4]], rtol=1e-6)
    np.testing.assert_allclose(at_last, everywhere[:, -1], rtol=1e-6)
    np.testing.assert_allclose(again, got, rtol=1e-6)
    assert np.abs(got - at_last)[[0, 1, 3]].max(-1).min() > 1e-3


def test_texts_may_be_shorter_but_not_longer():
    tower, variables = text_tower()
    run = jax.jit(tower.apply)
    np.testing.assert_allclose(run(variables, TOKENS[:2, :4]), run(variables, TOKENS[:2]), rtol=1e-5, atol=1e-6)
    with pytest.raises(ConfigError, match=r"8 tokens.*context_length.*7"):
        tower.apply(variables, np.zeros((1, 8), np.int32))
    assert np.isnan(run(variables, np.full((2, 7), 20))).all()  # an id past the vocabulary


def test_initial_standard_deviations():
    """Those of openai/CLIP, clip/model.py, and torch's own uniform ones in the image tower."""
    image = {"patch_size": 16, "width": 128, "depth": 1, "num_heads": 2, "mlp_dim": 512}
    model = tiny(image=image, text_width=192, text_depth=2, vocab_size=900, context_length=60, embed_dim=96)
    inputs = np.zeros((1, 96, 96, 3), np.float32), np.zeros((1, 60), np.int32)
    params = flat(jax.jit(model.init)(jax.random.key(0), *inputs)["params"])

    def deviates(name, std):
        x = np.asarray(params[name])
        assert abs(x.mean()) < 4 * std / x.size**0.5, name
        np.testing.assert_allclose(x.std(), std, rtol=3.5 / x.size**0.5, err_msg=name)

    def uniform(name, bound):
        deviates(name, bound / 3**0.5)
        assert 0.9 * bound < np.abs(params[name]).max() <= bound, name

    width, residual = 192, (192 * 2 * 2) ** -0.5
    deviates("text/token_embedding", 0.02)
    deviates("text/pos_embed", 0.01)
    for block in ("text/blocks_0", "text/blocks_1"):
        for name in ("query", "key", "value"):
            deviates(f"{block}/attn/{name}/kernel", width**-0.5)
        deviates(f"{block}/attn/out/kernel", residual)
        deviates(f"{block}/mlp/fc1/kernel", (2 * width) ** -0.5)
        deviates(f"{block}/mlp/fc2/kernel", residual)
        uniform(f"{block}/mlp/fc1/bias", width**-0.5)
        assert not params[f"{block}/attn/query/bias"].any() and not params[f"{block}/attn/out/bias"].any()
    np.testing.assert_allclose(params["logit_scale"], np.log(1 / 0.07), rtol=1e-6)
    deviates("text_projection/kernel", width**-0.5)
    deviates("image_projection/kernel", 128**-0.5)

    deviates("image/cls_token", 128**-0.5)
    deviates("image/pos_embed", 128**-0.5)
    uniform("image/patch_embed/kernel", (3 * 16 * 16) ** -0.5)
    uniform("image/blocks_0/attn/query/kernel", (6 / (4 * 128)) ** 0.5)
    uniform("image/blocks_0/attn/out/kernel", 128**-0.5)
    uniform("image/blocks_0/mlp/fc1/kernel", 128**-0.5)
    uniform("image/blocks_0/mlp/fc2/kernel", 512**-0.5)
    uniform("image/blocks_0/mlp/fc2/bias", 512**-0.5)
    assert not params["image/blocks_0/attn/value/bias"].any() and "image/patch_embed/bias" not in params


def test_fields_of_the_image_tower_merge_with_the_registered_ones():
    image = vj.create_model("clip_vit_b32", image={"drop_path_rate": 0.5, "act": "gelu"}).image_module(parent=None)
    assert image.drop_path_rate == 0.5 and image.act == "gelu" and image.pre_norm and not image.patch_bias
    assert image.num_classes == 0 and image.patch_size == 32 and image.weight_init == "clip"
    image = vj.create_model("clip_rn50", image={"width": 32}, dtype=jnp.bfloat16).image_module(parent=None)
    assert image.blocks == (3, 4, 6, 3) and image.width == 32 and image.heads == 16 and image.dtype == jnp.bfloat16
    # A tower that is named begins with its own fields.
    model = vj.create_model("clip_vit_b16", image_tower="vit_b16", image={"pool": "gap"}, scan=True)
    image = model.image_module(parent=None)
    assert not image.pre_norm and image.act == "gelu_tanh" and image.pool == "gap" and image.scan
    again = vj.create_model("clip", **{field: getattr(model, field) for field in vj.models.model_fields("clip")})
    assert again == model and hash(again) == hash(model)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"image": {"dpeth": 3}}, ["vit_b32", "dpeth", "depth"]),
        ({"image": {"depth": "3"}}, ["depth", "int", "'3'"]),
        ({"image": {"num_classes": 3}}, ["image", "num_classes"]),
        ({"image": 3}, ["image", "Mapping", "3"]),
        ({"image": {"weight_init": "clop"}}, ["weight_init", "clop", "clip"]),
        ({"image_tower": "swin_t", "image": {"pre_norm": True}}, ["swin_t", "pre_norm"]),
        ({"image_tower": "vit_b17"}, ["vit_b17", "vit_b16"]),
        ({"image_tower": "mae_vit_b16"}, ["image_tower", "mae_vit_b16"]),
        ({"image_tower": "clip_rn50"}, ["image_tower", "clip_rn50"]),
        ({"text_width": 100}, ["text_width", "text_num_heads=8", "100"]),
        ({"text_act": "quickgelu"}, ["text_act", "quick_gelu"]),
        ({"text_pool": "cls"}, ["text_pool", "end", "last"]),
        ({"logit_bias_init": "-10"}, ["logit_bias_init", "float", "'-10'"]),
    ],
)
def test_wrong_fields_are_named(fields, words):
    with pytest.raises(ConfigError) as error:
        vj.create_model("clip_vit_b32", **fields)
    assert all(word in str(error.value) for word in words), error.value


SWIN = {"width": 8, "depths": (1, 1), "num_heads": (2, 2), "window": 2}


@pytest.mark.parametrize(
    ("tower", "image", "features"),
    [
        ("swin_t", SWIN, 16),
        ("resnet50", {"blocks": (1,), "width": 32}, 128),
        ("vit_b16", {**IMAGE, "cls_token": True, "posemb": "sincos2d", "weight_init": "mae", "act": "gelu"}, 16),
        ("modified_resnet", {"blocks": (1, 1), "width": 8}, 64),
    ],
)
def test_other_image_towers(tower, image, features):
    model = tiny(image_tower=tower, image=image)
    images = LARGE_IMAGES[:, :32, :32]
    variables = draw(model, images, TOKENS)
    chex.assert_shape(variables["params"]["image_projection"]["kernel"], (features, 8))
    assert "bias" not in variables["params"]["image_projection"]
    alone = vj.create_model(tower, **image)
    inside = {name: tree["image"] for name, tree in variables.items() if "image" in tree}
    expected = jax.jit(lambda: encode(alone, inside, images))()
    chex.assert_shape(expected, (4, features))
    np.testing.assert_allclose(jax.jit(lambda: encode(model, variables, images))(), expected, rtol=1e-5, atol=1e-5)


def test_towers_must_give_one_vector_an_image():
    for fields in (
        {"image": {**IMAGE, "pool": "none"}},
        {"image_tower": "swin_t", "image": {**SWIN, "features_only": True}},
    ):
        with pytest.raises(ConfigError, match="one vector"):
            jax.eval_shape(tiny(**fields).init, jax.random.key(0), IMAGES, TOKENS)


def test_dropped_paths_of_the_image_tower():
    model = tiny(image={**IMAGE, "depth": 2, "drop_path_rate": 0.6})
    variables = draw(model, IMAGES, TOKENS)
    apply = jax.jit(lambda key: model.apply(variables, IMAGES, TOKENS, train=True, rngs={"dropout": key}))
    one, same, other = (apply(jax.random.key(i)) for i in (0, 0, 1))
    chex.assert_trees_all_equal(one, same)
    assert np.abs(one[0] - other[0]).max() > 1e-3
    np.testing.assert_array_equal(one[1], other[1])


def test_scanned_and_recomputed_layers_give_the_same():
    fields = {"image": {**IMAGE, "depth": 2}, "text_depth": 2, "logit_bias_init": -10.0}
    plain, other = tiny(**fields), tiny(**fields, scan=True, remat="dots")
    params = draw(plain, IMAGES, TOKENS)["params"]
    chex.assert_shape(params["logit_bias"], ())
    stacked = stack_blocks(params)
    chex.assert_trees_all_equal_shapes(stacked, jax.eval_shape(other.init, jax.random.key(0), IMAGES, TOKENS)["params"])
    chex.assert_shape(stacked["image"]["blocks"]["mlp"]["fc1"]["kernel"], (2, 16, 32))
    chex.assert_shape(stacked["text"]["blocks"]["mlp"]["fc1"]["kernel"], (2, 12, 48))

    expected = jax.jit(plain.apply)({"params": params}, IMAGES, TOKENS)
    got = jax.jit(other.apply)({"params": stacked}, IMAGES, TOKENS)
    chex.assert_trees_all_close(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("model", [tiny(), tiny_resnet(), tiny(image_tower="swin_t", image=SWIN)])
def test_other_image_sizes(model):
    old, new = (32, 64), (96, 32)
    images = np.zeros((1, *new, 3), np.float32)
    params = draw(model, np.zeros((1, *old, 3), np.float32), TOKENS[:1])["params"]
    resized = model.resize_params(params, old, new)
    wanted = jax.eval_shape(model.init, jax.random.key(0), images, TOKENS[:1])["params"]
    chex.assert_trees_all_equal_shapes_and_dtypes(resized, wanted)
    chex.assert_trees_all_equal(model.resize_params(params, old, old), params)
    moved = {name for name, x in flat(params).items() if flat(resized)[name].shape != x.shape}
    assert moved <= {"image/pos_embed", "image/attn_pool/pos_embed"} and len(moved) == (
        0 if "swin" in model.image_tower else 1
    )
    for name in moved:  # cls, or the mean, keeps its position
        np.testing.assert_array_equal(flat(resized)[name][..., :1, :], flat(params)[name][..., :1, :])
