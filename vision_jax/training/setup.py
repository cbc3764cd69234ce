"""What a run consists of before its first step: task, mesh, optimizer, and the shapes and shardings of its state."""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from absl import flags
from jax.experimental.compilation_cache.compilation_cache import reset_cache
from jax.sharding import Mesh

from vision_jax.config import base_config, derive
from vision_jax.data import open_source
from vision_jax.data.reading import Field, transform_of
from vision_jax.errors import ConfigError
from vision_jax.tasks import make_task
from vision_jax.training.flops import count_flops
from vision_jax.training.optimizer import make_optimizer
from vision_jax.training.param_groups import param_groups
from vision_jax.training.partitioning import (
    batch_sharding,
    check_batch,
    check_heads,
    make_mesh,
    replicated,
    state_shardings,
)
from vision_jax.training.schedules import make_schedule, peak_lr, stretches
from vision_jax.training.state import TrainState, create_state, rng_stream
from vision_jax.training.step import accumulated_gradients, train_step


class Setup(NamedTuple):
    """Everything that follows from a config and the devices; nothing is computed on them yet."""

    config: Any  # the run's own, completed from the data
    derived: dict  # durations in steps and the scaled learning rate
    source: Any  # of the training data
    reader: Callable  # of the training data's examples
    task: Any
    mesh: Mesh
    optimizer: Any
    schedule: Callable
    create: Callable[[], TrainState]
    abstract_state: TrainState  # ShapeDtypeStructs with shardings
    abstract_batch: dict
    trains: Any  # a bool for every parameter: False if it is frozen
    flops: int  # model FLOPs per step, see `model_flops`

    @property
    def shardings(self) -> TrainState:
        return jax.tree.map(lambda leaf: leaf.sharding, self.abstract_state)


def prepare(config, devices=None, task=None, source=None) -> Setup:
    """Checks and builds what a config describes. Raises ConfigError within seconds for a run that cannot work.

    `devices` default to all, `task` to the one that `config.task` names, `source` to `config.data.train`. `config` is not
    changed; what the data add to it, such as the number of classes, is in the setup's config.
    """
    if source is None:
        source = open_source(config.data.train, tfds_dir=config.data.tfds_dir)
    transform_of(config.data, train=False)  # checks the settings that evaluation reads
    derived = derive(config, len(source)) | {"peak_lr": peak_lr(config)}
    mesh = make_mesh(config, devices)
    check_batch(config, mesh)
    task = task or make_task(config, source)
    config, reader = task.config, task.reader(source, train=True)
    check_heads(task.model, mesh)
    total = derived["steps"]["duration"]
    schedule = make_schedule(config, total_steps=total, num_examples=len(source))
    derived["steps"] |= {f"schedule.{key}": steps for key, steps in stretches(config, total, len(source)).items()}

    params = jax.eval_shape(lambda: init_variables(config, task))["params"]
    optimizer = make_optimizer(config, params, schedule)

    def create() -> TrainState:
        return create_state(init_variables(config, task), optimizer, with_ema=config.optimizer.ema > 0)

    shapes = jax.eval_shape(create)
    placed = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        state_shardings(config, mesh, shapes),
    )
    batch = abstract_batch(config, task, batch_sharding(mesh))
    frozen = [group.frozen for group in param_groups(config, params)]
    trains = jax.tree.unflatten(jax.tree.structure(params), [not value for value in frozen])
    flops = model_flops(task, placed.variables, batch, trains)
    return Setup(config, derived, source, reader, task, mesh, optimizer, schedule, create, placed, batch, trains, flops)


def model_flops(task, variables: dict, batch: dict, trains) -> int:
    """FLOPs of the matrix products in a step's loss and gradients.

    Three times the forward pass's, one forward and two backward; with frozen parameters, what remains of these, plus
    what `remat` recomputes.
    """
    args = variables, batch, jax.eval_shape(lambda: jax.random.key(0))
    if all(jax.tree.leaves(trains)):
        return 3 * count_flops(lambda *args: task.loss(*args, train=True)[0], *args)
    return count_flops(functools.partial(accumulated_gradients, task, trains=trains), *args)


def init_variables(config, task) -> dict:
    """The variables that training starts from, drawn with the config's seed."""
    example = jax.tree.map(lambda leaf: jnp.zeros((1, *leaf.shape[1:]), leaf.dtype), abstract_batch(config, task))
    return task.init(rng_stream(config.seed, "init"), example)


def abstract_batch(config, task, sharding=None) -> dict:
    """Shapes of a global training batch on the devices."""
    fields = task.fields | {"mask": Field((), jnp.bool_)}
    return {
        name: jax.ShapeDtypeStruct((config.batch_size, *field.shape), field.dtype, sharding=sharding)
        for name, field in fields.items()
    }


def compile_step(setup: Setup):
    """The train step, compiled for the mesh: (state, batch) -> (state, metrics), the state donated."""
    return trace_step(setup).lower().compile()


def trace_step(setup: Setup) -> jax.stages.Traced:
    """The train step before lowering and compilation, for the mesh that must be set (`jax.set_mesh`)."""
    config = setup.config
    step = functools.partial(
        train_step,
        task=setup.task,
        optimizer=setup.optimizer,
        seed=config.seed,
        accumulate=config.optimizer.accumulate,
        ema_decay=config.optimizer.ema,
        trains=setup.trains,
    )
    jitted = jax.jit(
        step,
        donate_argnums=0,
        in_shardings=(setup.shardings, batch_sharding(setup.mesh)),
        out_shardings=(setup.shardings, replicated(setup.mesh)),
    )
    return jitted.trace(setup.abstract_state, setup.abstract_batch)


@contextlib.contextmanager
def process_settings(config) -> Iterator[None]:
    """Inside, the settings that the config makes for the whole process; afterwards they are as before.

    These are the precision of matrix products, the folder of compiled programs, unless the user's own JAX settings
    (JAX_COMPILATION_CACHE_DIR) name one and the config keeps its default, and absl's flags, which count as parsed so
    that data can be read. Raises ConfigError if the folder cannot be written.
    """
    settings, folder = {}, config.log.compile_cache
    if config.precision.matmul != "default":
        settings["jax_default_matmul_precision"] = config.precision.matmul
    if folder and (folder != base_config().log.compile_cache or not jax.config.jax_compilation_cache_dir):
        settings["jax_compilation_cache_dir"] = os.path.expanduser(folder)
        try:
            os.makedirs(settings["jax_compilation_cache_dir"], exist_ok=True)
        except OSError as error:
            raise ConfigError(f"config.log.compile_cache: cannot write {folder}: {error.strerror}") from error
    with contextlib.ExitStack() as restored:
        if not flags.FLAGS.is_parsed():
            restored.callback(flags.FLAGS.unparse_flags)
        for name, value in settings.items():
            restored.callback(_set, name, getattr(jax.config, name))
            _set(name, value)
        yield


def _set(name: str, value) -> None:
    if getattr(jax.config, name) != value:
        jax.config.update(name, value)
        if name == "jax_compilation_cache_dir":
            reset_cache()  # the cache is opened only once, at the first compilation


def with_process_settings(function: Callable) -> Callable:
    """`function(config, ...)` inside `process_settings(config)`."""

    @functools.wraps(function)
    def wrapped(config, *args, **kwargs):
        with process_settings(config):
            return function(config, *args, **kwargs)

    return wrapped
