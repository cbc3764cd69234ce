import jax
import numpy as np
import pytest

from vision_jax.config import base_config
from vision_jax.errors import ConfigError
from vision_jax.ops import sharding
from vision_jax.planning import compiled
from vision_jax.planning.collectives import Collective
from vision_jax.planning.topology import Chip
from vision_jax.training.flops import count_flops, count_jaxpr
from vision_jax.training.setup import prepare, trace_step


def tiny(**changes):
    c = base_config()
    c.model = dict(name="vit_ti16", patch_size=4, width=64, depth=4, num_heads=4, mlp_dim=256, scan=True)
    c.data.image_size = 32
    c.batch_size = 64
    c.duration = "10 steps"
    c.checkpoint.every = c.evals.classification.every = ""
    c.log.compile_cache = ""
    for section, values in changes.items():
        c[section] = values
    return c


def test_memory_of_a_device_is_the_compilers_in_parts():
    setup = prepare(tiny(mesh=dict(data=2, fsdp=4, fsdp_min_size=1024), optimizer=dict(ema=0.99)))
    program, memory, _ = compiled.compile_plan(setup)
    analysis = program.memory_analysis()
    arguments = memory.parameters + memory.moments + memory.average + memory.statistics + memory.batch + memory.padding
    assert arguments + 4 * 4 <= analysis.argument_size_in_bytes + 4 * 4  # four counters of the state
    assert arguments == pytest.approx(analysis.argument_size_in_bytes, abs=64)
    assert memory.activations >= analysis.temp_size_in_bytes > 0
    assert memory.average == memory.parameters and memory.moments == pytest.approx(2 * memory.parameters, abs=64)
    state = jax.jit(setup.create, out_shardings=setup.shardings)()
    on_first = [s.data for leaf in jax.tree.leaves(state.params) for s in leaf.addressable_shards[:1]]
    assert memory.parameters == sum(x.nbytes for x in on_first)
    assert memory.batch == (64 // 8) * (32 * 32 * 3 + 4 + 1)


def test_work_is_divided_among_the_devices():
    """The whole step's FLOPs are those of its model, less the gradient of the pictures; of 8 devices each has an eighth."""
    setup = prepare(tiny())
    _, _, work = compiled.compile_plan(setup)
    first_layer = 2 * 64 * 8 * 8 * (4 * 4 * 3) * 64
    assert 8 * work.flops == pytest.approx(setup.flops - first_layer, rel=0.001)
    reduced = sum(c.bytes * c.count for c in work.collectives if c.kind == "all-reduce")
    sizes = [leaf.size * 4 for leaf in jax.tree.leaves(setup.abstract_state.params)]
    assert reduced == pytest.approx(sum(sizes), rel=0.02)  # every gradient once
    assert work.cycles == 0


def test_the_models_flops_leave_out_gradients_of_frozen_parameters():
    """All but the head frozen, a step is the forward pass, and the head's kernel once more for its gradient."""
    frozen = prepare(tiny(optimizer=dict(freeze="(?!head/).*")))
    assert frozen.flops == prepare(tiny()).flops // 3 + 2 * 64 * 64 * 10
    assert 8 * compiled.compile_plan(frozen)[2].flops == frozen.flops


def test_full_recomputation_is_counted():
    """The forward pass runs twice but for each block's last product, which holds a third of its kernels' elements."""
    none, full = (trace_step(prepare(tiny(model=dict(remat=remat)))).jaxpr for remat in ("none", "full"))
    assert count_jaxpr(full.jaxpr) == pytest.approx((3 + 2 / 3) / 3 * count_jaxpr(none.jaxpr), rel=0.03)


def test_activations_of_scanned_sharded_layers_stay_on_the_batch(monkeypatch):
    """Without pins every device computes the scanned layers for the whole batch: ViT-L/16 on 256 chips needs 636 GB."""
    config = tiny(mesh=dict(data=1, fsdp=8, fsdp_min_size=1024))
    pinned = compiled.compile_plan(prepare(config))[1].activations
    monkeypatch.setattr(sharding, "batch_axes", lambda size: ())
    assert compiled.compile_plan(prepare(config))[1].activations > 3 * pinned


def test_flops_inside_shard_map_count_on_every_device():
    mesh = jax.make_mesh((4, 2), ("data", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    spec = jax.sharding.PartitionSpec
    product = jax.shard_map(
        lambda a, b: a @ b, mesh=mesh, in_specs=(spec("data"), spec(None, "tensor")), out_specs=spec("data", "tensor")
    )
    assert count_flops(product, np.zeros((8, 16), "f4"), np.zeros((16, 4), "f4")) == 2 * 8 * 16 * 4


CHIP = Chip(memory=100, bandwidth=50.0, clock=10.0, links=4.0, network=2.0)


def test_times_are_cycles_and_exchanges():
    reduce = Collective("all-reduce", 80, group=8, slices=2, count=1)  # 140 bytes come, 20 of them across
    work = compiled.Work(flops=300.0, traffic=1000, collectives=(reduce,), cycles=250)
    times = compiled.estimated_times(work, CHIP, peak=100.0)
    assert times == compiled.Times(roofline=20.0, computing=25.0, exchanging=120 / 4 + 20 / 2)
    assert times.step == 65.0
    assert compiled.estimated_times(work._replace(traffic=10), CHIP, peak=100.0).roofline == 3.0


@pytest.mark.parametrize(
    ("message", "needed"),
    [
        (
            "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 40.5G of 15.75G hbm. Exceeded hbm capacity by 24.7G.",
            40.5 * 2**30,
        ),
        (
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (1.5T) exceeds available HBM (15.75G).",
            1.5 * 2**40 + 1000,
        ),
    ],
)
def test_refusals_tell_what_is_needed(message, needed):
    refusal = compiled._refusal(message, arguments=1000)
    assert isinstance(refusal, compiled.DoesNotFit) and refusal.needed == needed


def test_other_failures_are_errors():
    assert isinstance(compiled._refusal("INTERNAL: something\nelse", 0), ConfigError)
