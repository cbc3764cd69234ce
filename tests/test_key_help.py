import pytest

from vision_jax.config import base_config, leaves
from vision_jax.errors import ConfigError
from vision_jax.key_help import all_keys, explain, rows
from vision_jax.main import parse


def test_every_key_is_listed_with_its_default_and_meaning(capsys):
    with pytest.raises(SystemExit) as end:
        parse(["--help"])
    text = capsys.readouterr().out
    assert end.value.code in (0, None) and "--workdir" in text
    assert all(len(line) <= 100 for line in all_keys().splitlines())
    listed = {row.name for row in rows()}
    for key, value in leaves(base_config()):
        section, _, rest = key.partition(".")
        name = f"evals.NAME.{rest.partition('.')[2]}" if section == "evals" and "." in rest else key
        assert name in listed and (section in ("evals", "model") or f"  {key}={value!r}" in text)


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("batch_size", "--config.batch_size=1024"),
        ("--config.optimizer.name", "one of adamw, sgd, lars, lamb, lion, or package.module:Attribute"),
        ("evals.minival.every", "'N steps', 'N epochs' or 'N examples'"),
        ("log.targets.mine.project", "Weights & Biases"),
        ("loss.label_smoothing", "for multi_label"),
        ("loss.label_smoothing", "spread evenly"),
        ("mesh.across", "mesh.across.fsdp=1"),
    ],
)
def test_one_key(key, words):
    assert words in explain(key)


@pytest.mark.parametrize(
    ("key", "guess"), [("optimiser.name", "optimizer.name"), ("lr", "schedule.base_lr"), ("x", "--help")]
)
def test_an_unknown_key_names_the_nearest(key, guess):
    with pytest.raises(ConfigError, match=guess):
        explain(key)
