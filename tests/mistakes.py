"""Typical mistakes of newcomers: the command lines, and the words with which each is to be told in one line.

python tests/mistakes.py     # runs each as a user would, and prints what is said and after how many seconds
"""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

RUN = pathlib.Path(__file__).parent / "golden" / "work_folder"
TRAIN, WORK = ["train", "--config=vit_digits"], "--workdir=runs/new"

# Told before jax is imported. Files and folders are those of `make_files`.
OF_ARGUMENTS = {
    "no such command": (["trian", "--config=vit_digits"], ["'trian'", "did you mean 'train'?"]),
    "the command forgotten": (["--config=vit_digits", WORK], ["a command comes first", "train"]),
    "a config misspelt": (["train", "--config=vit_digts", WORK], ["did you mean 'vit_digits'?"]),
    "a folder as the config": (["train", "--config=mine", WORK], ["'mine' is a folder", "known: photos.py"]),
    "a run as the config": (["train", "--config=runs/vit_digits", WORK], ["is a folder", "--workdir"]),
    "another Python file as the config": (["train", "--config=setup.py", WORK], ["defines no get_config()"]),
    "a YAML file as the config": (["train", "--config=vit.yaml", WORK], ["get_config()", "Python"]),
    "a config whose file fails": (["train", "--config=mine/photos.py", WORK], ["mine/photos.py", "ImportError"]),
    "--config= forgotten": (["train", "vit_digits", WORK], ["did you mean --config=vit_digits?"]),
    "--config= forgotten in a plan": (["plan", "vit_s16"], ["did you mean --config=vit_s16?"]),
    "no work folder": (TRAIN, ["--workdir is needed"]),
    "--lr": ([*TRAIN, WORK, "--lr=3e-4"], ["did you mean --config.schedule.base_lr=3e-4?"]),
    "--batch_size": ([*TRAIN, WORK, "--batch_size", "64"], ["did you mean --config.batch_size=64?"]),
    "--epochs": ([*TRAIN, WORK, "--epochs", "30"], ['did you mean --config.duration="30 epochs"?']),
    "--weight-decay": ([*TRAIN, WORK, "--weight-decay=0.1"], ["did you mean --config.optimizer.weight_decay=0.1?"]),
    "--model of training": ([*TRAIN, WORK, "--model=vit_b16"], ["--config.model.name=vit_b16"]),
    "--output_dir": ([*TRAIN, "--workdir=x", "--output_dir=x"], ["did you mean --workdir?"]),
    "--resume": ([*TRAIN, WORK, "--resume"], ["a run goes on by itself"]),
    "--device": ([*TRAIN, WORK, "--device=cuda"], ["JAX_PLATFORMS"]),
    "config. forgotten": ([*TRAIN, WORK, "--optimizer.name=sgd"], ["did you mean --config.optimizer.name=sgd?"]),
    "dashes forgotten": ([*TRAIN, WORK, "batch_size=64"], ["did you mean --config.batch_size=64?"]),
    "a key of another section": ([*TRAIN, WORK, "--config.optimizer.lr=1"], ["did you mean 'schedule.base_lr'?"]),
    "epochs": ([*TRAIN, WORK, "--config.epochs=30"], ["did you mean duration='N epochs'?"]),
    "img_size": ([*TRAIN, WORK, "--config.data.img_size=32"], ["did you mean 'data.image_size'?"]),
    "num_workers": ([*TRAIN, WORK, "--config.num_workers=4"], ["did you mean 'data.workers'?"]),
    "a section forgotten": ([*TRAIN, WORK, "--config.weight_decay=0.1"], ["did you mean 'optimizer.weight_decay'?"]),
    "a duration without its unit": ([*TRAIN, WORK, "--config.duration=30"], ["did you mean '30 epochs'?"]),
    "a batch of half an example": ([*TRAIN, WORK, "--config.batch_size=64.5"], ["must be int", "64.5"]),
    "an optimizer's kin": ([*TRAIN, WORK, "--config.optimizer.name=adam"], ["did you mean 'adamw'?"]),
    "a precision of torch's": ([*TRAIN, WORK, "--config.precision.compute=fp16"], ["float32, bfloat16"]),
    "timm's name of a model": (
        [*TRAIN, WORK, "--config.model.name=vit_base_patch16_224"],
        ["did you mean 'vit_b16'?"],
    ),
    "the hub's name of a model": (
        [*TRAIN, WORK, "--config.model.name=google/vit-base-patch16-224"],
        ["did you mean 'vit_b16'?", "init_from"],
    ),
    "no such model": ([*TRAIN, WORK, "--config.model.name=vit_b17"], ["did you mean 'vit_b16'?"]),
    "a data folder misspelt": ([*TRAIN, WORK, "--config.data.train=folder:pets/trian"], ["did you mean 'pets/train'?"]),
    "folder: forgotten": ([*TRAIN, WORK, "--config.data.train=pets/train"], ["did you mean 'folder:pets/train'?"]),
    "a source misspelt": ([*TRAIN, WORK, "--config.data.train=digit:train"], ["did you mean 'digits'?"]),
    "a table misspelt": ([*TRAIN, WORK, "--config.data.train=csv:pets/tabel.csv"], ["did you mean 'pets/table.csv'?"]),
    "init_from misspelt": ([*TRAIN, WORK, "--config.init_from=runs/vit_digit"], ["did you mean 'runs/vit_digits'?"]),
    "a key to accept misspelt": ([*TRAIN, WORK, "--accept=lr"], ["did you mean --accept=schedule.base_lr?"]),
    "a run to evaluate misspelt": (["eval", "--workdir=runs/vit_digit"], ["no folder", "did you mean", "vit_digits'?"]),
    "no run to evaluate": (["eval", "--workdir=pets"], ["no config.json", "not the work folder of a run"]),
    "a checkpoint misspelt": (["eval", "--workdir=runs/vit_digits", "--checkpoint=bset"], ["did you mean 'best'?"]),
    "a run to look at misspelt": (
        ["visualize", "--workdir=runs/vit_digit"],
        ["no folder", "did you mean", "vit_digits'?"],
    ),
    "a topology misread": (["plan", "--config=vit_s16", "--topology=v5e-256"], ["--topology", "v5e:16x16"]),
    "a model misspelt": (["predict", "--model=runs/vit_digit", "pets"], ["did you mean 'runs/vit_digits'?"]),
    "an architecture as weights": (["predict", "--model=vit_b16", "pets"], ["'vit_b16' is an architecture"]),
    "a run without a checkpoint": (["predict", "--model=runs/begun", "pets"], ["runs/begun", "no checkpoint"]),
    "a step that is not kept": (
        ["predict", "--model=runs/vit_digits", "--checkpoint=999", "pets"],
        ["no checkpoint '999'", "best, last, 10"],
    ),
    "the best of a run that measured nothing": (
        ["predict", "--model=runs/unmeasured", "--checkpoint=best", "pets"],
        ["was evaluated by", "use last, or a step"],
    ),
    "a picture misspelt": (["predict", "--model=runs/vit_digits", "flat/cta.jpg"], ["did you mean 'flat/cat.jpg'?"]),
    "a folder without pictures": (
        ["predict", "--model=runs/vit_digits", "mine"],
        ["IMAGE: there are no pictures", "mine"],
    ),
    "an option misspelt": (["predict", "--model=runs/vit_digits", "--lables=a,b", "pets"], ["did you mean --labels?"]),
    "--workdir of predict": (["predict", "--workdir=runs/vit_digits", "pets"], ["--model is needed"]),
    "no folder to convert to": (["convert", "runs/vit_digits", "--format=hf"], ["DEST is needed"]),
    "a format misnamed": (["convert", "runs/vit_digits", "out", "--format=pytorch"], ["did you mean 'hf'?"]),
    "a folder that is full": (["convert", "runs/vit_digits", "pets", "--format=hf"], ["'pets' is there already"]),
}

# Told where the data, the model or the run is looked at.
OF_CONTENTS = {
    "a field of others' models": (
        [*TRAIN, WORK, "--config.model.embed_dim=64"],
        ["no field 'embed_dim'", "did you mean 'width'?"],
    ),
    "a folder of folders of classes": ([*TRAIN, WORK, "--config.data.train=folder:pets"], ["'folder:pets/train'?"]),
    "pictures right in the folder": ([*TRAIN, WORK, "--config.data.train=folder:flat"], ["outside of class folders"]),
    "pictures of an iPhone": ([*TRAIN, WORK, "--config.data.train=folder:phone"], ["b.heic' and 1 more", "convert"]),
    "a mesh of other devices": ([*TRAIN, WORK, "--config.mesh.fsdp=3"], ["mesh", "fsdp=3", "devices"]),
    "another config for a run": (
        [*TRAIN, "--workdir=runs/vit_digits", "--config.schedule.base_lr=0.1"],
        ["holds a run with another config", "--accept=", "another --workdir"],
    ),
    "a pointer instead of weights": (["predict", "--model=lfs.safetensors", "pets"], ["git lfs pull"]),
    "a folder without weights": (["predict", "--model=pets", "pets"], ["'pets'", "model.safetensors"]),
    "a label that is no class": (
        ["predict", "--model=runs/vit_digits", "--labels=seven", "flat/cat.jpg"],
        ["no class 'seven'"],
    ),
    "a HEIC that is called .jpg": (
        ["predict", "--model=runs/vit_digits", "phone/a/renamed.jpg"],
        ["none of the pictures can be read"],
    ),
    "a picture of what is no autoencoder": (["visualize", "--workdir=runs/vit_digits"], ["masked_autoencoding"]),
}


def make_files(folder: pathlib.Path) -> None:
    """A run, pictures in folders of several kinds, and files that are none, in `folder`."""
    from PIL import Image

    shutil.copytree(RUN, folder / "runs" / "vit_digits")
    (folder / "runs" / "begun").mkdir()
    (folder / "runs" / "begun" / "metrics.jsonl").write_text("")
    (folder / "runs" / "unmeasured").mkdir()
    for name in ("config.json", "checkpoints"):
        (folder / "runs" / "unmeasured" / name).symlink_to(RUN / name)
    for name in ("pets/train/cat/1.jpg", "pets/train/dog/1.jpg", "pets/test/cat/2.jpg", "flat/cat.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20)).save(folder / name)
    (folder / "phone" / "a").mkdir(parents=True)
    for name in ("b.heic", "c.HEIC", "renamed.jpg"):
        (folder / "phone" / "a" / name).write_bytes(b"\0\0\0\x18ftypheic" + b"\0" * 100)
    (folder / "mine").mkdir()
    (folder / "mine" / "photos.py").write_text("from vision_jax.config import base_confg\ndef get_config(): ...\n")
    (folder / "mine" / "notes.txt").write_text("notes")
    (folder / "setup.py").write_text("raise SystemExit('setup.py was run')\n")
    (folder / "vit.yaml").write_text("batch_size: 64\n")
    (folder / "pets" / "table.csv").write_text("file,label\n")
    (folder / "lfs.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")


def said(argv: list[str]) -> tuple[int, list[str], float]:
    """(exit status, lines on stderr, seconds) of a command line, in a process of its own."""
    command, start = [sys.executable, "-c", "from vision_jax.cli import main; main()", *argv], time.monotonic()
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True)
    return done.returncode, done.stderr.strip().splitlines(), time.monotonic() - start


if __name__ == "__main__":
    os.environ["PYTHONPATH"] = str(RUN.parents[2])
    with tempfile.TemporaryDirectory() as folder:
        make_files(pathlib.Path(folder))
        os.chdir(folder)
        chosen = re.compile(sys.argv[1] if len(sys.argv) > 1 else "")
        for name, (argv, words) in {**OF_ARGUMENTS, **OF_CONTENTS}.items():
            if chosen.search(name):
                status, lines, seconds = said(argv)
                missing = [word for word in words if word not in lines[-1]]
                print(
                    json.dumps([name, " ".join(argv), " | ".join(lines), round(seconds, 1), status, missing]),
                    flush=True,
                )
