"""Says whether a config fits the devices it is meant for and how long it takes there, without those devices.

    vision-jax plan --config=mae_vith --topology=v5e:16x16
    vision-jax plan --config=vit_s16 --topology=v6e:4x4*2 --search --trials=12
    vision-jax plan --config=vit_digits

The config's own train step is compiled for the topology: v4, v5e, v5p or v6e and the shape of a slice, `*N` for N slices,
without any TPU (`pip install "jax[tpu]"`). All times are then the compiler's estimate: its static count of each
instruction's cycles at the chip's clock, and the communication between chips at the full bandwidth of their links as if
nothing overlapped; input, host and waiting are not included. With `--topology=cpu` or `gpu` (default: what is present) a
few steps are run on made-up batches and timed. The data are not needed. `--config.KEY=VALUE` overrides as in training.
Exit status 1: it does not fit.
"""

import json
import os
import sys

from vision_jax import limits
from vision_jax.command_line import Parser, apply_overrides, load_config, parse_overrides, report_errors
from vision_jax.config import base_config
from vision_jax.errors import ConfigError
from vision_jax.planning.topology import CHIPS, ENVIRONMENT, Topology, parse_topology, tpu_devices
from vision_jax.schema import OF_SOURCE, REQUIRED
from vision_jax.values import shown

PRESENT = ("", "cpu", "gpu")


def parse(argv: list[str]):
    """(arguments, config) from a command line; raises ConfigError if something is wrong with them."""
    parser = Parser("vision-jax plan", description=__doc__, allow_abbrev=False)
    parser.add_argument("--config", default="", help="FILE[:ARG] or NAME[:ARG]")
    parser.add_argument("--topology", default="", help="such as v5e:16x16, v4:4x4x4*2, cpu or gpu (default: present)")
    parser.add_argument("--search", action="store_true", help="try meshes, micro-batches and recomputation")
    parser.add_argument("--trials", type=int, default=8, help="programs that --search compiles at most (default: 8)")
    parser.add_argument("--examples", type=int, help="of the training data, where they cannot be counted")
    parser.add_argument("--classes", type=int, help="of the training data, likewise")
    parser.add_argument("--json", action="store_true", help="print one JSON object (with --search: one a line)")
    args, overrides = parser.parse_known_args(argv)
    known = ("--topology", "--search", "--trials", "--examples", "--classes", "--json")
    if not args.config:
        parse_overrides(overrides, base_config(), known)  # an unknown argument may be meant as --config
        raise ConfigError("--config=FILE or NAME is needed for a plan")
    config = load_config(args.config)
    apply_overrides(overrides, config, known)
    for name in ("trials", "examples", "classes"):
        if (number := getattr(args, name)) is not None and not 1 <= number < limits.STEPS:
            raise ConfigError(f"--{name} must lie between 1 and {limits.STEPS - 1}, got {shown(number)}")
    return args, config


def run(argv: list[str]) -> bool:
    """Prints what the command line asks for; returns whether the config (with --search: any) fits."""
    args, config = parse(argv)
    topology = None if args.topology in PRESENT else parse_topology(args.topology)
    devices, chip = open_devices(args.topology, topology)
    from vision_jax.planning.measuring import measure_step
    from vision_jax.planning.outlines import outline_source
    from vision_jax.planning.plans import make_plan, search
    from vision_jax.planning.report import format_plan, format_search, to_dict
    from vision_jax.training.origin import complete, read_origin

    if config.init_from == REQUIRED and config.model.name != OF_SOURCE:
        config.init_from = ""  # a plan does not need it
    config, _ = complete(config, read_origin(config))
    source = outline_source(
        config.data.train, tfds_dir=config.data.tfds_dir, examples=args.examples, classes=args.classes
    )
    settle(config)
    measure = None if topology else measure_step
    if not args.search:
        plan = make_plan(config, source, devices, chip, measure)
        print(json.dumps(to_dict(plan)) if args.json else format_plan(args.config, plan))
        return plan.fits
    plans = []
    for plan in search(config, source, devices, chip, args.trials, measure):
        plans.append(plan)
        if args.json:
            print(json.dumps(to_dict(plan)), flush=True)
        else:
            print(f"\r{len(plans)} tried", end="", file=sys.stderr, flush=True)
    if not args.json:
        print(f"\n{args.config} on {len(devices)} x {devices[0].device_kind}\n{format_search(plans)}")
    return any(plan.fits for plan in plans)


def open_devices(name: str, topology: Topology | None):
    """(devices, the chip's data or None to measure); sets what jax reads before it is first imported."""
    if topology:
        os.environ.update(ENVIRONMENT)
        return tpu_devices(topology), CHIPS[topology.generation]
    if name:
        os.environ["JAX_PLATFORMS"] = {"cpu": "cpu", "gpu": "cuda"}[name]
    import jax

    try:
        return jax.devices(), None
    except RuntimeError as error:
        raise ConfigError(f"--topology={name}: {str(error).splitlines()[0]}") from error


def settle(config) -> None:
    """Changes what a plan must not depend on: files that only training reads, and the cache of compiled programs."""
    from vision_jax.models.registry import model_fields

    config.log.compile_cache = ""
    config.init_from = ""
    if config.task == "contrastive" and config.data.tokenizer.startswith("clip"):
        config.data.tokenizer = "bytes"  # any will do: the model keeps CLIP's vocabulary
        if "vocab_size" not in config.model:
            config.model.vocab_size = model_fields(config.model.name)["vocab_size"]


@report_errors
def main() -> None:
    sys.exit(0 if run(sys.argv[1:]) else 1)


if __name__ == "__main__":
    main()
