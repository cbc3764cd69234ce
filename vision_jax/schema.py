"""The schema of an experiment: every key, its default, its type and its meaning. Only data: it imports no part."""

import re
from typing import Any, NamedTuple

from vision_jax import limits


class Key(NamedTuple):
    """One leaf of the schema: its default, the types it takes, its meaning and, if closed, its choices.

    If it `imports`, it takes "package.module:Attribute" besides its choices.
    """

    default: Any
    type: Any
    meaning: str
    choices: tuple = ()
    imports: bool = False


class Part(NamedTuple):
    """The section of a part that its key `by` chooses: `keys`, and for each of the parts in `own` those as well.

    Only any other part itself knows its own fields and checks them (`vision_jax.parts`).
    """

    keys: dict
    own: dict[str, dict]
    by: str  # "task": the config's own key


class Several(NamedTuple):
    """A section of parts with names of the user's choice, beside its `keys`; an entry set to None is removed."""

    keys: dict
    part: Part


class Duration(str):
    """Text "N steps", "N epochs" or "N examples"; empty if a key allows "never"."""


SOURCE = (
    "'digits:train', 'folder:PATH', 'csv:FILE', 'tfds:NAME:SPLIT' (each with '[:10%]' or '[10%:]' for a part),"
    " 'wds:PATH/{000..099}.tar', 'shapes:train', 'package.module:Attribute:REST' of your own, or a list of (source, weight) pairs"
)
IMPORTED = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*", re.ASCII)  # "package.module:Attribute"
TASKS = ("classification", "multi_label", "regression", "masked_autoencoding", "contrastive")

REQUIRED = "?"  # for init_from: a source that the user must name
OF_SOURCE = "init_from"  # for model.name: the model of init_from's source

CHOOSE = ("task", "name", "decay", "kind")  # keys that choose a part; other keys are the part's fields

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
    "model": Part({"name": Key("vit_s16", str, "a name from vision_jax.list_models(), package.module:Attribute, or 'init_from': the model whose weights that is, with a new head")}, {}, "name"),
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
    "init_from": Key("", str, "what training's parameters start from: a work folder, a checkpoint, a file or folder of weights or an id of the hub; 'image=SOURCE' or 'text=SOURCE': for one tower of a CLIP; '?': must be given. What neither the config nor its model's name says of the model and of data.image_size, mean, std, interpolation, eval_resize and eval_crop is then as in the source"),
    "seed": Key(0, int, "seed of parameters, data order, augmentation and dropout"),
}
# fmt: on
