import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vision_jax.config import base_config
from vision_jax.errors import ConfigError
from vision_jax.training.schedules import make_schedule, peak_lr, stretches


def config_with(batch_size=10, **schedule):
    config = base_config()
    config.batch_size = batch_size
    config.schedule = schedule
    return config


def rates(total_steps, num_examples=1000, steps=None, **keys):
    schedule = make_schedule(config_with(**keys), total_steps=total_steps, num_examples=num_examples)
    return np.array(schedule(np.arange(total_steps + 1) if steps is None else steps))


def test_cosine_is_mae_s_at_every_iteration():
    """MAE sets the rate from the fractional epoch, data_iter_step / len(loader) + epoch (its util/lr_sched.py)."""
    epochs, warmup_epochs, steps_per_epoch, lr, min_lr = 5, 2, 100, 5e-4 * 10 / 256, 1e-6
    expected = []
    for i in range(epochs * steps_per_epoch):
        epoch = i / steps_per_epoch
        if epoch < warmup_epochs:
            expected.append(lr * epoch / warmup_epochs)
        else:
            share = (epoch - warmup_epochs) / (epochs - warmup_epochs)
            expected.append(min_lr + (lr - min_lr) * 0.5 * (1.0 + math.cos(math.pi * share)))
    actual = rates(500, base_lr=5e-4, per=256, warmup="2 epochs", min_lr=min_lr)
    np.testing.assert_allclose(actual[:-1], expected, rtol=1e-5, atol=1e-11)
    assert actual[0] == 0 and actual[500] == np.float32(min_lr) and actual[200] == np.float32(lr)


def test_cosine_with_warmup_lr_is_timm_s():
    """Swin's schedule: timm's CosineLRScheduler by the step, the cosine over the steps after the warm-up."""
    torch = pytest.importorskip("torch")
    scheduler = pytest.importorskip("timm.scheduler")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    theirs = scheduler.CosineLRScheduler(
        optimizer, t_initial=280, lr_min=1e-5, warmup_lr_init=1e-6, warmup_t=20, t_in_epochs=False, warmup_prefix=True
    )
    expected = [theirs._get_lr(t)[0] for t in range(300)]
    actual = rates(300, base_lr=1e-3, warmup="20 steps", warmup_lr=1e-6, min_lr=1e-5)
    np.testing.assert_allclose(actual[:-1], expected, rtol=1e-5)


def test_rsqrt_with_cooldown_is_big_vision_s():
    base, total, warmup, cooldown, timescale = 2e-3, 1000, 100, 200, 50
    step = np.arange(total + 1)
    expected = base / np.sqrt(1 + np.maximum(step - warmup, 0) / timescale)
    expected = expected * np.minimum(1, step / warmup) * np.minimum(1, (total - step) / cooldown)
    keys = {"warmup": "100 steps", "cooldown": "2 epochs", "timescale": "500 examples"}
    np.testing.assert_allclose(rates(total, base_lr=base, decay="rsqrt", **keys), expected, rtol=1e-5)


def test_timescale_is_the_time_to_one_over_root_two():
    lr = rates(1000, base_lr=1.0, decay="rsqrt", warmup="10 steps", timescale="300 steps")
    assert lr[310] == pytest.approx(1 / math.sqrt(2), rel=1e-6)


def test_linear():
    lr = rates(110, base_lr=1.0, decay="linear", warmup="10 steps", min_lr=0.2)
    np.testing.assert_allclose(lr[[0, 5, 10, 60, 110]], [0, 0.5, 1, 0.6, 0.2], rtol=1e-6)


@pytest.mark.parametrize(
    ("keys", "total", "steps"),
    [
        ({"warmup": "19 steps"}, 20, (19, 0, 1)),
        ({"warmup": "10000 steps"}, 20, (10, 0, 1)),
        ({"warmup": "5 epochs", "update_every": "1 epochs"}, 20, (10, 0, 1)),
        ({"warmup": "60 steps", "cooldown": "40 steps", "decay": "rsqrt"}, 100, (60, 40, 1)),
        ({"warmup": "60 steps", "cooldown": "60 steps", "decay": "rsqrt"}, 100, (25, 25, 1)),
        ({"warmup": "7 steps"}, 1, (0, 0, 1)),
    ],
)
def test_what_is_longer_than_the_training_is_shortened(keys, total, steps):
    assert tuple(stretches(config_with(**keys), total, 1000).values()) == steps
    lr = rates(total, base_lr=1.0, **keys)
    assert np.isfinite(lr).all() and lr[steps[0]] == 1 and lr.max() == 1


def test_step_falls_at_its_boundaries_in_any_order():
    lr = rates(100, base_lr=1.0, decay="step", boundaries=("80 steps", "500 examples"), factor=0.1, warmup="2 steps")
    np.testing.assert_allclose(lr[[0, 1, 2, 49, 50, 79, 80, 100]], [0, 0.5, 1, 1, 0.1, 0.1, 0.01, 0.01], rtol=1e-6)


def test_constant_with_cooldown():
    lr = rates(100, base_lr=1.0, decay="constant", cooldown="20 steps")
    np.testing.assert_allclose(lr[[0, 79, 80, 90, 99, 100]], [1, 1, 1, 0.5, 0.05, 0], rtol=1e-6)


def test_update_every_holds_the_first_value_of_each_block():
    keys = {"base_lr": 1.0, "warmup": "2 epochs"}
    stepwise, held = rates(1000, **keys), rates(1000, update_every="1 epochs", **keys)
    np.testing.assert_array_equal(held, stepwise[np.arange(1001) // 100 * 100])


def test_peak_scales_with_the_batch():
    assert peak_lr(config_with(batch_size=4096, base_lr=1.5e-4, per=256)) == pytest.approx(2.4e-3)
    assert peak_lr(config_with(batch_size=4096, base_lr=1.5e-4)) == 1.5e-4
    lr = rates(4, batch_size=512, base_lr=1e-3, per=256, warmup="2 steps", warmup_lr=1e-4, min_lr=1e-5)
    np.testing.assert_allclose(lr[[0, 2, 4]], [1e-4, 2e-3, 1e-5], rtol=1e-6)  # only the peak scales


def test_works_in_jit_on_one_step_and_on_many():
    schedule = make_schedule(config_with(warmup="3 steps"), total_steps=9, num_examples=90)
    many = schedule(jnp.arange(9))
    one = jnp.stack([jax.jit(schedule)(jnp.int32(step)) for step in range(9)])
    np.testing.assert_allclose(one, many, rtol=1e-6)
    assert schedule(3).shape == () and schedule(3).dtype == many.dtype == jnp.float32
    assert float(schedule(3)) == np.float32(1e-3)


@settings(deadline=None)
@given(
    decay=st.sampled_from(["cosine", "linear", "rsqrt", "constant"]),
    total=st.integers(1, 500),
    warmup_share=st.floats(0, 1),
    cooldown_share=st.floats(0, 1),
    peak=st.floats(1e-5, 10),
    low_share=st.one_of(st.just(0.0), st.floats(1e-6, 1)),  # float32 knows no smaller rates than 1e-38
)
@example("cosine", 7, 1.0, 0.0, 1.0, 0.5)
@example("rsqrt", 1, 0.0, 1.0, 1.0, 0.5)
def test_bounded_continuous_and_never_rising_after_warmup(decay, total, warmup_share, cooldown_share, peak, low_share):
    warmup = int(total * warmup_share)
    cooldown = int((total - warmup) * cooldown_share) if decay in ("rsqrt", "constant") else 0
    min_lr = low_share * peak if decay in ("cosine", "linear") else 0.0
    keys = {"base_lr": peak, "min_lr": min_lr, "warmup_lr": low_share * peak, "timescale": f"{total} steps"}
    keys |= {"decay": decay, "warmup": f"{warmup} steps", "cooldown": f"{cooldown} steps"}
    lr = rates(total, steps=np.arange(512), **keys)  # of one length, beyond the end
    assert np.all(lr <= peak * (1 + 1e-6)) and np.all(lr >= min_lr * (1 - 1e-6))
    rising, falling = np.diff(lr[: min(warmup + 1, total)]), np.diff(lr[warmup:])
    assert np.all(rising >= -1e-6 * peak) and np.all(falling <= 1e-6 * peak)
    assert decay in ("rsqrt", "constant") or np.all(lr[total:] == np.float32(min_lr))
    steepest = max((1 / span for span in (warmup, cooldown) if span), default=0) + math.pi / max(total - warmup, 1)
    assert np.max(np.abs(np.diff(lr))) <= peak * steepest * (1 + 1e-3)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"warmup": "ten steps"}, "'schedule.warmup' must read 'N steps'"),
        ({"decay": "step"}, "'schedule.boundaries' is empty"),
        ({"decay": "step", "boundaries": (30, 60)}, "'schedule.boundaries' must read 'N steps'.*got 30"),
        ({"boundaries": ("30 steps",)}, "'schedule.boundaries' is read by decay 'step' only"),
        ({"decay": "cosine", "cooldown": "10 steps"}, "'schedule.cooldown' is .* 'rsqrt' and 'constant' only"),
        ({"decay": "rsqrt", "min_lr": 1e-5}, "'schedule.min_lr' is read by decay 'cosine' and 'linear' only"),
        ({"update_every": "0 steps"}, "'schedule.update_every' must be at least one step"),
        ({"decay": "rsqrt", "timescale": "0 steps"}, "'schedule.timescale' must be at least one step"),
        ({"base_lr": 0.0}, "'schedule.base_lr' must be positive"),
        ({"warmup_lr": -1.0}, "'schedule.warmup_lr' must not be negative"),
        ({"factor": 0.0}, "'schedule.factor' must be positive"),
    ],
)
def test_bad_schedules_name_the_key(keys, message):
    with pytest.raises(ConfigError, match=message):
        rates(100, **keys)


def halving(*, times: int = 1):
    """A decay of one's own."""
    return lambda progress: 0.5 ** (times * progress)


def test_a_decay_of_one_s_own():
    lr = rates(110, base_lr=2.0, decay=f"{__name__}:halving", times=2, warmup="10 steps", warmup_lr=1.0)
    np.testing.assert_allclose(lr[[0, 5, 10, 60, 110]], [1.0, 1.5, 2.0, 1.0, 0.5], rtol=1e-6)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"decay": f"{__name__}:halving", "time": 2}, "has no field 'time'; did you mean 'times'"),
        ({"decay": f"{__name__}:halving", "times": "x"}, "field 'times' must be int, got str 'x'"),
        ({"decay": f"{__name__}:halvin"}, "has no 'halvin'; did you mean 'halving'"),
        ({"decay": "math:cos"}, "config.schedule.decay='math:cos': TypeError"),
        ({"decay": f"{__name__}:whole"}, "must return a function of progress, .*; it makes 1.0 of"),
    ],
)
def test_what_is_no_decay_is_told(keys, message):
    with pytest.raises(ConfigError, match=message):
        rates(100, **keys)


def whole():
    return lambda progress: 1.0
