"""A wheel, made from the source distribution, works from an empty folder without the checkout."""

import os
import pathlib
import shutil
import subprocess
import sys
import tarfile

import pytest

REPO = pathlib.Path(__file__).parents[1]
COMMANDS = ("train", "eval", "predict", "convert", "plan", "visualize", "runs", "plot", "report")
NAMES = sorted(path.stem for path in REPO.glob("configs/*.py"))


def build(folder, hook, out):
    """The file that a hook of the build backend makes of the source tree in `folder`."""
    code = f"import sys; from setuptools import build_meta; print(build_meta.{hook}(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", code, out], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out / done.stdout.split()[-1]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder into which the wheel is installed."""
    pytest.importorskip("setuptools", "77")
    tmp = tmp_path_factory.mktemp("build")
    checkout = tmp / "checkout"  # a copy, since building writes into it
    for name in ("vision_jax", "configs"):
        shutil.copytree(REPO / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPO / name, checkout)
    with tarfile.open(build(checkout, "build_sdist", tmp)) as sdist:
        sdist.extractall(tmp / "sdist", filter="data")
    (source,) = (tmp / "sdist").iterdir()
    wheel = build(source, "build_wheel", tmp)
    install = ["install", "-q", "--no-deps", "--no-index", "--disable-pip-version-check", f"--target={tmp / 'site'}"]
    subprocess.run([sys.executable, "-m", "pip", *install, wheel], check=True)
    return tmp / "site"


@pytest.fixture
def run(site, tmp_path):
    """Runs Python in an empty folder, where the wheel is found first and the checkout not at all."""
    environment = os.environ | {"PYTHONPATH": str(site)}

    def running(*arguments, status=0):
        command = [sys.executable, *map(str, arguments)]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout if status == 0 else done.stderr

    return running


@pytest.fixture
def vision_jax(run, site):
    """Runs the console script."""
    return lambda *arguments, status=0: run(site / "bin" / "vision-jax", *arguments, status=status)


@pytest.fixture
def version(site):
    (metadata,) = site.glob("vision_jax-*.dist-info")
    return metadata.stem.partition("-")[2]


def test_the_wheel_carries_the_configs(run, site, version):
    code = (
        "import vision_jax as vj; from vision_jax.command_line import load_config, shipped_configs\n"
        "print(vj.__file__, vj.__version__, load_config('mae_vitb_finetune:h').model.name, *shipped_configs())"
    )
    assert run("-c", code).split() == [str(site / "vision_jax" / "__init__.py"), version, "vit_h14", *NAMES]


def test_every_shipped_config_loads(run):
    run(
        "-c",
        "from vision_jax.command_line import *\nfor name in shipped_configs().keys() - {'finetune'}: load_config(name)",
    )


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_help_names_the_commands_and_configs(vision_jax, arguments):
    words = vision_jax(*arguments).replace(",", " ").split()
    assert {*COMMANDS, *NAMES} <= set(words)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_helps(vision_jax, command):
    assert f"usage: vision-jax {command} [-h" in vision_jax(command, "--help")


def test_version(vision_jax, version):
    assert vision_jax("--version") == f"vision-jax {version}\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["trian"], "no command 'trian'; did you mean 'train'?"),
        (["train", "--config=vit_digit", "--workdir=w"], "'vit_digit'; did you mean 'vit_digits'?"),
        (["plan", "--config=configs/vit_digits.py"], "did you mean 'vit_digits'?"),
        (["train", "--config=vit_digits:x", "--workdir=w"], "takes no argument, got ':x'"),
        (["train", "--config=vit_digits", "--workdir=w", "--config.batch=1"], "did you mean 'batch_size'?"),
        (["eval", "--workdir=w", "--mode=train"], "--mode"),
        (["eval", "--workdir=w"], "w"),
        (["convert", "nowhere.npz", "out", "--format=hf"], "nowhere.npz"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_wrong_is_one_line(vision_jax, arguments, words):
    error = vision_jax(*arguments, status=2)
    assert error.startswith("error: ") and words in error and error.count("\n") == 1


def test_a_file_goes_before_a_shipped_name(run, tmp_path):
    code = "from vision_jax.command_line import load_config; print(load_config({!r}).batch_size)"
    mine = "from vision_jax.command_line import load_config as load\ndef get_config():\n    c = load('vit_digits')\n"
    (tmp_path / "swin_digits").write_text(mine + "    c.batch_size = 7\n    return c")
    (tmp_path / "vit_digits.py").write_text("1 / 0")  # of another path
    assert (run("-c", code.format("swin_digits")), run("-c", code.format("vit_digits"))) == ("7\n", "64\n")


def test_what_is_wrong_with_arguments_is_found_without_jax(run):
    code = "import sys; from vision_jax.cli import main; sys.argv[1:] = {!r}\ntry: main()\nexcept SystemExit: print('jax' in sys.modules)"
    for arguments in (["train", "--config=vit_digits", "--workdir=w", "--config.x=1"], ["plan", "--config=nope"]):
        assert run("-c", code.format(arguments)) == "False\n"


def test_a_missing_package_is_named(run):
    code = "import sys; sys.modules['tqdm'] = None; sys.argv = ['', 'predict', 'x']; from vision_jax.cli import main; main()"
    assert "needs the package 'tqdm', which is not installed: pip install " in run("-c", code, status=2)


@pytest.mark.slow
def test_the_wheel_trains_evaluates_and_predicts(vision_jax, run):
    few = ["--config.duration=2 steps", "--config.schedule.warmup=1 steps"]
    vision_jax("train", "--config=vit_digits", "--workdir=runs/d", *few)
    assert "classification/top1" in vision_jax("eval", "--workdir=runs/d")
    run("-c", "from PIL import Image; Image.new('L', (16, 16)).save('a.png')")
    assert "a.png" in vision_jax("predict", "--model=runs/d", "a.png")
