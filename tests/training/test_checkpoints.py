import json
import os
import shutil
import threading

import chex
import jax
import jax.numpy as jnp
import optax
import pytest

from vision_jax.config import base_config, to_json
from vision_jax.errors import ConfigError, RunError
from vision_jax.training.checkpoints import Checkpoints
from vision_jax.training.partitioning import make_mesh, state_shardings
from vision_jax.training.state import create_state
from vision_jax.weights.work_folder import load_variables, locate, metric_values


def create():
    kernel = jax.random.normal(jax.random.key(0), (64, 64))
    return create_state(
        {"params": {"a": {"kernel": kernel}}, "stats": {"mean": jnp.arange(4.0)}}, optax.adamw(1e-3), True
    )


def target(**mesh):
    c = base_config()
    c.mesh = dict(fsdp_min_size=1, **mesh)
    shapes = jax.eval_shape(create)
    shardings = state_shardings(c, make_mesh(c), shapes)
    return jax.tree.map(
        lambda s, sharding: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding), shapes, shardings
    )


def beside(step):
    """Much of it, so that damage hits it, too."""
    return {"sums": {f"metric{i}": 0.1 * (i + step) for i in range(300)}, "steps": step}


@pytest.fixture
def run(tmp_path):
    """A work folder with checkpoints 1 to 5, the second the best; the state differs by its step only."""
    state = jax.jit(create, out_shardings=jax.tree.map(lambda s: s.sharding, target(data=1, fsdp=8)))()
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=2, best="classification/top1")
    rows = []
    for step in range(1, 6):
        rows.append(
            {"step": step, "classification/top1": 0.9 if step == 2 else 0.1 * step, "classification/loss": float(step)}
        )
        checkpoints.save(step, state.replace(step=jnp.int32(step)), beside(step))
        checkpoints.evaluated(step, rows[-1])
    checkpoints.close()
    (tmp_path / "metrics.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows) + '{"step": 6, "classification/to'
    )
    (tmp_path / "config.json").write_text(to_json(base_config()))
    return tmp_path


def damage(folder, places=1):
    """Flips a byte at so many places, evenly, of every large data file."""
    for path in folder.glob("state/**/d/*"):
        data = bytearray(path.read_bytes())
        if len(data) > 4096:
            for place in range(len(data) // (2 * places), len(data), len(data) // places):
                data[place] ^= 0xFF
            path.write_bytes(data)


def test_keeps_the_newest_and_the_best(run):
    assert Checkpoints(run / "checkpoints").steps() == [2, 4, 5]
    assert locate(run).name == "5" and locate(run, "best").name == "2" and locate(run, "4").name == "4"
    with pytest.raises(ConfigError, match="3"):
        locate(run, "3")


def test_only_an_improvement_counts_as_best(run):
    def judged(step, metrics, **options):
        values = metric_values(run, options.get("best", "classification/top1"))
        return Checkpoints(
            run / "checkpoints", **{"best": "classification/top1", "values": values, **options}
        ).evaluated(step, metrics)

    assert judged(6, {"classification/top1": 0.91})
    assert not judged(6, {"classification/top1": 0.9}) and not judged(6, {"classification/top1": float("nan")})
    assert not judged(6, {"classification/loss": 1.0})
    # Another metric decides from now on: what is known of it counts.
    assert judged(6, {"classification/loss": 1.9}, best="classification/loss", best_mode="min")
    assert not judged(6, {"classification/loss": 2.1}, best="classification/loss", best_mode="min")
    assert judged(6, {"classification/top5": 0.1}, best="classification/top5")


def test_restores_on_another_mesh(run):
    abstract = target(data=2, fsdp=2, tensor=2)
    state = Checkpoints(run / "checkpoints").restore(abstract)
    assert int(state.step) == 5
    chex.assert_trees_all_equal(state.params, create().params)
    kernel = state.opt_state[0].mu["a"]["kernel"]
    assert kernel.sharding == abstract.opt_state[0].mu["a"]["kernel"].sharding
    chex.assert_shape(kernel.addressable_shards[0].data, (32, 64))


def test_damaged_checkpoints_are_passed_over_loudly(run, caplog):
    damage(run / "checkpoints" / "5")
    (run / "checkpoints" / "12").mkdir()
    (run / "checkpoints" / "13.orbax-checkpoint-tmp").mkdir()
    for again in ("", "-2"):  # the same step may be damaged twice
        checkpoints = Checkpoints(run / "checkpoints")
        assert int(checkpoints.restore(target(data=8)).step) == 4
        assert "checkpoint 5 is damaged" in caplog.text and (run / "checkpoints" / f"damaged-5{again}").is_dir()
        checkpoints.save(5, create().replace(step=jnp.int32(5)))
        checkpoints.close()
        assert int(Checkpoints(run / "checkpoints").restore(target(data=8)).step) == 5
        damage(run / "checkpoints" / "5")
    assert "checkpoint 12 is damaged" in caplog.text


KINDS = {
    "empty": lambda content: b"",
    "half": lambda content: content[: len(content) // 2],
    "zeros": lambda content: bytes(len(content)),
    "flipped": lambda content: (
        content[: len(content) // 2]
        + bytes(255 - byte for byte in content[len(content) // 2 :][:1])
        + content[len(content) // 2 + 1 :]
    ),
}


@pytest.mark.parametrize(
    "kinds", [("flipped",), pytest.param(("missing", "empty", "half", "zeros"), marks=pytest.mark.slow)]
)
def test_any_damage_to_any_file_leaves_right_bits(run, kinds, capfd):
    """The newest checkpoint as it was, where what was damaged does not matter, or else the one before."""
    whole, abstract = run / "checkpoints", target(data=1, fsdp=8)
    files = sorted(path.relative_to(whole) for path in (whole / "5").rglob("*") if path.is_file())
    assert len(files) > 5
    for file in files:
        for kind in kinds:
            tried = run / "tried"
            shutil.rmtree(tried, ignore_errors=True)
            shutil.copytree(whole, tried)
            if kind == "missing":
                (tried / file).unlink()
            else:
                (tried / file).write_bytes(KINDS[kind]((tried / file).read_bytes()))
            checkpoints = Checkpoints(tried)
            state = checkpoints.restore(abstract)
            assert checkpoints.beside == beside(int(state.step)), (file, kind)
            assert int(state.step) == (4 if (tried / "damaged-5").exists() else 5), (file, kind)
            chex.assert_trees_all_equal(state.params, create().params)
    assert "Traceback" not in capfd.readouterr().err


def test_where_all_are_damaged_nothing_begins_again_untold(run):
    for step in (2, 4, 5):
        damage(run / "checkpoints" / str(step))
    with pytest.raises(ConfigError, match=r"every checkpoint .* is damaged .*--accept=restart"):
        Checkpoints(run / "checkpoints").restore(target(data=8))
    assert Checkpoints(run / "checkpoints").steps() == [2, 4, 5]
    assert Checkpoints(run / "checkpoints").restore(target(data=8), restart=True) is None
    assert Checkpoints(run / "checkpoints").steps() == []


def test_descriptors_and_threads_stay_as_many(tmp_path):
    def open_now():
        return len(os.listdir("/proc/self/fd")), threading.active_count()

    checkpoints, seen = Checkpoints(tmp_path / "checkpoints"), []
    for step in range(1, 21):
        checkpoints.save(step, {"w": jnp.ones(8)})
        if step % 5 == 0:
            checkpoints.wait()
            seen.append(open_now())
    checkpoints.close()
    assert seen[-1][0] <= seen[0][0] + 2 and seen[-1][1] <= seen[0][1] + 1, seen


def test_a_checkpoint_that_cannot_be_written_is_told(run):
    checkpoints = Checkpoints(run / "checkpoints")
    checkpoints.restore(target(data=8))
    (run / "checkpoints").rename(run / "elsewhere")
    (run / "checkpoints").write_text("a file in the way")
    with pytest.raises(RunError, match=r"checkpoint of step 6 cannot be written"):
        checkpoints.save(6, create().replace(step=jnp.int32(6)))
        checkpoints.wait()


def test_too_little_space_is_known_before_the_first_step(run, monkeypatch):
    usage = shutil.disk_usage(run)._replace(free=10_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ConfigError, match=r"0.01 MB free, and this run needs about .*checkpoint.keep"):
        Checkpoints(run / "checkpoints").check_space(target(data=8))


def test_nothing_to_restore(tmp_path):
    assert Checkpoints(tmp_path / "checkpoints").restore(target(data=8)) is None


def test_another_structure_is_an_error(run):
    abstract = target(data=8)
    other = abstract.replace(params={"a": {"kernel": jax.ShapeDtypeStruct((64, 65), jnp.float32)}})
    with pytest.raises(ConfigError, match=r"params/a/kernel.*64, 64.*64, 65"):
        Checkpoints(run / "checkpoints").restore(other)
    with pytest.raises(ConfigError, match="params/b"):
        Checkpoints(run / "checkpoints").restore(abstract.replace(params={"b": abstract.params["a"]}))
    with pytest.raises(ConfigError, match="ema"):
        Checkpoints(run / "checkpoints").restore(abstract.replace(ema=None))


def test_variables_for_evaluation_are_the_average(run):
    variables = load_variables(locate(run))
    chex.assert_trees_all_equal(variables, create().ema)
    damage(run / "checkpoints" / "5", places=20)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_variables(locate(run))


def test_an_average_of_the_parameters_alone_as_it_once_was_saved(tmp_path):
    state = create()
    average = jax.tree.map(lambda p: p / 2, state.params)
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(1, state.replace(ema=average))
    checkpoints.close()
    chex.assert_trees_all_equal(load_variables(locate(tmp_path)), {"params": average, **state.collections})


@pytest.mark.parametrize("what", ["missing", "empty"])
def test_no_checkpoint(tmp_path, what):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=what):
        locate(tmp_path / what)
