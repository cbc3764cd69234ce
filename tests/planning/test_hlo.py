"""Programs whose loops and exchanges are known by hand, compiled for eight simulated devices; and texts as TPUs' are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from vision_jax.planning.collectives import Collective, collectives, replica_groups
from vision_jax.planning.hlo import Program, main_memory_bytes, type_bytes
from vision_jax.planning.traffic import memory_traffic


@pytest.fixture(scope="module")
def mesh():
    return jax.make_mesh((2, 4), ("slice", "chip"), axis_types=(AxisType.Auto,) * 2)


def compiled(mesh, function, *specs):
    """The program of `function` on each device's rows of float32[8, 64] arrays."""
    arguments = [
        jax.ShapeDtypeStruct((8, 64), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec(spec))) for spec in specs
    ]
    mapped = jax.shard_map(
        function,
        mesh=mesh,
        in_specs=tuple(map(PartitionSpec, specs)),
        out_specs=PartitionSpec(),
        check_vma=False,
    )
    return Program(jax.jit(mapped).lower(*arguments).compile().as_text())


def test_exchanges_inside_loops_are_counted_as_often_as_they_happen(mesh):
    def function(x):  # [2, 64] on each device
        def inner(total, _):
            return total + jax.lax.psum(jnp.sin(total), "chip"), None

        def outer(total, _):
            gathered = jax.lax.all_gather(jnp.cos(total), "chip", tiled=True)  # [8, 64]
            return jax.lax.scan(inner, total + gathered.sum(), length=5)[0], None

        return jax.lax.psum(jax.lax.scan(outer, x, length=3)[0].sum(), ("slice", "chip"))

    found = collectives(compiled(mesh, function, "chip"), [0] * 4 + [1] * 4)
    assert set(found) == {
        Collective("all-gather", 8 * 64 * 4, group=4, slices=1, count=3),
        Collective("all-reduce", 2 * 64 * 4, group=4, slices=1, count=15),
        Collective("all-reduce", 4, group=8, slices=2, count=1),
    }


def test_each_kind_of_exchange(mesh):
    def function(x):  # [2, 64]
        x = jax.lax.ppermute(x, "chip", [(i, (i + 1) % 4) for i in range(4)])
        x = jax.lax.all_to_all(x, "chip", 1, 0, tiled=True)  # [8, 16]
        x = jax.lax.psum_scatter(jnp.sin(x), "chip", tiled=True)  # [2, 16]
        return jax.lax.psum(x, "slice")

    found = {c.kind: c for c in collectives(compiled(mesh, function, "chip"), [0] * 4 + [1] * 4)}
    assert found["collective-permute"].received == 2 * 64 * 4
    assert found["all-to-all"] == Collective("all-to-all", 2 * 64 * 4, 4, 1, 1)
    assert found["reduce-scatter"] == Collective("reduce-scatter", 8 * 16 * 4, 4, 1, 1)
    assert found["all-reduce"] == Collective("all-reduce", 2 * 16 * 4, 2, 2, 1)
    assert found["all-reduce"].received == found["all-reduce"].received_across == 2 * 16 * 4
    assert found["reduce-scatter"].received == 8 * 16 * 4 * 3 / 4 and not found["reduce-scatter"].received_across


def test_reduction_over_slices_sends_a_share_across():
    """Scattered within a slice of 4, exchanged with the other slice, gathered again: a quarter crosses."""
    whole = Collective("all-reduce", 1000, group=8, slices=2, count=1)
    assert whole.received == 2 * 1000 * 7 / 8
    assert whole.received_across == 2 * 250 * 1 / 2
    assert whole.received - whole.received_across == 2 * 1000 * 3 / 4


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("replica_groups={{0,2},{1,3}}, x", [[0, 2], [1, 3]]),
        ("replica_groups={}, x", [[0, 1, 2, 3]]),
        ("channel_id=1", [[0, 1, 2, 3]]),
        ("replica_groups=[2,2]<=[4]", [[0, 1], [2, 3]]),
        ("replica_groups=[2,2]<=[2,2]T(1,0)", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['a'=2,'b'=2] {'b'}", [[0, 1], [2, 3]]),
        ("replica_groups=mesh['a'=2,'b'=2] {'a'}", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['a'=2,'b'=2] {'a','b'}", [[0, 1, 2, 3]]),
        ("source_target_pairs={{0,1},{1,2},{2,3}}", [[0, 1], [1, 2], [2, 3]]),
    ],
)
def test_notations_of_groups(text, groups):
    assert replica_groups(text, 4) == groups


def test_unknown_notation_of_groups_is_an_error():
    with pytest.raises(ValueError, match="replica groups"):
        replica_groups("replica_groups=something(4)", 4)


@pytest.mark.parametrize(
    ("text", "total", "in_main_memory"),
    [
        ("f32[]", 4, 4),
        ("bf16[8,128]{1,0:T(8,128)(2,1)}", 2048, 2048),
        ("(f32[3]{0}, /*index=1*/s4[6]{0:S(1)}, pred[2])", 12 + 3 + 2, 14),
        ("(bf16[4]{0:T(512)S(1)}, u32[]{:S(2)}, token[])", 12, 0),
        ("f8e4m3fn[16]{0}", 16, 16),
    ],
)
def test_bytes_of_types(text, total, in_main_memory):
    assert (type_bytes(text), main_memory_bytes(text)) == (total, in_main_memory)


MULTISLICE = """HloModule jit_f, is_scheduled=true

%chained (p.1: f32[16]) -> f32[64] {
  %p.1 = f32[16]{0:T(256)} parameter(0)
  ROOT %gather.1 = f32[64]{0:T(256)} all-gather(%p.1), channel_id=1, replica_groups={{0,1,2,3},{4,5,6,7}}, dimensions={0}, frontend_attributes={chain_id="3"}
}

ENTRY %main (p: f32[16]) -> f32[64] {
  %p = f32[16]{0:T(256)} parameter(0)
  %token = token[] after-all()
  %send.1 = (f32[16]{0:T(256)}, u32[], token[]) send(%p, %token), channel_id=2, is_host_transfer=true, frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime",_xla_megascale_transfer_type="ALL_REDUCE"}
  %recv.1 = (f32[16]{0:T(256)}, u32[], token[]) recv(%token), channel_id=1, is_host_transfer=true, frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime",_xla_megascale_transfer_type="ALL_REDUCE"}
  %recv-done.1 = (f32[16]{0:T(256)}, token[]) recv-done(%recv.1), channel_id=1, is_host_transfer=true
  %sum = f32[16]{0:T(256)} get-tuple-element(%recv-done.1), index=0
  %async-collective-start = f32[64]{0:T(256)} fusion(%sum), kind=kCustom, calls=%chained
  %beside = f32[64]{0:T(256)} fusion(%sum), kind=kLoop, calls=%chained
  ROOT %async-collective-done = f32[64]{0:T(256)} fusion(%sum), kind=kCustom, calls=%chained
}
"""


def test_exchanges_of_slices_and_chains_of_fusions():
    """Hosts exchange between slices; a gather that runs beside other work is one, however many fusions hold it."""
    across = Collective("all-reduce", 16 * 4, group=2, slices=2, count=1)
    within = Collective("all-gather", 64 * 4, group=4, slices=1, count=1)
    assert collectives(Program(MULTISLICE), [0] * 4 + [1] * 4) == [within, across]
    assert across.received_across == 16 * 4 and within.received == 48 * 4


TPU = """HloModule jit_f, is_scheduled=true

%fused (p0: f32[12,256], p1: s32[]) -> f32[256] {
  %p0 = f32[12,256]{1,0:T(8,128)} parameter(0)
  %p1 = s32[]{:T(128)} parameter(1)
  ROOT %ds = f32[1,256]{1,0:T(8,128)} dynamic-slice(%p0, %p1, %p1), dynamic_slice_sizes={1,256}
}

%all-reduce-scatter.1 (input: f32[256]) -> f32[64] {
  %input = f32[256]{0:T(256)} parameter(0)
  %all-reduce.3 = f32[256]{0:T(256)} all-reduce(%input), channel_id=2, replica_groups={{0,1,2,3}}, to_apply=%add
  ROOT %slice.1 = f32[64]{0:T(256)} dynamic-slice(%all-reduce.3, %input), dynamic_slice_sizes={64}
}

%body (param: (s32[], f32[12,256])) -> (s32[], f32[12,256]) {
  %param = (s32[]{:T(128)}, f32[12,256]{1,0:T(8,128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%param), index=0
  %stack = f32[12,256]{1,0:T(8,128)} get-tuple-element(%param), index=1
  %layer = f32[256]{0:T(256)S(1)} fusion(%stack, %i), kind=kLoop, calls=%fused, backend_config={"window_config":{"estimated_cycles":"100","iteration_bounds":[]}}
  %scattered = f32[64]{0:T(256)S(1)} fusion(%layer), kind=kCustom, calls=%all-reduce-scatter.1
  ROOT %next = (s32[]{:T(128)}, f32[12,256]{1,0:T(8,128)}) tuple(%i, %stack)
}

%condition (param.1: (s32[], f32[12,256])) -> pred[] {
  %bound = s32[]{:T(128)} constant(12)
  %param.1 = (s32[]{:T(128)}, f32[12,256]{1,0:T(8,128)}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%param.1), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i.1, %bound), direction=LT
}

%until_accepted (param.2: (s32[], f32[12,256])) -> pred[] {
  %param.2 = (s32[]{:T(128)}, f32[12,256]{1,0:T(8,128)}) parameter(0)
  %seven = s32[]{:T(128)} constant(7)
  ROOT %accepted = pred[]{:T(512)} fusion(%param.2, %seven), kind=kLoop, calls=%fused
}

ENTRY %main (p: f32[12,256]) -> f32[12,256] {
  %p = f32[12,256]{1,0:T(8,128)} parameter(0)
  %zero = s32[]{:T(128)} constant(0)
  %start = (s32[]{:T(128)}, f32[12,256]{1,0:T(8,128)}) tuple(%zero, %p)
  %while.1 = (s32[]{:T(128)}, f32[12,256]{1,0:T(8,128)}) while(%start), condition=%condition, body=%body
  %while.2 = (s32[]{:T(128)}, f32[12,256]{1,0:T(8,128)}) while(%while.1), condition=%until_accepted, body=%body
  %out = f32[12,256]{1,0:T(8,128)} get-tuple-element(%while.2), index=1
  ROOT %copy = f32[12,256]{1,0:T(8,128)} copy(%out), backend_config={"window_config":{"estimated_cycles":"1000"}}
}
"""


def test_loops_of_a_tpu_program():
    program = Program(TPU)
    assert program.entry == "main"
    assert program.cycles() == (12 + 1) * 100 + 1000
    assert collectives(program, [0] * 4) == [Collective("reduce-scatter", 256 * 4, 4, 1, 13)]


def test_traffic_counts_slices_and_main_memory_alone():
    slices = 13 * (256 * 4 + 4)  # of the stack, and the counter; the layer and what follows stay in the core's memory
    assert memory_traffic(Program(TPU)) == slices + 2 * 12 * 256 * 4


def test_traffic_of_a_copy_is_twice_its_size():
    sizes = np.array([1000, 4])
    text = jax.jit(jnp.transpose).lower(jnp.zeros(sizes)).compile().as_text()
    assert memory_traffic(Program(text)) == 2 * 4000 * 4


UNROLLED = """HloModule jit_f, is_scheduled=true

%held (p.3: f32[16]) -> f32[64] {
  %p.3 = f32[16]{0} parameter(0)
  ROOT %gather.3 = f32[64]{0} all-gather(%p.3), channel_id=1, replica_groups={{0,1,2,3}}, dimensions={0}, frontend_attributes={chain_id="0"}
}

%body (p.4: (u32[], f32[16])) -> (u32[], f32[16]) {
  %p.4 = (u32[], f32[16]{0}) parameter(0)
  %counter = u32[] get-tuple-element(%p.4), index=0
  %x = f32[16]{0} get-tuple-element(%p.4), index=1
  %beside = f32[64]{0} fusion(%x), kind=kCustom, calls=%held
  %once = f32[16]{0} collective-permute(%x), channel_id=1, source_target_pairs={{0,1},{1,2},{2,3},{3,0}}
  %twice = f32[16]{0} collective-permute(%once), channel_id=1, source_target_pairs={{0,1},{1,2},{2,3},{3,0}}
  %two = u32[] constant(2)
  %next = u32[] add(%counter, %two)
  ROOT %result = (u32[], f32[16]{0}) tuple(%next, %twice)
}

%goes_on (p.5: (u32[], f32[16])) -> pred[] {
  %p.5 = (u32[], f32[16]{0}) parameter(0)
  %bound = u32[] constant(7)
  %reached = u32[] get-tuple-element(%p.5), index=0
  ROOT %less = pred[] compare(%reached, %bound), direction=LT
}

ENTRY %main (p: f32[16]) -> (u32[], f32[16]) {
  %p = f32[16]{0} parameter(0)
  %zero = u32[] constant(0)
  %async-collective-start.1 = f32[64]{0} fusion(%p), kind=kCustom, calls=%held
  %start = (u32[], f32[16]{0}) tuple(%zero, %p)
  ROOT %loop = (u32[], f32[16]{0}) while(%start), condition=%goes_on, body=%body
}
"""


def test_unrolled_loops_and_what_goes_on_beside_them():
    """A loop by twos below 7 runs four times; a gather that was started before it and goes on inside it is one."""
    gathered = Collective("all-gather", 64 * 4, group=4, slices=1, count=1)
    passed = Collective("collective-permute", 16 * 4, group=2, slices=1, count=8)
    assert collectives(Program(UNROLLED), [0] * 4) == [passed, gathered]
