"""FLOPs of compiled programs against the count from the jaxpr, and of a TPU's batched products, which are convolutions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from vision_jax.planning.hlo import Program
from vision_jax.planning.products import product_flops
from vision_jax.training.flops import count_flops


def compiled_flops(function, *args) -> int:
    return product_flops(Program(jax.jit(function).lower(*args).compile().as_text()))


def products(x, w, stack):
    def layer(x, w):
        return jnp.tanh(x @ w), None

    x = jax.lax.scan(layer, x, stack)[0]
    scores = jnp.einsum("bhqd,bhkd->bhqk", x.reshape(4, 2, 8, 16), jnp.tanh(x).reshape(4, 2, 8, 16))
    return (scores.reshape(64, 8) @ w).sum()


def test_products_in_loops_and_batches():
    args = jnp.ones((64, 16)), jnp.ones((8, 5)), jnp.ones((3, 16, 16))
    by_hand = 3 * 2 * 64 * 16 * 16 + 2 * 4 * 2 * 8 * 8 * 16 + 2 * 64 * 8 * 5
    assert compiled_flops(products, *args) == count_flops(products, *args) == by_hand


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("padding", ["VALID", "SAME"])
@pytest.mark.parametrize(("strides", "dilation"), [((1, 1), (1, 1)), ((2, 3), (1, 1)), ((1, 1), (2, 1))])
def test_convolutions_count_what_lies_inside_the_picture(strides, dilation, padding, groups):
    def convolution(x, kernel):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, kernel, strides, padding, None, dilation, numbers, feature_group_count=groups
        )

    x, kernel = jnp.ones((2, 9, 11, 4)), jnp.ones((3, 5, 4 // groups, 6))
    ones = np.ones_like
    reached = convolution(ones(x[:, :, :, :1]), ones(kernel[:, :, :1, :1])) if groups == 1 else None
    expected = jax.jit(convolution).lower(x, kernel).compile().cost_analysis()["flops"]
    found = compiled_flops(convolution, x, kernel)
    assert found == expected
    if reached is not None:  # each result of a picture and a kernel of ones is how many elements it was made from
        assert found == 2 * float(reached.sum()) * 4 * 6


def test_what_every_device_computes_alike_counts_on_each():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    rows, whole = (NamedSharding(mesh, PartitionSpec(axis)) for axis in ("data", None))
    for sharding, share in ((rows, 8), (whole, 1)):
        x = jax.ShapeDtypeStruct((64, 16), jnp.float32, sharding=sharding)
        w = jax.ShapeDtypeStruct((16, 8), jnp.float32, sharding=whole)
        assert compiled_flops(jnp.matmul, x, w) == 2 * 64 * 16 * 8 // share


TPU = """
ENTRY %main (a: bf16[64,6,196,64], b: bf16[64,6,196,64]) -> f32[64,6,196,196] {{
  %a = bf16[64,6,196,64]{{3,2,1,0}} parameter(0)
  %b = bf16[64,6,196,64]{{3,2,1,0}} parameter(1)
  ROOT %c = f32{result}{{2,3,1,0:T(8,128)}} convolution(%a, %b), window={{{window}}}, dim_labels={labels}
}}
"""


@pytest.mark.parametrize(
    ("window", "labels", "result"),
    [
        ("size=64x6 stride=63x5 lhs_dilate=64x6", "01bf_01oi->01bf", "[64,6,196,196]"),
        ("size=64x6 pad=63_63x5_5 rhs_reversal=1x1 stride=1x1", "01bf_01oi->01bf", "[127,11,196,196]"),
    ],
)
def test_convolutions_as_tpus_batch_products(window, labels, result):
    program = Program(TPU.format(window=window, labels=labels, result=result))
    products = 64 * 6 if "dilate" in window else (64 * 6) ** 2
    assert product_flops(program) == 2 * products * 196 * 196 * 64
