"""Starting again with something changed: what may change does, the rest is one line, or is accepted knowingly."""

import io
import json
import pathlib
import shutil
import signal
import tarfile
from collections.abc import Iterator

import numpy as np
from drive import STEPS, Row, Run, Scratch, bits, checkpoints, last_step, untouched

CLASSES = ("ant", "bee", "cat")
CLIP = (
    "--config.model.image.width=16",
    "--config.model.image.depth=1",
    "--config.model.image.mlp_dim=16",
    "--config.model.image.num_heads=2",
    "--config.model.text_width=16",
    "--config.model.text_depth=1",
    "--config.batch_size=8",
    "--config.duration=300 steps",
    "--config.schedule.warmup=10 steps",
    "--config.checkpoint.every=20 steps",
    "--config.evals.zero_shot.every=",
    "--config.evals.retrieval.every=",
    "--config.checkpoint.best=",
    "--config.log.every=1 steps",
    "--config.log.tensorboard=False",
    "--config.log.compile_cache=",
)


def rows(scratch: Scratch) -> Iterator[Row]:
    yield from pictures(scratch)
    yield from shards(scratch)
    yield from keys(scratch)
    yield from durations(scratch)
    yield from what_may_change(scratch)
    yield from starting_point(scratch)


def picture(seed: int, side: int = 20) -> bytes:
    """A PNG file of random blocks."""
    from PIL import Image

    blocks = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(blocks).resize((side, side), Image.Resampling.NEAREST).save(stream, "PNG")
    return stream.getvalue()


def draw_folders(root: pathlib.Path) -> tuple[str, ...]:
    """Folders of pictures for training and evaluation; returns the arguments that name them."""
    for split, count in (("train", 8), ("test", 3)):
        for label, name in enumerate(CLASSES):
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                (root / split / name / f"{index}.png").write_bytes(picture(label * 100 + index))
    return f"--config.data.train=folder:{root / 'train'}", f"--config.data.eval=folder:{root / 'test'}"


def stop_at(scratch: Scratch, workdir: pathlib.Path, step: int, *arguments: str, **options) -> Run:
    run = scratch.start(workdir, *arguments, **options)
    run.until_step(workdir, step)
    run.tell(signal.SIGTERM)
    return run.finish()


def refusal(
    scratch: Scratch,
    done: str,
    workdir: pathlib.Path,
    *arguments: str,
    words: tuple[str, ...],
    lines: int = 1,
    **options,
) -> Row:
    """A start that has to be refused in one line with these words, and to change nothing."""
    before = untouched(workdir)
    run = scratch.train(workdir, *arguments, **options)
    wrong = run.check(2, "error: ", *words, lines=lines)
    return run.row("changes", done, wrong, ["the work folder was changed"] * (untouched(workdir) != before))


def acceptance(scratch: Scratch, done: str, workdir: pathlib.Path, *arguments: str, wrong=(), **options) -> Row:
    """A start that has to go on to the end."""
    run = scratch.train(workdir, *arguments, **options)
    return run.row("changes", done, run.check(0), list(wrong))


def pictures(scratch: Scratch) -> Iterator[Row]:
    root, workdir = scratch.folder("photos"), scratch.folder("on_photos")
    arguments = draw_folders(root)
    quiet = scratch.quiet(*arguments)
    stop_at(scratch, workdir, 30, *arguments)
    train, kept = root / "train", root / "kept"
    shutil.copytree(train, kept)
    changes = {
        "a picture added": ("ant", lambda: (train / "ant/new.png").write_bytes(picture(1))),
        "a picture removed": ("bee", lambda: (train / "bee/3.png").unlink()),
        "a picture of another size in its place": ("cat", lambda: (train / "cat/0.png").write_bytes(picture(2, 27))),
        "a class's folder renamed": ("wasp", lambda: (train / "ant").rename(train / "wasp")),
    }
    for done, (name, change) in list(changes.items())[: 1 if scratch.quick else None]:
        change()
        words = (f"'{name}'", "--accept=data")
        yield refusal(scratch, f"{done}; the same command", workdir, *arguments, words=words)
        if done == "a picture added":
            other = scratch.folder("accepting")
            shutil.copytree(workdir, other)
            yield acceptance(scratch, f"{done}; --accept=data", other, *arguments, "--accept=data")
            yield acceptance(scratch, "the same command after that, without --accept", other, *arguments)
        shutil.rmtree(train)
        shutil.copytree(kept, train)
    (root / "test/ant/new.png").write_bytes(picture(3))
    run = scratch.train(workdir, *arguments)
    wrong = run.check(0) or same_state(workdir, quiet)
    yield run.row("changes", "training data as they were, a picture added to data.eval: goes on, same bits", wrong)


def same_state(workdir: pathlib.Path, quiet: pathlib.Path) -> list[str]:
    last = checkpoints(quiet)[-1]
    if checkpoints(workdir)[-1:] != [last]:
        return [f"its last checkpoint is {checkpoints(workdir)[-1:]}, not {last}"]
    ours, theirs = (bits(folder / "checkpoints" / str(last)) for folder in (workdir, quiet))
    return [] if ours == theirs else ["the final state has other bits"]


def write_shard(path: pathlib.Path, seed: int) -> None:
    with tarfile.open(path, "w") as archive:
        for index in range(16):
            for ending, content in (("png", picture(seed + index)), ("txt", f"picture {seed + index}".encode())):
                member = tarfile.TarInfo(f"{seed + index:05d}.{ending}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


def shards(scratch: Scratch) -> Iterator[Row]:
    root, workdir = scratch.folder("shards"), scratch.folder("on_shards")
    root.mkdir()
    for shard in range(2):
        write_shard(root / f"{shard}.tar", shard * 100)
    arguments = (*CLIP, f"--config.data.train=wds:{root}/{{0..1}}.tar")
    options = {"config": "--config=configs/clip_digits.py"}
    stop_at(scratch, workdir, 30, *arguments, **options)
    write_shard(root / "1.tar", 500)
    told = {"words": ("1.tar", "--accept=data"), "lines": 2}  # its pairs are looked up first, which is said, too
    yield refusal(scratch, "a shard downloaded anew; the same command", workdir, *arguments, **told, **options)
    yield acceptance(scratch, "the same with --accept=data", workdir, *arguments, "--accept=data", **options)


def keys(scratch: Scratch) -> Iterator[Row]:
    workdir = scratch.folder("keys")
    stop_at(scratch, workdir, 30)
    rate, key = "--config.schedule.base_lr=0.002", "schedule.base_lr"
    yield refusal(scratch, "another learning rate", workdir, rate, words=(key, "0.001", "0.002", f"--accept={key}"))
    yield refusal(scratch, "--accept of another key than the changed one", workdir, rate, "--accept=seed", words=(key,))
    yield refusal(scratch, "--accept of no key", workdir, "--accept=no.such.key", words=("no.such.key",))
    row = acceptance(scratch, f"another learning rate with --accept={key}", workdir, rate, f"--accept={key}")
    text = (workdir / "config.json").read_text()
    wrong = [] if json.loads(text)["schedule"]["base_lr"] == 0.002 else ["config.json has the old learning rate"]
    wrong += [] if "accepted" in text else ["config.json does not say what was accepted"]
    row.wrong += tuple(wrong)
    yield row


def durations(scratch: Scratch) -> Iterator[Row]:
    unfinished, finished = scratch.folder("unfinished"), scratch.folder("finished")
    stop_at(scratch, unfinished, 30)
    shutil.copytree(scratch.quiet(), finished)
    longer = f"--config.duration={STEPS + 50} steps"
    for workdir in (unfinished, finished):
        state = workdir.name
        yield refusal(
            scratch, f"a longer duration, run {state}", workdir, longer, words=("duration", "--accept=duration")
        )
        row = acceptance(scratch, f"the same with --accept=duration, run {state}", workdir, longer, "--accept=duration")
        row.wrong += ("it does not end at the new step",) * (last_step(workdir) != STEPS + 50)
        yield row
        yield acceptance(scratch, f"the same command after that, run {state}", workdir, longer)


def what_may_change(scratch: Scratch) -> Iterator[Row]:
    changed = {
        "log.every, log.tensorboard": ("--config.log.every=7 steps", "--config.log.tensorboard=True"),
        "evals.classification.every, evals.batch_size": ("--config.evals.classification.every=70 steps", "--config.evals.batch_size=40"),
        "checkpoint.every, keep": ("--config.checkpoint.every=17 steps", "--config.checkpoint.keep=4"),
        "checkpoint.best, best_mode": ("--config.checkpoint.best=classification/loss", "--config.checkpoint.best_mode=min"),
        "checkpoint.best empty": ("--config.checkpoint.best=",),
        "data.workers, threads, prefetch": ("--config.data.workers=2", "--config.data.threads=1", "--config.data.prefetch=2"),
    }  # fmt: skip
    stopped, workdir = scratch.folder("stopped"), scratch.root / "changed"
    stop_at(scratch, stopped, 60)
    for done, arguments in list(changed.items())[: 1 if scratch.quick else None]:
        shutil.rmtree(workdir, ignore_errors=True)
        shutil.copytree(stopped, workdir)
        run = scratch.train(workdir, *arguments)
        wrong = run.check(0) or same_state(workdir, scratch.quiet())
        yield run.row("changes", f"{done} changed: goes on, same bits", wrong)
        if "best," in done:
            back = scratch.train(workdir)
            yield back.row("changes", "and checkpoint.best changed back", back.check(0))
    shutil.rmtree(workdir, ignore_errors=True)
    shutil.copytree(stopped, workdir)
    mesh = ("--config.mesh.data=1", "--config.mesh.fsdp=2", "--config.mesh.fsdp_min_size=1")
    run = scratch.train(workdir, *mesh, environment={"XLA_FLAGS": "--xla_force_host_platform_device_count=2"})
    wrong = run.check(0) + ["nothing says that rounding changes"] * ("rounding" not in run.out + run.err)
    yield run.row("changes", "mesh changed: goes on, and says that rounding changes", wrong)


def starting_point(scratch: Scratch) -> Iterator[Row]:
    weights, workdir = scratch.folder("weights"), scratch.folder("initialised")
    shutil.copytree(scratch.quiet(), weights)
    start_from = f"--config.init_from={weights}"
    stop_at(scratch, workdir, 30, start_from)
    quiet = scratch.quiet(start_from)
    shutil.rmtree(weights)
    run = scratch.train(workdir, start_from)
    wrong = run.check(0) or same_state(workdir, quiet)
    yield run.row("changes", "init_from is gone, a checkpoint is there: goes on, same bits", wrong)
