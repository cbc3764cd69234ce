"""Converts weights from one project's format to another's.

    vision-jax convert runs/vit hf_vit --format=hf                     # for transformers
    vision-jax convert ViT-B-32.pt clip --format=open_clip
    vision-jax convert google/vit-base-patch16-224 timm_vit --format=timm --set norm_eps=1e-6

SOURCE is whatever `vj.load_pretrained` takes, DEST a folder that does not exist yet. Image preparation and class names
are converted, too, if the source has them.
"""

import pathlib
import shutil

from vision_jax.command_line import Parser, report_errors
from vision_jax.errors import ConfigError
from vision_jax.files import user_path
from vision_jax.source_arguments import add_source_arguments, source_arguments
from vision_jax.weights.formats import check_format

TOKENIZER_FILES = ("vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def convert(source: str, folder: pathlib.Path, format: str, **arguments) -> None:
    """arguments: passed on to `vj.load_pretrained`."""
    check_format(format)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"'{folder}' is there already: DEST is a new or an empty folder")
    import jax

    from vision_jax.weights.exports import save_pretrained
    from vision_jax.weights.preprocessing import preprocessing_of
    from vision_jax.weights.pretrained import open_pretrained

    opened, model, variables = open_pretrained(source, **arguments)
    image_size = arguments.get("image_size") or opened.image_size
    save_pretrained(
        folder,
        model,
        variables,
        format,
        preprocessing=preprocessing_of(opened, image_size) if opened.preprocessing else None,
        image_size=image_size,
        class_names=opened.class_names if getattr(model, "num_classes", 0) == len(opened.class_names) else (),
        multi_label=opened.outputs.activation == "sigmoid" and not opened.outputs.exclusive,
    )
    for file in (opened.path.parent / name for name in TOKENIZER_FILES):
        if opened.tokenizer and file.is_file():
            shutil.copy(file, folder)
    count = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    print(f"{folder}: {type(model).__name__}, {count:,} parameters, format {format}")


@report_errors
def main() -> None:
    parser = Parser("vision-jax convert", description=__doc__)
    parser.add_argument("source", metavar="SOURCE", help="a path, or an id of the Hugging Face hub")
    parser.add_argument("folder", metavar="DEST", help="the folder to make")
    parser.add_argument("--format", required=True, help="hf, timm, open_clip or openai")
    add_source_arguments(parser)
    args = parser.parse_args()
    convert(args.source, user_path(args.folder), args.format, **source_arguments(args, args.source))


if __name__ == "__main__":
    main()
