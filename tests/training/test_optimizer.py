import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vision_jax.config import base_config
from vision_jax.errors import ConfigError
from vision_jax.models.stacking import path_name
from vision_jax.training.optimizer import ema_update, make_optimizer
from vision_jax.training.schedules import make_schedule

STEPS = 20
RULES = ("adamw", "sgd", "lars", "lamb", "lion")


def config_with(**optimizer):
    config = base_config()
    config.batch_size = 1
    config.schedule = dict(base_lr=0.02, warmup="5 steps", warmup_lr=0.004, min_lr=1e-3)
    config.optimizer = optimizer
    return config


def unrolled_params(layers=2, seed=0):
    rng = np.random.default_rng(seed)

    def array(*shape):
        return rng.normal(size=shape).astype(np.float32)

    params = {"cls": array(1, 4), "head": {"kernel": array(4, 3), "bias": array(3)}}
    for i in range(layers):
        params[f"blocks_{i}"] = {"mlp": {"kernel": array(4, 4) * (i + 1), "bias": array(4)}}
    params["head"]["bias"][:] = 0  # a norm of zero
    return params


def gradients(params, steps=STEPS):
    """A gradient for each step, of very different norms; in one step all are zero."""
    rng = np.random.default_rng(1)

    def gradient(step):
        scale = 0.0 if step == 3 else 10.0 ** (step % 4 - 2)
        return jax.tree.map(lambda p: (rng.normal(size=p.shape) * scale).astype(np.float32), params)

    return [gradient(step) for step in range(steps)]


def stacked(params):
    """The same model with scanned layers."""
    names = sorted(name for name in params if name.startswith("blocks_"))
    rest = {name: value for name, value in params.items() if name not in names}
    return rest | {"blocks": jax.tree.map(lambda *layers: np.stack(layers), *(params[name] for name in names))}


def build(config, params):
    schedule = make_schedule(config, total_steps=STEPS, num_examples=STEPS)
    return make_optimizer(config, params, schedule), schedule


def trained(config, params, grads):
    """The parameters after every step, and the last state."""
    optimizer, _ = build(config, params)

    @jax.jit
    def step(params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    state, trajectory = optimizer.init(params), []
    for grad in grads:
        params, state = step(params, state, grad)
        trajectory.append(params)
    return trajectory, state


def flat(tree):
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


class Plain:
    """Every rule for one parameter, in float64 and as its paper or reference code has it."""

    def __init__(self, p, o, decays, lr_scale, peak):
        self.p, self.o, self.decays, self.lr_scale, self.peak = np.float64(p), o, decays, lr_scale, peak
        self.m = self.v = np.zeros_like(self.p)
        self.t = 0

    def adam(self, g):
        o = self.o
        self.t += 1
        self.m = o.b1 * self.m + (1 - o.b1) * g
        self.v = o.b2 * self.v + (1 - o.b2) * g * g
        return self.m / (1 - o.b1**self.t) / (np.sqrt(self.v / (1 - o.b2**self.t)) + o.eps)

    def ratio(self, update):
        p, u = np.linalg.norm(self.p), np.linalg.norm(update)
        return p / u if self.decays and p > 0 and u > 0 else 1.0

    def update(self, g, lr):
        o, step = self.o, lr * self.lr_scale
        wd = o.weight_decay if self.decays else 0.0
        inside, after = (wd * self.p, 0.0) if o.decay_times_lr else (0.0, lr / self.peak * wd * self.p)
        if o.name == "adamw":
            self.p = self.p - step * (self.adam(g) + inside) - after
        elif o.name == "sgd":
            d = g + inside
            self.m = o.momentum * self.m + d
            self.p = self.p - step * (d + o.momentum * self.m if o.nesterov else self.m) - after
        elif o.name == "lars":
            d = g + inside
            ratio = self.ratio(d)
            self.m = o.momentum * self.m + d * (ratio if ratio == 1.0 else o.trust_coefficient * ratio)
            self.p = self.p - step * self.m - after
        elif o.name == "lamb":
            d = self.adam(g) + inside
            self.p = self.p - step * self.ratio(d) * d - after
        elif o.name == "lion":
            direction = np.sign(o.b1 * self.m + (1 - o.b1) * g)
            self.m = o.b2 * self.m + (1 - o.b2) * g
            self.p = self.p - step * (direction + inside) - after


@pytest.mark.parametrize("decay_times_lr", [True, False])
@pytest.mark.parametrize("name", [*RULES, "nesterov"])
def test_trajectory_is_the_plain_rule_s(name, decay_times_lr):
    keys = {"name": "sgd", "nesterov": True} if name == "nesterov" else {"name": name}
    keys |= {"b2": 0.95, "weight_decay": 0.1, "lr_scale": (("head/.*", 3.0),), "trust_coefficient": 0.02}
    config = config_with(**keys, decay_times_lr=decay_times_lr)
    params = unrolled_params()
    grads = gradients(params)
    _, schedule = build(config, params)
    plain = {
        path: Plain(p, config.optimizer, path.endswith("kernel"), 3.0 if path.startswith("head") else 1.0, 0.02)
        for path, p in flat(params).items()
    }
    trajectory, _ = trained(config, params, grads)
    for step, (grad, actual) in enumerate(zip(grads, trajectory, strict=True)):
        for path, g in flat(grad).items():
            plain[path].update(np.float64(g), float(schedule(step)))
        for path, p in flat(actual).items():
            np.testing.assert_allclose(p, plain[path].p, rtol=2e-5, atol=2e-6, err_msg=f"{path} after step {step}")


@pytest.mark.parametrize("name", RULES)
def test_scanned_layers_train_as_unrolled_ones(name):
    params = unrolled_params(layers=3)
    grads = gradients(params)
    config = config_with(name=name, weight_decay=0.1, layer_decay=0.5, clip_norm=1.0)
    one, _ = trained(config, params, grads)
    other, _ = trained(config, stacked(params), [stacked(grad) for grad in grads])
    chex.assert_trees_all_close(stacked(one[-1]), other[-1], rtol=1e-5, atol=1e-7)
    assert np.max(np.abs(one[-1]["blocks_0"]["mlp"]["kernel"] - params["blocks_0"]["mlp"]["kernel"])) > 1e-4


@pytest.mark.parametrize("name", RULES)
def test_frozen_parameters_stay_bit_for_bit_and_have_no_state(name):
    params = unrolled_params()
    params["cls"][0, 0] = -0.0
    config = config_with(name=name, weight_decay=0.1, decay=".*", freeze=("blocks_0/.*", "cls"), decay_times_lr=False)
    grads = gradients(params)
    trajectory, state = trained(config, params, grads)
    optimizer, _ = build(config, params)
    once = jax.tree.map(np.add, params, optimizer.update(grads[0], optimizer.init(params), params)[0])
    for path in ("cls", "blocks_0/mlp/kernel", "blocks_0/mlp/bias"):
        assert np.asarray(flat(trajectory[-1])[path]).tobytes() == flat(params)[path].tobytes()
        assert flat(once)[path].tobytes() == flat(params)[path].tobytes()  # without a compiler that drops "+ 0"
        assert not any(name.endswith(path) for name in flat(state))
    assert not np.any(trajectory[-1]["blocks_1"]["mlp"]["kernel"] == params["blocks_1"]["mlp"]["kernel"])


@pytest.mark.parametrize("name", RULES)
def test_moments_carry_the_paths_shapes_and_dtype_of_their_parameters(name):
    params = unrolled_params()
    optimizer, _ = build(config_with(name=name, moment_dtype="bfloat16", weight_decay=0.1), params)
    state = flat(jax.eval_shape(optimizer.init, params))
    for path, p in flat(params).items():
        moments = {key: leaf for key, leaf in state.items() if key.endswith("/" + path)}
        assert len(moments) == (2 if name in ("adamw", "lamb") else 1)
        for key, leaf in moments.items():
            assert leaf.shape == p.shape
            assert leaf.dtype == (jnp.float32 if "/nu/" in key else jnp.bfloat16)
    assert all(leaf.shape == () for key, leaf in state.items() if not key.endswith(tuple(flat(params))))


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_bfloat16_moments_follow_float32_ones(name):
    params = unrolled_params()
    grads = gradients(params)
    full, _ = trained(config_with(name=name), params, grads)
    half, _ = trained(config_with(name=name, moment_dtype="bfloat16"), params, grads)
    moved = optax.tree.norm(jax.tree.map(lambda a, b: a - b, full[-1], params))
    apart = optax.tree.norm(jax.tree.map(lambda a, b: a - b, full[-1], half[-1]))
    assert 0 < apart < 0.02 * moved


def test_built_and_run_inside_jit_on_shapes_with_donation():
    params = unrolled_params()
    grads = gradients(params, 3)
    config = config_with(weight_decay=0.1, freeze="cls", clip_norm=1.0, layer_decay=0.9)
    shapes = jax.eval_shape(lambda: params)
    optimizer, _ = build(config, shapes)
    state = jax.jit(optimizer.init)(params)

    def step(params, state, grads):
        updates, state = build(config, params)[0].update(grads, state, params)
        return optax.apply_updates(params, updates), state

    step = jax.jit(chex.assert_max_traces(step, n=1), donate_argnums=(0, 1))
    current = jax.tree.map(jnp.array, params)
    for grad in grads:
        previous = state
        current, state = step(current, state, grad)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(previous))
    chex.assert_trees_all_close(current, trained(config, params, grads)[0][-1], rtol=1e-6)


def test_clip_counts_what_trains_only():
    params = unrolled_params()
    grads = jax.tree.map(np.ones_like, params)
    grads["cls"] = grads["cls"] * 1e9
    keys = {"name": "sgd", "momentum": 0.0, "freeze": "cls", "clip_norm": 0.5}
    optimizer, schedule = build(config_with(**keys), params)
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    assert float(optax.tree.norm(updates)) == pytest.approx(0.5 * float(schedule(0)), rel=1e-6)
    small = jax.tree.map(lambda g: g * 0.01, {**grads, "cls": params["cls"]})
    updates, _ = optimizer.update(small, optimizer.init(params), params)
    assert np.allclose(updates["head"]["kernel"], -0.01 * float(schedule(0)))


def test_first_update_of_a_warmup_from_zero_changes_nothing():
    params = unrolled_params()
    config = config_with(weight_decay=0.1)
    config.schedule.warmup_lr = 0.0
    trajectory, _ = trained(config, params, gradients(params, 2))
    chex.assert_trees_all_equal(trajectory[0], params)
    assert np.all(trajectory[1]["head"]["kernel"] != params["head"]["kernel"])


def test_big_vision_s_decay_is_adamw_s_at_the_peak():
    """AugReg's 1e-4 "not times lr" at a rate of 1e-3 is AdamW's 0.1."""
    params = unrolled_params()
    grads = gradients(params)
    ours, _ = trained(config_with(weight_decay=0.1), params, grads)
    theirs, _ = trained(config_with(weight_decay=0.1 * 0.02, decay_times_lr=False), params, grads)
    chex.assert_trees_all_close(ours, theirs, rtol=1e-5, atol=1e-7)


def test_ema_averages_with_a_growing_decay():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(30, 4))
    expected = average = {"w": jnp.zeros(4), "frozen": jnp.float32([0.1, -0.0])}
    expected = np.zeros(4)
    update = jax.jit(ema_update, static_argnums=2)
    for step, value in enumerate(values):
        decay = min(0.6, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
        average = update(average, {"w": jnp.float32(value), "frozen": average["frozen"]}, 0.6, step)
        np.testing.assert_allclose(average["w"], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(average["frozen"], np.float32([0.1, -0.0]))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"b2": 1.0}, r"'optimizer.b2' must lie in \[0, 1\), got 1.0"),
        ({"momentum": -0.1}, "'optimizer.momentum' must lie"),
        ({"weight_decay": -0.1}, "'optimizer.weight_decay' must not be negative, got -0.1"),
        ({"clip_norm": -1.0}, "'optimizer.clip_norm' must not be negative"),
        ({"freeze": "heads/.*"}, "'optimizer.freeze': 'heads/.*' matches no parameter"),
    ],
)
def test_bad_coefficients_name_the_key(keys, message):
    with pytest.raises(ConfigError, match=message):
        build(config_with(**keys), unrolled_params())


def signs(*, power: float = 1.0):
    """A rule of one's own."""
    return optax.stateless(lambda updates, _: jax.tree.map(lambda u: jnp.sign(u) * jnp.abs(u) ** power, updates))


def test_a_rule_of_one_s_own_gives_directions_and_the_rest_stays_ours():
    keys = {"weight_decay": 0.1, "clip_norm": 0.5, "freeze": "cls", "lr_scale": (("head/.*", 3.0),)}
    params = unrolled_params()
    grads, (_, schedule) = gradients(params), build(config_with(), params)
    for name, fields, rule in (
        ("optax:scale_by_radam", {"b1": 0.8}, optax.scale_by_radam(b1=0.8)),
        (f"{__name__}:signs", {"power": 0.5}, signs(power=0.5)),
    ):
        trajectory, _ = trained(config_with(name=name, **fields, **keys), params, grads)
        expected = flat(params)
        clip = optax.chain(optax.clip_by_global_norm(0.5), rule)
        state = clip.init({path: p for path, p in expected.items() if path != "cls"})
        for step, grad in enumerate(grads):
            moving = {path: g for path, g in flat(grad).items() if path != "cls"}
            directions, state = clip.update(moving, state)
            for path, direction in directions.items():
                decay = 0.1 * expected[path] if path.endswith("kernel") else 0.0
                scale = 3.0 if path.startswith("head") else 1.0
                expected[path] = expected[path] - float(schedule(step)) * scale * (direction + decay)
            for path, p in flat(trajectory[step]).items():
                np.testing.assert_allclose(p, expected[path], atol=1e-4, err_msg=f"{name} {path} {step}")


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"name": "optax:scale_by_radam", "b3": 0.9}, "scale_by_radam' has no field 'b3'; known: b1, b2"),
        ({"name": "optax:scale_by_radams"}, "has no 'scale_by_radams'; did you mean 'scale_by_radam'"),
        ({"name": "optax:global_norm"}, "global_norm"),
        ({"name": "vision_jax.config:base_config"}, "must return an optax.GradientTransformation, got Section"),
        ({"name": "nowhere.at_all:rule"}, "there is no module 'nowhere'"),
    ],
)
def test_what_is_no_rule_is_told(keys, said):
    with pytest.raises(ConfigError, match=said):
        build(config_with(**keys), unrolled_params())
