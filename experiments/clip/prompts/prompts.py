"""What CLIP's prompts add to zero-shot classification where one name means two things: tables in results.md.

    python experiments/clip/prompts/prompts.py --workdir=runs/prompts
    python experiments/clip/prompts/prompts.py --workdir=runs/quick --seeds=1 --config.duration="5 epochs"

Writes pictures and texts to WORKDIR/data, trains one CLIP a seed in WORKDIR/seed_N, classifies held-out pictures with each
template alone and with all of them, the classes being called by bare names and by names with a context, and writes
WORKDIR/results.md. Started again, it goes on where it stopped. `--config.KEY=VALUE` overrides the config as in
`vision_jax.main`.
"""

import argparse
import io
import json
import pathlib
import random
import sys
import tarfile

import jax
import numpy as np
from PIL import Image, ImageDraw

from vision_jax.command_line import report_errors
from vision_jax.data import open_source
from vision_jax.evaluation import make_evaluator
from vision_jax.main import parse
from vision_jax.tasks import make_task
from vision_jax.training import loop
from vision_jax.training.partitioning import make_mesh, replicated
from vision_jax.weights.work_folder import load_variables, locate

CONFIG = pathlib.Path(__file__).parents[3] / "configs/clip_digits.py"
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
FACES = range(1, 7)  # of a die: the names from one to six mean two things each

# Training captions are an opening, a phrase and an ending; half of the phrases say what kind of thing it is, half do not.
OPENINGS = ("", "this is ", "a picture of ", "here is ", "it shows ", "we see ", "an old print of ", "guess what: ")
NEUTRAL = ("{}", "a {}", "the {}", "the number {}", "some {}")
PHRASES = {
    "digit": ("the digit {}", "a handwritten {}", "{} in handwriting", "{} written with a pen", "{}, a digit"),
    "die": ("a die showing {}", "a throw of {}", "{} dots on a die", "{} rolled with a die", "{}, a die"),
}
ENDINGS = ("", ".", "!", " on dark ground", " in grey", ", quite small", " once more")

# How names are asked for: none of these templates, nor of these contexts, is in a training caption.
TEMPLATES = (
    "a photo of a {}.",  # CLIP's plain one
    "an image that shows the {}.",
    "a small grey picture of a {}.",
    "a blurry {}.",
    "{} in the middle.",
    "my drawing of a {}.",
    "a close-up of the {}.",
    "a scan of {}.",
    "what you see is {}.",
    "look, there is a {}!",
)
CONTEXTS = {"digit": "a handwritten digit", "die": "the face of a die"}

SOURCES = {"digits and dice": "folder:{}/pictures", "digits alone": "digits:test"}  # {}: the data's folder
NAMINGS = {"bare": "bare names", "context": "with context"}


def die(face: int, rng: random.Random) -> Image.Image:
    """A die's face as 16 x 16 grey levels: dark dots on a light square, at any place, size and angle of a small range."""
    finer = 8
    side, radius, lies = rng.uniform(10, 13), rng.uniform(0.9, 1.2), rng.uniform(-15, 15)
    middle = [8 + rng.uniform(-1, 1) for _ in range(2)]
    picture = Image.new("L", (16 * finer, 16 * finer), rng.randrange(40))
    pencil = ImageDraw.Draw(picture)

    def box(x, y, half):
        return [(place + sign * half) * finer for sign in (-1, 1) for place in (middle[0] + x, middle[1] + y)]

    pencil.rounded_rectangle(box(0, 0, side / 2), radius=finer, fill=rng.randrange(160, 256))
    dark, step = rng.randrange(40), side / 3.4
    for x, y in dots(face):
        pencil.ellipse(box(x * step, y * step, radius), fill=dark)
    return picture.rotate(lies, Image.Resampling.BICUBIC, center=(middle[0] * finer, middle[1] * finer)).reduce(finer)


def dots(face: int) -> list[tuple[int, int]]:
    """Where a face has its dots, on a grid of -1, 0 and 1."""
    places = [(0, 0)] if face % 2 else []
    for least, pair in ((2, (-1, 1)), (4, (1, 1)), (6, (1, 0))):
        if face >= least:
            places += [pair, (-pair[0], -pair[1])]
    return places


def pictures(split: str):
    """(kind, number, picture) of each digit of the split, followed by a die of the same number where there is one."""
    digits, rng = open_source(f"digits:{split}"), random.Random(split)
    for i in range(len(digits)):
        example = digits[i]
        yield "digit", example["label"], Image.fromarray(example["image"])
        if example["label"] in FACES:
            yield "die", example["label"], die(example["label"], rng)


def caption(kind: str, number: int, rng: random.Random) -> str:
    phrase = rng.choice(rng.choice((NEUTRAL, PHRASES[kind])))
    return rng.choice(OPENINGS) + phrase.replace("{}", NUMBERS[number]) + rng.choice(ENDINGS)


def png(picture: Image.Image) -> bytes:
    data = io.BytesIO()
    picture.save(data, "png")
    return data.getvalue()


def write_data(folder: pathlib.Path) -> None:
    """train.tar, pictures/KIND_NUMBER/*.png, and the JSON files that `evals.zero_shot` reads."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(0)
    with tarfile.open(folder / "train.tar", "w") as tar:
        for i, (kind, number, picture) in enumerate(pictures("train")):
            for suffix, data in (("png", png(picture)), ("txt", caption(kind, number, rng).encode())):
                member = tarfile.TarInfo(f"{i:05d}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    for i, (kind, number, picture) in enumerate(pictures("test")):
        file = folder / "pictures" / f"{kind}_{NUMBERS[number]}" / f"{i:05d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(picture))
    for naming in NAMINGS:  # by the sources' own names of their classes
        both = {f"{kind}_{NUMBERS[i]}": entry(kind, i, naming) for kind in PHRASES for i in numbers(kind)}
        alone = {str(i): entry("digit", i, naming) for i in numbers("digit")}
        for source, classes in zip(SOURCES, (both, alone), strict=True):
            classes_file(folder, source, naming).write_text(json.dumps(classes, indent=2))
    for name, templates in template_sets().items():
        (folder / name).write_text(json.dumps(templates))


def numbers(kind: str) -> range:
    return range(10) if kind == "digit" else FACES


def entry(kind: str, number: int, naming: str) -> dict:
    name = {"name": NUMBERS[number]}
    return name | {"context": CONTEXTS[kind]} if naming == "context" else name


def classes_file(folder: pathlib.Path, source: str, naming: str) -> pathlib.Path:
    return folder / f"{source.replace(' ', '_')}_{naming}.json"


def template_sets() -> dict[str, list[str]]:
    """File name -> templates: the name alone, each template alone, all of them."""
    alone = {f"template_{i}.json": [template] for i, template in enumerate(TEMPLATES)}
    return {"name.json": ["{}"]} | alone | {"templates.json": list(TEMPLATES)}


def train(workdir: pathlib.Path, data: pathlib.Path, seed: int, overrides: list[str]):
    """The config of a run of that seed, after it."""
    settings = {
        "data.train": f"wds:{data}/train.tar",
        "data.templates": (),
        "data.context_length": 64,
        "data.long_texts": "raise",
        "evals.zero_shot.every": "",
        "seed": seed,
    }
    command = [f"--config={CONFIG}", f"--workdir={workdir}", *(f"--config.{key}={settings[key]}" for key in settings)]
    _, config, workdir = parse([*command, *overrides])
    loop.train(config, workdir)
    return config


def classify(config, workdir: pathlib.Path, data: pathlib.Path) -> np.ndarray:
    """Zero-shot accuracy float[sources, namings, template sets] of a run."""
    mesh = make_mesh(config)
    task = make_task(config, open_source(config.data.train))
    accuracy = []
    with jax.set_mesh(mesh):
        variables = load_variables(locate(workdir), replicated(mesh))
        for name, source in SOURCES.items():
            for naming in NAMINGS:
                for templates in template_sets():
                    config.evals.zero_shot = {
                        "source": source.format(data),
                        "classes": str(classes_file(data, name, naming)),
                        "templates": str(data / templates),
                    }
                    made = make_evaluator("zero_shot", config.evals.zero_shot, task, config, mesh)
                    accuracy.append(made.run(variables)["top1"])
    return np.array(accuracy).reshape(len(SOURCES), len(NAMINGS), -1)


def markdown(accuracy: np.ndarray, ceiling: float, conditions: str) -> str:
    """Tables of `accuracy` float[seeds, sources, namings, template sets]: means over seeds, lowest and highest of them."""
    name, alone, all_of_them = accuracy[..., 0], accuracy[..., 1:-1], accuracy[..., -1]
    rows = {
        "no template, `{}`": name,
        f"one template, `{TEMPLATES[0]}`": alone[..., 0],
        "one template, the worst": alone.min(-1),
        "one template, mean": alone.mean(-1),
        "one template, the best": alone.max(-1),
        f"all {len(TEMPLATES)} together": all_of_them,
        "all together less the mean of one": all_of_them - alone.mean(-1),
        f"all together less `{TEMPLATES[0]}`": all_of_them - alone[..., 0],
    }
    head = ["prompts", *(f"{source}, {naming}" for source in SOURCES for naming in NAMINGS.values())]
    lines = [
        f"Zero-shot top-1, written by `prompts.py`: {conditions}; in brackets the lowest and the highest of the seeds.",
        f"With digits and dice, bare names cannot be above {ceiling:.3f}: two classes of one name read alike.",
        "",
        *table(head, {name: values.reshape(len(values), -1) for name, values in rows.items()}),
        "",
        "Each template:",
        "",
        *table(head, {f"`{template}`": alone[..., i].reshape(len(alone), -1) for i, template in enumerate(TEMPLATES)}),
        "",
    ]
    return "\n".join(lines)


def table(head: list[str], rows: dict[str, np.ndarray]) -> list[str]:
    """Lines of a Markdown table; each row's values are float[seeds, columns]."""
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
    for name, values in rows.items():
        cells = [f"{each.mean():.3f} ({each.min():.3f} to {each.max():.3f})" for each in values.T]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def run(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--workdir", type=pathlib.Path, required=True, help="folder for the data and the runs")
    parser.add_argument("--seeds", type=int, default=3, help="how many models are trained")
    args, overrides = parser.parse_known_args(argv)
    workdir = args.workdir.expanduser().absolute()
    write_data(workdir / "data")
    accuracy = []
    for seed in range(args.seeds):
        config = train(workdir / f"seed_{seed}", workdir / "data", seed, overrides)
        accuracy.append(classify(config, workdir / f"seed_{seed}", workdir / "data"))
    kinds = [kind for kind, _, _ in pictures("test")]
    conditions = f"{config.duration}, {args.seeds} seeds, {len(kinds)} pictures, {kinds.count('digit')} of them digits"
    report = markdown(np.array(accuracy), kinds.count("digit") / len(kinds), conditions)
    (workdir / "results.md").write_text(report, encoding="utf-8")
    print(report)


@report_errors
def main() -> None:
    run(sys.argv[1:])


if __name__ == "__main__":
    main()
