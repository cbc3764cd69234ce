"""Images a second of the bare jitted train step, of the whole training loop with its data, and of a peer's step.

    python experiments/benchmarks/train_step.py                      # ViT-S/16 at 224, batch 16, JPEGs made on the spot
    python experiments/benchmarks/train_step.py --data=folder:PATH   # real pictures

The peer is the same ViT built from Flax's own MultiHeadDotProductAttention, LayerNorm and Dense, in the same train step
with the same optimizer. Steps of the two alternate one by one, and the loop follows in each round, in the same process;
what counts is the ratio of neighbours, of which the median is printed. FLOPs are the model's, counted from its jaxpr.
"""

import argparse
import io
import pathlib
import statistics
import tempfile
import time

import jax
import numpy as np
from peer_vit import PeerViT
from PIL import Image

from vision_jax.config import base_config
from vision_jax.data import open_source
from vision_jax.data.feed import device_batches
from vision_jax.data.pipeline import train_batches
from vision_jax.tasks import make_task
from vision_jax.training.loop import Loop
from vision_jax.training.profiling import Profiler
from vision_jax.training.reporting import Reporter
from vision_jax.training.setup import compile_step, prepare
from vision_jax.training.stopping import StopRequest


def make_pictures(folder: pathlib.Path, count: int = 64) -> str:
    """A folder source of JPEGs of ImageNet's usual size, smooth noise, in two classes."""
    rng = np.random.default_rng(0)
    for i in range(count):
        path = folder / f"class{i % 2}" / f"{i}.jpg"
        path.parent.mkdir(exist_ok=True)
        small = rng.integers(0, 256, (48, 64, 3), np.uint8)
        Image.fromarray(small).resize((500, 375), Image.Resampling.BICUBIC).save(path, quality=90)
    return f"folder:{folder}"


def make_config(args, data: str):
    c = base_config()
    c.model = dict(name=args.model, num_classes=1000)
    c.data = dict(train=data, image_size=args.image_size)
    c.data.augment.policy = args.policy
    c.precision.compute = args.compute
    c.batch_size = args.batch
    c.duration = f"{args.steps} steps"
    c.optimizer = dict(name="adamw", weight_decay=0.05, clip_norm=1.0)
    c.checkpoint.every = ""
    c.evals.classification.every = ""
    c.log.tensorboard = False
    return c


class NoCheckpoints:
    """The loop's checkpoints, left out: what is timed is steps and data."""

    beside: dict = {}  # noqa: RUF012

    def save(self, *_): ...

    def wait(self): ...


class Runner:
    """One prepared and compiled configuration, to be timed again and again."""

    def __init__(self, config, model=None):
        task = make_task(config, open_source(config.data.train))
        task.model = model or task.model
        self.setup = prepare(config, task=task)
        with jax.set_mesh(self.setup.mesh):
            self.step = compile_step(self.setup)
            self.create = jax.jit(self.setup.create, out_shardings=self.setup.shardings)
        with train_batches(config, seed=0, start_step=0) as host:
            self.batch = next(device_batches(host, self.setup.mesh, ahead=0))
        self.state = self.create()
        self.timed_step()  # the first one warms up

    def timed_step(self) -> float:
        """Images/s of one step alone, on a batch that is already on the device."""
        start = time.perf_counter()
        self.state, _ = self.step(self.state, self.batch)
        jax.block_until_ready(self.state)
        return self.setup.config.batch_size / (time.perf_counter() - start)

    def loop(self) -> float:
        """Images/s of the training loop with its data, metrics and progress, as its own report has them."""
        total = self.setup.derived["steps"]["duration"]
        reporter = Reporter(
            None, total_steps=total, batch_size=self.setup.config.batch_size, stream=io.StringIO(), is_writer=False
        )
        with jax.set_mesh(self.setup.mesh):
            state = jax.block_until_ready(self.create())
            rest = {}, NoCheckpoints(), reporter, Profiler(pathlib.Path()), StopRequest()
            Loop(self.setup, self.step, state, *rest).run()
        return reporter.summary()["images_per_second"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="vit_s16")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--compute", default="float32")
    parser.add_argument("--policy", default="", help="RandAugment policy of the data, e.g. 'randaug(2,10)'")
    parser.add_argument("--steps", type=int, default=8, help="steps in each round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--data", default="", help="a source, e.g. folder:PATH")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        config = make_config(args, args.data or make_pictures(pathlib.Path(folder)))
        ours = Runner(config)
        peer = Runner(config, PeerViT.like(ours.setup.task.model))
        steps, peers, loops = [], [], []
        for number in range(args.rounds):
            pairs = [(ours.timed_step(), peer.timed_step()) for _ in range(args.steps)]
            steps.append([pair[0] for pair in pairs])
            peers.append([pair[1] for pair in pairs])
            loops.append(ours.loop())
            own, other = map(statistics.median, (steps[-1], peers[-1]))
            print(f"round {number + 1}: step {own:.3g}, peer {other:.3g}, loop {loops[-1]:.3g} images/s", flush=True)
    step = statistics.median(rate for row in steps for rate in row)
    peer_step = statistics.median(rate for row in peers for rate in row)
    to_peer = statistics.median(
        a / b for ours, others in zip(steps, peers, strict=True) for a, b in zip(ours, others, strict=True)
    )
    to_step = statistics.median(rate / statistics.median(row) for rate, row in zip(loops, steps, strict=True))
    device = jax.devices()[0].device_kind
    print(
        f"\n{args.model}, {args.image_size} pixels, batch {args.batch}, {args.compute}, {len(jax.devices())} x {device}"
    )
    for name, rate in (("bare step", step), ("peer's step", peer_step), ("whole loop", statistics.median(loops))):
        print(f"{name:<12} {rate:8.4g} images/s")
    flops = ours.setup.flops / args.batch
    print(f"the step does {flops / 1e9:.1f} GFLOP an image: {flops * step / 1e12:.3f} TFLOP/s")
    print(f"loop / step  {to_step:.3f}")
    print(f"step / peer  {to_peer:.3f}")


if __name__ == "__main__":
    main()
