"""Shows how a masked autoencoder reconstructs pictures: the picture, its visible part, the prediction, both together.

    vision-jax visualize --workdir=runs/mae                        # of the first evaluation images
    vision-jax visualize --workdir=runs/mae --images=cat.jpg,holidays --out=mine.png

`--images` takes files and folders, separated by commas.
"""

import pathlib

from vision_jax.command_line import Parser, check_checkpoint, report_errors
from vision_jax.errors import ConfigError
from vision_jax.files import user_path
from vision_jax.weights.work_folder import read_run_config


def visualize(
    workdir: pathlib.Path,
    checkpoint: str,
    names: list[str],
    count: int,
    seed: int,
    out: pathlib.Path,
    landscape: bool = False,
) -> None:
    """Reconstructs `count` pictures with the model of a run and writes the grid to `out`: see `reconstruction.sheet`."""
    import jax

    from vision_jax.data import open_source
    from vision_jax.data.images import eval_transform
    from vision_jax.data.sources.pictures import Pictures
    from vision_jax.evaluation.reconstruction import fixed_noise, readable_images, sheet, views
    from vision_jax.tasks import make_task
    from vision_jax.tasks.masked_autoencoding import MaskedAutoencoding
    from vision_jax.training.setup import process_settings
    from vision_jax.training.targets import write_picture
    from vision_jax.weights.work_folder import learned_labels, load_variables, locate

    config = read_run_config(workdir)
    task = make_task(config, learned_labels(workdir, config))
    if not isinstance(task, MaskedAutoencoding):
        raise ConfigError(f"{workdir} holds a run of the task {config.task}; pictures are of masked_autoencoding")
    variables = load_variables(locate(workdir, checkpoint))
    source = Pictures(names, "--images") if names else open_source(config.data.eval, tfds_dir=config.data.tfds_dir)
    images = readable_images(source, eval_transform(config.data), count)
    noise = fixed_noise(task.model, images, seed)
    with process_settings(config):
        psnr, pictures = jax.device_get(jax.jit(lambda *args: views(task, *args))(variables, images, noise))
    try:
        write_picture(out, sheet(task.model, psnr, pictures, landscape))
    except OSError as error:
        raise ConfigError(f"--out: cannot write {out}: {error.strerror}") from error
    print(f"{out}: {len(images)} pictures, PSNR of the hidden pixels {psnr.mean():.2f} dB")


@report_errors
def main() -> None:
    parser = Parser("vision-jax visualize", description=__doc__)
    parser.add_argument("--workdir", required=True, help="work folder of a masked autoencoding run")
    parser.add_argument("--checkpoint", default="last", help="last, best or a step (default: last)")
    parser.add_argument("--images", default="", help="files and folders of pictures, separated by commas")
    parser.add_argument("--count", type=int, default=8, help="pictures at most (default: 8)")
    parser.add_argument("--seed", type=int, default=0, help="which patches are hidden (default: 0)")
    parser.add_argument("--out", default="", help="PNG to write (default: WORKDIR/pictures/visualize.png)")
    parser.add_argument("--landscape", action="store_true", help="a column for each picture instead of a row")
    args = parser.parse_args()
    if args.count < 1:
        raise ConfigError(f"--count must be at least 1, got {args.count}")
    if args.seed < 0:
        raise ConfigError(f"--seed must be at least 0, got {args.seed}")
    workdir = user_path(args.workdir)
    check_checkpoint(args.checkpoint)
    read_run_config(workdir)  # raises if there is no run, before jax is imported
    out = user_path(args.out) if args.out else workdir / "pictures" / "visualize.png"
    names = [name for name in args.images.split(",") if name]
    visualize(workdir, args.checkpoint, names, args.count, args.seed, out, args.landscape)


if __name__ == "__main__":
    main()
