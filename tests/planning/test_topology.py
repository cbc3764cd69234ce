import pytest

from vision_jax.errors import ConfigError
from vision_jax.planning.topology import CHIPS, Topology, parse_topology


@pytest.mark.parametrize(
    ("text", "topology"),
    [
        ("v5e:16x16", Topology("v5e", (16, 16))),
        ("v6e:4x8*2", Topology("v6e", (4, 8), 2)),
        ("v4:2x2x4", Topology("v4", (2, 2, 4))),
        ("v5p:4x4x4*3", Topology("v5p", (4, 4, 4), 3)),
    ],
)
def test_topologies_are_read_and_written(text, topology):
    assert parse_topology(text) == topology
    assert str(topology) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("v5e", "v5e:16x16"),
        ("v5e:16", "such as v5e:16x16"),
        ("v4:4x4", "such as v4:4x4x4"),
        ("v5e:0x4", "such as v5e:16x16"),
        ("v5e:4x4*0", "such as v5e:16x16"),
        ("v5f:4x4", "no TPU 'v5f'.*v5"),
        ("gpus", "cpu or gpu"),
    ],
)
def test_what_is_no_topology_is_told(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_topology(text)


@pytest.mark.parametrize(
    ("generation", "tflops", "units", "side"), [("v4", 275, 8, 128), ("v5e", 197, 4, 128), ("v5p", 459, 8, 128)]
)
def test_clocks_give_the_published_peak(generation, tflops, units, side):
    """Matrix units of a chip and their side: docs.cloud.google.com/tpu/docs/{v4,v5e,v5p}."""
    assert 2 * units * side**2 * CHIPS[generation].clock == pytest.approx(tflops * 1e12, rel=0.003)
