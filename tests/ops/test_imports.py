"""The functions of arrays stand alone: other projects import them, or a model, without this one's config."""

import pkgutil
import subprocess
import sys

import vision_jax.ops

OPS = [f"vision_jax.ops.{module.name}" for module in pkgutil.iter_modules(vision_jax.ops.__path__)]


def test_ops_and_models_need_no_config():
    code = f"import sys, vision_jax.models.inference, {', '.join(OPS)}\nassert not {{'ml_collections', 'vision_jax.config'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
