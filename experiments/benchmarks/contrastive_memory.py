"""Memory and exchanges of the contrastive losses and their gradients against the global batch, beside the naive losses.

    python experiments/benchmarks/contrastive_memory.py                         # one device
    XLA_FLAGS=--xla_force_host_platform_device_count=8 python experiments/benchmarks/contrastive_memory.py
    JAX_PLATFORMS=cpu python experiments/benchmarks/contrastive_memory.py --topology=v5e:16x16 --batches 32768

The memory is what the compiled program takes for itself on one device, besides its arguments and results, as the
compiler plans it, and the bytes are what a device receives from others: nothing needs to run for that, nor any TPU to be
there for `--topology`, only libtpu. Up to `--run` examples both are run on the devices present, too, and timed in turn.
"""

import argparse
import os
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from vision_jax.ops.contrastive import sigmoid_contrastive_loss, softmax_contrastive_loss
from vision_jax.planning.collectives import collectives
from vision_jax.planning.hlo import Program
from vision_jax.planning.topology import ENVIRONMENT, parse_topology, tpu_devices


def naive_softmax(image, text, scale, bias, mask):
    logits = scale * jnp.matmul(image, text.T, precision="highest")
    return -(jnp.diag(jax.nn.log_softmax(logits, 0)) + jnp.diag(jax.nn.log_softmax(logits, 1))) / 2


def naive_sigmoid(image, text, scale, bias, mask):
    logits = scale * jnp.matmul(image, text.T, precision="highest") + bias
    return -jax.nn.log_sigmoid((2 * jnp.eye(len(image)) - 1) * logits).sum(1)


LOSSES = {
    "softmax": (
        lambda image, text, scale, bias, mask: softmax_contrastive_loss(image, text, scale, mask),
        naive_softmax,
    ),
    "sigmoid": (sigmoid_contrastive_loss, naive_sigmoid),
}


def compile_gradients(loss, batch: int, width: int, mesh):
    """The compiled value and gradients of the mean loss, of `batch` examples on all devices together."""
    rows, whole = (NamedSharding(mesh, spec) for spec in (PartitionSpec(("data", "fsdp")), PartitionSpec()))
    shapes = [((batch, width), jnp.float32, rows)] * 2 + [((), jnp.float32, whole)] * 2 + [((batch,), jnp.bool_, rows)]
    args = [jax.ShapeDtypeStruct(shape, dtype, sharding=sharding) for shape, dtype, sharding in shapes]
    function = jax.value_and_grad(lambda *args: loss(*args).mean(), argnums=(0, 1, 2))
    with jax.set_mesh(mesh):
        return jax.jit(function, out_shardings=(whole, (rows, rows, whole))).lower(*args).compile()


def exchanged(program, devices: int) -> tuple[float, str]:
    """Bytes that a device receives, and the exchanges in words."""
    found = collectives(Program(program.as_text()), [0] * devices)
    words = ", ".join(f"{c.count} {c.kind} of {c.bytes / 2**20:.3g}" for c in found if c.received > 2**16)
    return sum(c.received for c in found), words or "none"


def median_seconds(programs, batch: int, width: int, mesh, rounds: int = 5) -> list[float]:
    rng = np.random.default_rng(0)
    image, text = rng.normal(size=(2, batch, width)).astype(np.float32)
    image, text = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (image, text))
    values = image, text, np.float32(1 / 0.07), np.float32(-10.0), np.ones(batch, bool)
    args = [
        jax.device_put(value, sharding) for value, sharding in zip(values, programs[0].input_shardings[0], strict=False)
    ]
    times = [[] for _ in programs]
    for _ in range(rounds + 1):  # the first is not counted
        for program, seconds in zip(programs, times, strict=True):
            start = time.perf_counter()
            jax.block_until_ready(program(*args))
            seconds.append(time.perf_counter() - start)
    return [statistics.median(seconds[1:]) for seconds in times]


def open_devices(topology: str) -> list:
    """The devices present, or those of a TPU topology that need not be there."""
    if not topology:
        return jax.devices()
    os.environ.update(ENVIRONMENT)
    return tpu_devices(parse_topology(topology))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="*", default=[1024, 2048, 4096, 8192, 16384, 32768])
    parser.add_argument("--width", type=int, default=512, help="of the embeddings")
    parser.add_argument("--topology", default="", help="such as v5e:16x16; default: the devices present")
    parser.add_argument("--run", type=int, default=2048, help="largest batch that is run")
    args = parser.parse_args()
    devices = open_devices(args.topology)
    mesh = jax.make_mesh(
        (len(devices), 1, 1), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3, devices=devices
    )
    print(f"{len(devices)} {devices[0].device_kind} device(s), embeddings of {args.width}; MiB of a device\n")
    head = ("loss", "global batch", "memory: ours", "naive", "naive / ours", "received: ours", "naive")
    print(f"| {' | '.join(head)} | exchanges over 64 kB: ours; naive | seconds, ours / naive |")
    print("|---|" + "---:|" * (len(head) - 1) + "---|---:|")
    for name, pair in LOSSES.items():
        for batch in args.batches:
            programs = [compile_gradients(loss, batch, args.width, mesh) for loss in pair]
            ours, naive = (program.memory_analysis().temp_size_in_bytes / 2**20 for program in programs)
            received, words = zip(*(exchanged(program, len(devices)) for program in programs), strict=True)
            timed = ""
            if batch <= args.run and not args.topology:
                seconds = median_seconds(programs, batch, args.width, mesh)
                timed = f"{seconds[0]:.3f} / {seconds[1]:.3f} = {seconds[0] / seconds[1]:.2f}"
            cells = [name, f"{batch:,}", f"{ours:,.0f}", f"{naive:,.0f}", f"{naive / ours:.1f}"]
            cells += [f"{size / 2**20:,.0f}" for size in received] + ["; ".join(words), timed]
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
