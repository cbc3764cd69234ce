import chex
import jax
import jax.numpy as jnp
import optax
import pytest

from vision_jax.config import base_config, to_json
from vision_jax.errors import ConfigError
from vision_jax.training.checkpoints import Checkpoints
from vision_jax.training.partitioning import make_mesh, state_shardings
from vision_jax.training.state import create_state
from vision_jax.weights.work_folder import load_variables, locate


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


@pytest.fixture
def run(tmp_path):
    """A work folder with checkpoints 1 to 5, the second the best; the state differs by its step only."""
    state = jax.jit(create, out_shardings=jax.tree.map(lambda s: s.sharding, target(data=1, fsdp=8)))()
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=2, best="eval/top1")
    for step in range(1, 6):
        checkpoints.save(step, state.replace(step=jnp.int32(step)), {"eval/top1": 0.9 if step == 2 else 0.1 * step})
    checkpoints.close()
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
    assert Checkpoints(run / "checkpoints", keep=2, best="eval/top1").steps() == [2, 4, 5]
    assert locate(run).name == "5" and locate(run, "best").name == "2" and locate(run, "4").name == "4"
    with pytest.raises(ConfigError, match="3"):
        locate(run, "3")


def test_only_an_improvement_counts_as_best(run):
    checkpoints = Checkpoints(run / "checkpoints", keep=2, best="eval/top1")
    assert checkpoints.improves({"eval/top1": 0.91})
    assert not checkpoints.improves({"eval/top1": 0.9}) and not checkpoints.improves({"eval/top1": float("nan")})
    assert not checkpoints.improves({"eval/loss": 1.0})


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
    checkpoints = Checkpoints(run / "checkpoints")
    assert int(checkpoints.restore(target(data=8)).step) == 4
    assert "checkpoint 12 is damaged" in caplog.text and "checkpoint 5 is damaged" in caplog.text
    checkpoints.save(5, create().replace(step=jnp.int32(5)))
    checkpoints.wait()
    assert int(checkpoints.restore(target(data=8)).step) == 5


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
