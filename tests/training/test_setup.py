"""What preparing a run leaves as it was: the config, and JAX's settings of the whole process."""

import copy

import jax
import pytest
from absl import flags

from vision_jax.config import base_config
from vision_jax.errors import ConfigError
from vision_jax.training.setup import prepare, process_settings

NAMES = ("jax_default_matmul_precision", "jax_compilation_cache_dir")


def settings():
    return {name: getattr(jax.config, name) for name in NAMES} | {"flags": flags.FLAGS.is_parsed()}


def config_of(**log):
    c = base_config()
    c.model = dict(name="vit_ti16", patch_size=8, width=8, depth=1, num_heads=1, mlp_dim=8)
    c.data.image_size, c.batch_size, c.duration, c.log = 16, 8, "20 steps", log
    return c


def test_settings_of_the_process_are_put_back(tmp_path):
    c = config_of(compile_cache=str(tmp_path / "cache"))
    c.precision.matmul = "highest"
    before = settings()
    with pytest.raises(ZeroDivisionError), process_settings(c):
        inside = settings()
        flags.FLAGS.mark_as_parsed()
        raise ZeroDivisionError
    assert settings() == before
    assert (inside["jax_default_matmul_precision"], inside["jax_compilation_cache_dir"]) == (
        "highest",
        str(tmp_path / "cache"),
    )
    assert (tmp_path / "cache").is_dir()


@pytest.mark.parametrize("own", [None, "elsewhere"])
def test_a_cache_that_jax_has_already_gives_way_to_none_but_a_named_one(tmp_path, monkeypatch, own):
    monkeypatch.setenv("HOME", str(tmp_path))
    default = base_config().log.compile_cache
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", own)
    try:
        for said, used in (
            (default, own or str(tmp_path / default[2:])),
            (str(tmp_path / "x"), str(tmp_path / "x")),
            ("", own),
        ):
            with process_settings(config_of(compile_cache=said)):
                assert jax.config.jax_compilation_cache_dir == used
            assert jax.config.jax_compilation_cache_dir == own
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


def test_a_cache_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    before = settings()
    with (
        pytest.raises(ConfigError, match=r"log.compile_cache.*file"),
        process_settings(config_of(compile_cache=f"{tmp_path}/file/x")),
    ):
        pass
    assert settings() == before


def test_preparing_leaves_the_config_as_it_is():
    c = config_of()
    before = copy.deepcopy(c)
    setup = prepare(c)
    assert c == before and setup.config.model.num_classes == 10 and "num_classes" not in c.model
