"""The schema of an experiment: every key, its default, its type and its meaning.

A config file says only what differs from these defaults:

    from vision_jax.config import base_config

    def get_config(arg="s16"):
        c = base_config()
        c.model = dict(name=f"vit_{arg}", drop_path_rate=0.1)   # merged into the section, not replacing it
        c.batch_size = 1024
        c.duration = "90 epochs"
        return c

Unknown keys and wrong types raise `ConfigError` where they are assigned, and name the nearest known key. This module
imports neither jax nor any model, so that config files load anywhere at once.
"""

import json
import math
import re
import typing
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any, NamedTuple

import ml_collections

from vision_jax import limits
from vision_jax.errors import ConfigError, UnknownKey, did_you_mean
from vision_jax.files import printable
from vision_jax.values import plain, shown


class Key(NamedTuple):
    """One leaf of the schema: its default, the types it takes, its meaning and, where closed, its choices.

    Where it `imports`, it takes "package.module:Attribute" besides its choices.
    """

    default: Any
    type: Any
    meaning: str
    choices: tuple = ()
    imports: bool = False


class Part(NamedTuple):
    """The section of a part that its key `by` chooses: `keys`, and for each of the parts in `own` these as well.

    Any other part's own fields are known to it alone, which checks them (`vision_jax.parts`).
    """

    keys: dict
    own: dict[str, dict]
    by: str  # "task": the config's own key


class Several(NamedTuple):
    """A section of parts with names of the user's choice, beside its `keys`; an entry set to None is taken out."""

    keys: dict
    part: Part


class Duration(str):
    """Text "N steps", "N epochs" or "N examples"; where a key allows "never", empty."""


SOURCE = (
    "'digits:train', 'folder:PATH', 'csv:FILE', 'tfds:NAME:SPLIT' (each with '[:10%]' or '[10%:]' for a part),"
    " 'wds:PATH/{000..099}.tar', 'shapes:train', 'package.module:Attribute:REST' of your own, or a list of (source, weight) pairs"
)
IMPORTED = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*", re.ASCII)  # "package.module:Attribute"
TASKS = ("classification", "multi_label", "regression", "masked_autoencoding", "contrastive")

# fmt: off
_RULES = {
    "b1": Key(0.9, float, "decay of the first moment (adamw, lamb, lion)"),
    "b2": Key(0.999, float, "decay of the second moment (adamw, lamb); of the momentum (lion)"),
    "eps": Key(1e-8, float, "added to the denominator (adamw, lamb)"),
    "momentum": Key(0.9, float, "momentum (sgd, lars)"),
    "nesterov": Key(False, bool, "Nesterov momentum (sgd)"),
    "trust_coefficient": Key(0.001, float, "LARS's trust coefficient"),
    "moment_dtype": Key("float32", str, "dtype of the first moment or momentum", ("float32", "bfloat16")),
}
_DECAYS = {
    "min_lr": Key(0.0, float, "learning rate at the end (never scaled; cosine and linear)"),
    "cooldown": Key("0 steps", Duration, "linear cool-down to zero at the end (rsqrt, constant)"),
    "timescale": Key("10000 steps", Duration, "rsqrt: how long until the rate has fallen to 1 / sqrt(2)"),
    "boundaries": Key((), tuple, "step: durations after which the rate falls"),
    "factor": Key(0.1, float, "step: by which factor it falls"),
}
_CLASSES = {
    "name": Key("softmax", str, "cross-entropy over classes, or a binary one for each class", ("softmax", "sigmoid")),
    "label_smoothing": Key(0.0, float, "mass of the target spread evenly over all classes"),
    "threshold": Key(-1.0, float, "sigmoid: targets above it become 1, others 0, as DeiT III and timm's BCE do; below 0: off"),
    "sum_classes": Key(True, bool, "sigmoid: sum over the classes, as big_vision does; False: mean, as torch does"),
}
_LOSSES = {
    **dict.fromkeys(("classification", "masked_autoencoding", "contrastive"), _CLASSES),
    "multi_label": {
        "label_smoothing": Key(0.0, float, "how far targets of 0 and 1 are drawn to 1/2"),
        "positive_weights": Key((), tuple, "weight of the positive terms: one for all classes, or one for each; empty: 1"),
    },
    "regression": {
        "huber_delta": Key(0.0, float, "Huber's loss, quadratic up to this error in standard deviations and linear beyond; 0: squared error"),
        "mean": Key((0.0,), tuple, "of the targets, one for all or one for each: the model learns (target - mean) / std"),
        "std": Key((1.0,), tuple, "of the targets"),
    },
}
_LEARNS = Key("", str | list, "source that it learns from, each example of it once; empty: data.train")
_EVALS = {
    "classification": {},
    "multi_label": {},
    "regression": {},
    "task": {},
    "knn": {
        "train": _LEARNS,
        "k": Key(20, int, "nearest neighbours that vote"),
        "temperature": Key(0.07, float, "a vote weighs exp(cosine similarity / temperature)"),
    },
    "reconstruction": {
        "examples": Key(256, int, "first examples of the source that are reconstructed"),
        "pictures": Key(8, int, "how many of them are shown: image, visible part, prediction, both together"),
    },
    "linear_probe": {
        "train": _LEARNS,
        "l2": Key((1.0, 0.1, 0.01, 1e-3, 1e-4, 1e-5, 1e-6), tuple, "regularisers of mean cross-entropy + l2 / 2 |kernel|^2, of which a held-out fifth of the source chooses"),
        "max_iter": Key(1000, int, "iterations of L-BFGS at most"),
        "shots": Key((), tuple, "numbers of examples a class for probes of few examples besides"),
        "shots_l2": Key(0.01, float, "regulariser of these"),
    },
    "zero_shot": {
        "classes": Key("", str, "JSON file of class names, with a context where wanted; empty: the source's own names"),
        "templates": Key("", str | tuple, "prompts with '{}' for the name: texts, a JSON file or a built-in set; empty: data.templates, or '{}' alone"),
    },
    "retrieval": {},
}


def _evaluation(kind: str, every: str) -> Part:
    return Part(
        {
            "kind": Key(kind, str, "what is measured", tuple(_EVALS), imports=True),
            "source": Key("", str | list, "examples that it is measured on; empty: data.eval"),
            "every": Key(every, Duration, "how often, besides at the end; empty: never"),
        },
        _EVALS,
        "kind",
    )


SCHEMA = {
    "task": Key("classification", str, "what the model is trained to do", TASKS, imports=True),
    "model": Part({"name": Key("vit_s16", str, "a name from vision_jax.list_models(), or package.module:Attribute")}, {}, "name"),
    "data": {
        "train": Key("digits:train", str | list, f"training source: {SOURCE}"),
        "eval": Key("digits:test", str | list, "source of evaluations that name none, every example of which counts once; its classes are found by name among those of training; empty: none"),
        "tfds_dir": Key("", str, "folder of prepared TFDS data sets; empty: TFDS's own default"),
        "templates": Key((), tuple, "contrastive: captions for pictures that have a class and no text, '{}' being the class's name"),
        "tokenizer": Key("bytes", str, "contrastive: 'bytes', CLIP's BPE: 'clip', 'clip:FILE' or 'clip:ORG/MODEL', or package.module:Attribute"),
        "context_length": Key(77, int, "contrastive: tokens of a text, start and end included"),
        "long_texts": Key("cut", str, "contrastive: a text of more tokens is cut, its end token kept, or stops the run", ("cut", "raise")),
        "image_size": Key(224, int | tuple, "pixels a side, or (height, width)"),
        "mean": Key((0.5, 0.5, 0.5), tuple, "per-channel mean of images scaled to [0, 1]"),
        "std": Key((0.5, 0.5, 0.5), tuple, "per-channel standard deviation of images scaled to [0, 1]"),
        "interpolation": Key("bicubic", str, "resampling of the host transforms", ("bicubic", "bilinear")),
        "eval_resize": Key("crop", str, "evaluation: resize the short side and crop the centre, or squash the whole picture", ("crop", "squash")),
        "eval_crop": Key(0.875, float, "evaluation: share of the resized short side that the centre crop keeps"),
        "augment": {
            "crop_area": Key((0.08, 1.0), tuple | None, "random resized crop: range of the area kept; None: no random crop"),
            "crop_ratio": Key((3 / 4, 4 / 3), tuple, "random resized crop: range of width / height"),
            "crop_clip": Key(False, bool, "random resized crop: cut a box that does not fit, as MAE's linear probe, rather than draw again"),
            "flip": Key(True, bool, "mirror left-right with probability 1/2"),
            "rotate": Key(0.0, float, "random affine: largest rotation, degrees"),
            "scale": Key(0.0, float, "random affine: largest relative change of size"),
            "shift": Key(0.0, float, "random affine: largest shift, share of the side"),
            "policy": Key("", str, "RandAugment: timm's 'rand-m9-mstd0.5-inc1' grammar, big_vision's 'randaug(2,15)', or '3-augment' (DeiT III)"),
            "color_jitter": Key(0.0, float, "largest relative change of brightness, contrast and saturation"),
            "repeats": Key(1, int, "repeated augmentation: copies of an example, differently augmented, in an epoch's order"),
            "mixup": Key(0.0, float, "mixup: alpha of its Beta distribution; 0: off"),
            "cutmix": Key(0.0, float, "cutmix: alpha of its Beta distribution; 0: off"),
            "mix_prob": Key(1.0, float, "share of batches that mixup or cutmix touch"),
            "switch_prob": Key(0.5, float, "where both are on, the share of touched batches that get cutmix"),
            "erase_prob": Key(0.0, float, "random erasing: share of images with a rectangle of normal noise"),
        },
        "workers": Key(0, int, "worker processes of the input pipeline; 0: threads of this process"),
        "threads": Key(4, int, "reading threads in each worker (or in this process without workers)"),
        "prefetch": Key(4, int, "batches made ahead"),
        "picture_memory": Key(limits.PICTURE_MEMORY >> 20, int, "MiB that decoding one picture may take, by estimate; a larger one counts as unreadable"),
        "max_broken": Key(0.01, float, "largest share of unreadable training images before the run stops"),
    },
    "batch_size": Key(1024, int, "examples a step, over all devices and micro-batches"),
    "duration": Key("90 epochs", Duration, "length of training"),
    "optimizer": Part(
        {
            "name": Key("adamw", str, "update rule", ("adamw", "sgd", "lars", "lamb", "lion"), imports=True),
            "weight_decay": Key(0.0, float, "weight decay"),
            "decay_times_lr": Key(True, bool, "multiply the decay by the learning rate, as AdamW does; False: by the schedule relative to its peak only, as big_vision does"),
            "decay": Key(r".*/kernel$", str | tuple, "regular expressions over parameter paths: what decays"),
            "layer_decay": Key(1.0, float, "each layer's learning rate relative to the next one's (BEiT, MAE)"),
            "lr_scale": Key((), tuple, "(regular expression, factor) pairs: learning rates relative to the schedule; the first match counts"),
            "freeze": Key((), str | tuple, "regular expressions over parameter paths: what does not train; a module frozen whole acts as in evaluation, its batch statistics stay"),
            "clip_norm": Key(0.0, float, "clip the gradient's global norm; 0: off"),
            "accumulate": Key(1, int, "micro-batches a step"),
            "ema": Key(0.0, float, "decay of the exponential moving average of parameters and batch statistics, which is then evaluated; 0: off"),
            "max_skipped": Key(20, int, "stop after so many updates in a row with a loss or gradient that is not finite, or no readable image"),
        },
        dict.fromkeys(("adamw", "sgd", "lars", "lamb", "lion"), _RULES),
        "name",
    ),
    "schedule": Part(
        {
            "base_lr": Key(1e-3, float, "peak learning rate, before scaling by the batch"),
            "per": Key(0, int, "scale the peak by batch_size / per; 0: do not scale"),
            "warmup": Key("0 steps", Duration, "linear warm-up"),
            "warmup_lr": Key(0.0, float, "learning rate at the start of the warm-up (never scaled)"),
            "decay": Key("cosine", str, "after the warm-up", ("cosine", "linear", "rsqrt", "step", "constant"), imports=True),
            "update_every": Key("1 steps", Duration, "how long a value is held: '1 epochs' for recipes that step by epoch"),
        },
        dict.fromkeys(("cosine", "linear", "rsqrt", "step", "constant"), _DECAYS),
        "decay",
    ),
    "loss": Part({}, _LOSSES, "task"),
    "precision": {
        "compute": Key("float32", str, "dtype of activations; parameters and losses stay float32", ("float32", "bfloat16")),
        "matmul": Key("default", str, "jax_default_matmul_precision for float32 products", ("default", "high", "highest")),
    },
    "mesh": {
        "data": Key(-1, int, "devices along the batch, parameters replicated; -1: what is left"),
        "fsdp": Key(1, int, "devices along the batch over which parameters and moments are sharded, too"),
        "tensor": Key(1, int, "devices over which heads and MLP width are split"),
        "across": {
            # All 1 on several slices: they divide the first axis that they can.
            "data": Key(1, int, "factor of the data axis that lies across slices"),
            "fsdp": Key(1, int, "factor of the fsdp axis that lies across slices"),
            "tensor": Key(1, int, "factor of the tensor axis that lies across slices"),
        },
        "rules": Key((), tuple, "(regular expression, axes) pairs before the built-in ones: the first that matches a whole parameter path counts, as in optimizer.decay"),
        "fsdp_min_size": Key(65536, int, "parameters with fewer elements (a layer) stay replicated over fsdp"),
    },
    "checkpoint": {
        "every": Key("5 epochs", Duration, "how often the state is saved"),
        "keep": Key(2, int, "newest checkpoints kept"),
        "best": Key("classification/top1", str, "metric whose best checkpoint is kept too, as EVALUATION/METRIC; empty: none"),
        "best_mode": Key("max", str, "whether more or less of it is better", ("max", "min")),
        "verify": Key(True, bool, "compare checksums of every array on restore"),
    },
    "evals": Several(
        {
            "batch_size": Key(0, int, "examples a batch of every evaluation; 0: the training batch size"),
            **{kind: _evaluation(kind, "5 epochs" if kind in TASKS else "") for kind in _EVALS},
        },
        _evaluation("", "5 epochs"),
    ),
    "log": {
        "every": Key("50 steps", Duration, "how often metrics are written"),
        "tensorboard": Key(True, bool, "write TensorBoard event files"),
        "targets": Several(
            {},
            Part({"kind": Key("", str, "where metrics go, too; by default the entry's name", ("wandb",), imports=True)}, {"wandb": {
                "project": Key("vision_jax", str, "Weights & Biases' project"),
                "mode": Key("online", str, "whether it talks to the server", ("online", "offline")),
            }}, "kind"),
        ),
        "profile": Key((), tuple, "(first step, number of steps) of a profiler trace; empty: none"),
        "peak_tflops": Key(0.0, float, "peak of one device in TFLOP/s, for MFU; 0: known devices' own"),
        "compile_cache": Key("~/.cache/vision_jax/compile", str, "folder of XLA's compilation cache; empty: off"),
    },
    "init_from": Key("", str, "what training's parameters start from: a work folder, a checkpoint, a file or folder of weights or an id of the hub; 'image=SOURCE' or 'text=SOURCE': for one tower of a CLIP"),
    "seed": Key(0, int, "seed of parameters, data order, augmentation and dropout"),
}
# fmt: on


_IDENTIFIER = re.compile(r"[A-Za-z]\w*", re.ASCII)  # of a model's field


class Section(MutableMapping, ml_collections.ConfigDict):
    """A section of the config: a mapping, also by attributes, whose keys, types and choices come from the schema.

    Equal to any mapping of the same keys and values. A copy, deep or not, and what pickle gives back share nothing with
    the original.
    """

    def __init__(self, entry: dict | Part | Several, path: str = "", part: str = ""):
        """part: that of the section where none of its keys says it."""
        ml_collections.ConfigDict.__init__(self, type_safe=False)  # the schema checks types, more closely
        vars(self).update(_entry=entry, _path=path, _part=part, _set={})  # _set: sections, and what is no default
        for name, inner in self._schema.items():
            if not isinstance(inner, Key):
                self._set[name] = Section(inner, f"{path}{name}.", "classification" if name == "loss" else "")

    @property
    def _schema(self) -> dict:
        """The keys that this section has, whatever else it takes."""
        entry = self._entry
        if isinstance(entry, Part):
            return entry.keys | entry.own.get(self.part, {})
        return entry.keys if isinstance(entry, Several) else entry

    @property
    def part(self) -> str:
        """The name of the part that this is the section of."""
        if not isinstance(self._entry, Part):
            return ""
        by, keys = self._entry.by, self._entry.keys
        return self._set.get(by) or self._part or (keys[by].default if by in keys else "")

    @property
    def own_fields(self) -> dict[str, Any]:
        """What is set here of the part's own fields, those of a built-in one with their defaults."""
        return {name: value for name, value in to_dict(self).items() if name not in self._entry.keys}

    def __setitem__(self, name: str, value: Any) -> None:
        entry = self._schema.get(name) if isinstance(name, str) else None
        if entry is None and not (self.is_open and isinstance(name, str) and _IDENTIFIER.fullmatch(name)):
            raise self._unknown(name, self._schema)
        if isinstance(self._entry, Several) and not isinstance(entry, Key):
            self._set_part(name, value)
        elif isinstance(entry, Key):
            before = self.get(name)
            self._set[name] = check(f"{self._path}{name}", entry, value)
            if self[name] != before:
                self._chosen(name, before)
        elif isinstance(value, Mapping):
            if not isinstance(self._set.get(name), Section):  # among the fields of a part
                self._set[name] = Section(Part({}, {}, ""), f"{self._path}{name}.")
            self._set[name].merge(value)
        elif entry is not None:
            raise self._set[name].wants_keys(value)
        else:
            self._set[name] = plain(f"config key '{self._path}{name}'", value)

    def _set_part(self, name: str, value: Any) -> None:
        if value is None and name in self._schema:
            self._set[name]["every"] = ""
        elif value is None:
            self._set.pop(name, None)
        else:
            known = name if name in self._entry.part.own else ""
            section = self._set.get(name) or Section(self._entry.part, f"{self._path}{name}.", known)
            if not isinstance(value, Mapping):
                raise section.wants_keys(value)
            section.merge(value)
            self._set[name] = section

    def _chosen(self, key: str, before: str) -> None:
        """Where `key` chooses a part, what was set of another's own fields goes, but what built-in ones, or models, share."""
        section = self._set.get("loss") if key == "task" else self
        if section is None or not isinstance(section._entry, Part) or section._entry.by != key:
            return
        if section is not self:
            vars(section).update(_part=self[key])
        own = section._entry.own
        kept = section._set if not own else section._schema if before in own else section._entry.keys
        for name in section._set.keys() - kept.keys():
            del section._set[name]

    def merge(self, values: Mapping) -> None:
        """Sets what is named, so that all else stays; first what chooses the part whose fields the others are."""
        by = self._entry.by if isinstance(self._entry, Part) else "task"
        for key in sorted(values, key=lambda key: key != by):
            self[key] = values[key]

    def wants_keys(self, value: Any) -> ConfigError:
        keys = ", ".join(self)
        return ConfigError(f"config key '{self._path[:-1]}' is a section with keys {keys}; got {shown(value)}")

    def __getitem__(self, name: str) -> Any:
        if name in self._set:
            return self._set[name]
        if isinstance(name, str) and isinstance(entry := self._schema.get(name), Key):
            return self.part if isinstance(self._entry, Part) and name == self._entry.by else entry.default
        raise self._unknown(name, self)

    def __delitem__(self, name: str) -> None:
        if name not in self._set or name in self._schema:
            raise self._unknown(name, self._set.keys() - self._schema.keys())
        del self._set[name]

    def __iter__(self):
        return iter(dict.fromkeys([*self._schema, *self._set]))

    def __len__(self) -> int:
        return len(self._schema.keys() | self._set.keys())

    def __contains__(self, name: object) -> bool:
        return name in self._set or name in self._schema

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __getattr__(self, name: str) -> Any:  # where the class has no attribute of that name
        if name.startswith("_"):
            raise AttributeError(name)
        return self[name]

    def __delattr__(self, name: str) -> None:
        del self[name]

    def __dir__(self):
        return [*super().__dir__(), *self]

    def __repr__(self) -> str:
        return f"Section({to_dict(self)!r})"

    def __reduce__(self):
        return _section, (self._path, self.part, to_dict(self))

    def _unknown(self, name: Any, known) -> UnknownKey:
        return UnknownKey(f"unknown config key '{printable(f'{self._path}{name}')}'{did_you_mean(name, known)}")

    @property
    def is_open(self) -> bool:
        """Whether other keys than the schema's may be set."""
        return not isinstance(self._entry, dict) and not (
            isinstance(self._entry, Part) and self.part in self._entry.own
        )

    def leaf_type(self, name: str) -> Any:
        """The schema's type of a leaf, or None for a section and for keys that only a part knows."""
        entry = self._schema.get(name)
        return entry.type if isinstance(entry, Key) else None


def _section(path: str, part: str, values: Mapping) -> Section:
    """The section at a path such as "data.augment." with other values than the defaults."""
    entry: Any = SCHEMA
    for name in path.split(".")[:-1]:
        keys = entry if isinstance(entry, dict) else entry.keys
        entry = keys.get(name, entry.part if isinstance(entry, Several) else Part({}, {}, ""))
    section = Section(entry, path, part)
    section.merge(values)
    return section


def base_config() -> Section:
    """A config with every default, to be changed by an experiment file."""
    return Section(SCHEMA)


def check(path: str, key: Key, value: Any) -> Any:
    """`value` as the key's type; raises ConfigError naming the key, the value and what would be right."""
    value = plain(f"config key '{path}'", value)
    if key.type is Duration:
        parse_duration(value, path)
        return value
    types = typing.get_args(key.type) or (key.type,)
    if float in types and type(value) is int:
        value = float(value)
    if list in types and isinstance(value, tuple):
        types += (tuple,)
    if not any(value is None if t is None or t is type(None) else type(value) is t for t in types):
        names = " or ".join("None" if t in (None, type(None)) else t.__name__ for t in types if t is not list)
        raise ConfigError(
            f"config key '{path}' must be {names}, got {type(value).__name__} {shown(value)} ({key.meaning})"
        )
    if key.choices and value not in (*key.choices, key.default) and not (key.imports and IMPORTED.fullmatch(value)):
        guess, own = did_you_mean(value, key.choices), " or package.module:Attribute" * key.imports
        raise ConfigError(
            f"config key '{path}' must be one of {', '.join(key.choices)}{own}; got {shown(value)}{guess if 'mean' in guess else ''}"
        )
    return value


def to_dict(config: Section) -> dict:
    """The config as plain nested dictionaries, for JSON."""
    return {name: to_dict(value) if isinstance(value, Section) else value for name, value in config.items()}


def from_dict(values: Mapping) -> Section:
    """The config that `to_dict` made `values` of; raises ConfigError where a key is not (or no longer) known."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"a config is a mapping from keys to values, got {shown(values)}")
    config = base_config()
    config.merge(values)
    return config


def to_json(config: Section) -> str:
    return json.dumps(to_dict(config), indent=2)


def parse_duration(duration: str, key: str) -> tuple[float, str]:
    """(number, "step" | "epoch" | "example"); empty text is (0, "step"). Raises ConfigError naming the key."""
    if duration == "":
        return 0.0, "step"
    try:
        number, unit = duration.split()
        number, unit = float(number), unit.removesuffix("s")
        if unit not in ("step", "epoch", "example") or not 0 <= number < math.inf:
            raise ValueError
    except (ValueError, AttributeError):
        raise ConfigError(
            f"config key '{key}' must read 'N steps', 'N epochs' or 'N examples', got {shown(duration)}"
        ) from None
    return number, unit


def steps_of(duration: str, batch_size: int, num_examples: int, key: str = "duration") -> int:
    """The duration in steps, rounded, at least 1 unless it is zero; an epoch is num_examples / batch_size steps.

    Raises ConfigError naming the key where it is no duration, or one of more steps than JAX counts.
    """
    number, unit = parse_duration(duration, key)
    steps = number * {"step": 1.0, "epoch": num_examples / batch_size, "example": 1 / batch_size}[unit]
    if steps >= limits.STEPS:
        raise ConfigError(f"config key '{key}' must be less than {limits.STEPS:,} steps, got {shown(duration)}")
    return max(round(steps), 1) if steps > 0 else 0


def leaves(section: Section) -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of everything in a config."""
    return ((key, value) for key, value, _ in typed_leaves(section))


def typed_leaves(section: Section) -> Iterator[tuple[str, Any, Key | None]]:
    """(dotted key, value, the schema's entry) of everything in a config; None for a field that only its part knows."""
    for name, value in section.items():
        if isinstance(value, Section):
            yield from typed_leaves(value)
        else:
            yield f"{section._path}{name}", value, section._schema.get(name)


def derive(config: Section, num_examples: int) -> dict[str, Any]:
    """What follows from the config and the length of an epoch: every duration in steps."""
    if not 1 <= config.batch_size < limits.STEPS:
        raise ConfigError(f"config key 'batch_size' must lie between 1 and {limits.STEPS - 1}, got {config.batch_size}")
    durations = {
        key: steps_of(value, config.batch_size, num_examples, key)
        for key, value, entry in typed_leaves(config)
        if entry and entry.type is Duration
    }
    if durations["duration"] < 1:
        raise ConfigError(f"config key 'duration' must be at least one step, got {config.duration!r}")
    return {"train_examples": num_examples, "steps": durations}
