"""What seeing a quarter of the patches saves: FLOPs and time of MAE's train step against an encoder of all tokens.

    python experiments/mae/encoder_cost.py                            # writes encoder_cost.md beside this file
    python experiments/mae/encoder_cost.py --model=mae_vit_l16 --batch=64 --compute=bfloat16

The peer has the same parameters and the same loss, but its encoder processes mask tokens, as in BERT and SimMIM: hidden
patches are replaced by a learned token in front of the blocks, and the decoder sees the whole sequence. Both take the
same forward and backward pass of the same batch; runs alternate one by one, and the ratio of neighbours is what counts.
FLOPs are the model's matrix products, counted from its jaxpr.
"""

import argparse
import os
import pathlib
import statistics
import time

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vision_jax.models import create_model
from vision_jax.models.mae import MAE
from vision_jax.ops.masking import random_masking
from vision_jax.training.flops import count_flops


class SeeingAll(MAE):
    """An MAE whose encoder takes mask tokens in the hidden patches' places."""

    def setup(self):
        super().setup()
        self.encoder_mask_token = self.param("encoder_mask_token", nn.initializers.normal(0.02), (1, 1, self.width))

    def predict(self, images, noise=None):
        patches, cls_position = self.encoder.embed_patches(images)
        if noise is None:
            noise = jax.random.uniform(self.make_rng("masking"), patches.shape[:2])
        *_, mask = random_masking(noise, self.mask_ratio)
        tokens = jnp.where(mask[..., None] > 0, self.encoder_mask_token.astype(patches.dtype), patches)
        latent = self.encoder.apply_blocks(self.encoder.add_prefix(tokens, cls_position))
        in_place = jnp.broadcast_to(jnp.arange(mask.shape[1]), mask.shape)
        return self.decoder(latent, in_place, self.encoder.grid(images.shape[1:3])), mask


def forward_flops(model: MAE, images) -> float:
    tokens = (images.shape[1] // model.patch_size) * (images.shape[2] // model.patch_size)
    noise = jax.ShapeDtypeStruct((images.shape[0], tokens), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images, noise)
    return count_flops(lambda *args: model.apply(*args)[0], variables, images, noise)


def encoder_flops(model: MAE, images) -> float:
    """Of the encoder's blocks, forward: what the model does more than one without them."""
    return forward_flops(model, images) - forward_flops(model.clone(depth=0), images)


def compiled_step(model: MAE, images, noise):
    """() -> loss and gradients, waited for."""
    variables = jax.jit(model.init)(jax.random.key(0), images, noise)
    step = jax.jit(jax.value_and_grad(lambda variables: model.apply(variables, images, noise)[0])).lower(variables)
    step = step.compile()
    return lambda: jax.block_until_ready(step(variables))


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="mae_vit_b16")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--compute", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).with_name("encoder_cost.md"))
    args = parser.parse_args(argv)

    ours = create_model(args.model, dtype=jnp.dtype(args.compute))
    peer = SeeingAll(
        **{name: getattr(ours, name) for name in ours.__dataclass_fields__ if name not in ("parent", "name")}
    )
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(args.batch, args.image_size, args.image_size, 3)), jnp.float32)
    noise = jnp.asarray(rng.random((args.batch, (args.image_size // ours.patch_size) ** 2)), jnp.float32)
    shapes = jax.ShapeDtypeStruct(images.shape, images.dtype)
    models = {"visible patches": ours, "all tokens": peer}
    flops = {name: encoder_flops(model, shapes) / args.batch / 1e9 for name, model in models.items()}
    steps = {name: compiled_step(model, images, noise) for name, model in models.items()}
    times: dict[str, list] = {name: [] for name in steps}
    for _ in range(args.rounds + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - start)
    first, second = (times[name][1:] for name in steps)
    gain = statistics.median(b / a for a, b in zip(first, second, strict=True))
    device = f"{len(jax.devices())} x {jax.devices()[0].device_kind}, {os.cpu_count()} cores, jax {jax.__version__}"
    lines = [
        f"Measured by `encoder_cost.py`: {args.model}, {args.image_size} pixels, batch {args.batch}, {args.compute}, "
        f"mask ratio {ours.mask_ratio}, median of {args.rounds} alternating runs, {device}.",
        "",
        "| encoder sees | its blocks' forward GFLOPs an image | forward and backward of the whole model, ms an image |",
        "|---|---:|---:|",
    ]
    for name in models:
        milliseconds = 1e3 * statistics.median(times[name][1:]) / args.batch
        lines.append(f"| {name} | {flops[name]:.2f} | {milliseconds:.1f} |")
    ratio = flops["visible patches"] / flops["all tokens"]
    lines += ["", f"FLOPs of the encoder: {ratio:.3f} of the peer's. A step is {gain:.2f} times as fast.", ""]
    args.out.write_text("\n".join(lines), encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
