"""What other projects call our keys, fields and options: only for messages about unknown names, to say what is right."""

import functools
import re
from collections.abc import Iterable, Iterator

from vision_jax.errors import did_you_mean, nearest
from vision_jax.schema import SCHEMA, Key, Part, Several

# Our key, with "=VALUE" if the word implies the value, too (N: the given number) -> other projects' words for it.
_KEYS = {
    "schedule.base_lr": "lr learning_rate max_lr peak_lr init_lr lr0 blr base_learning_rate",
    "schedule.min_lr": "eta_min end_lr final_lr lr_min",
    "schedule.decay": "scheduler sched lr_scheduler lr_scheduler_type lr_schedule",
    "schedule.warmup": "warm_up warmup_epochs warmup_steps num_warmup_steps warmup_ratio",
    "schedule.factor": "gamma decay_rate",
    "schedule.boundaries": "milestones decay_epochs",
    "duration=N epochs": "epoch epochs num_epochs max_epochs num_train_epochs n_epochs total_epochs",
    "duration=N steps": "steps max_steps num_steps total_steps train_steps num_train_steps iters max_iters iterations",
    "batch_size": "batch bs batchsize train_batch_size global_batch_size per_device_train_batch_size",
    "evals.batch_size": "eval_batch_size val_batch_size test_batch_size per_device_eval_batch_size",
    "optimizer.name": "opt optim optimiser optimizer optimizer_name",
    "optimizer.weight_decay": "wd l2",
    "optimizer.clip_norm": "clip grad_clip clip_grad clip_grad_norm max_grad_norm gradient_clip_val max_norm",
    "optimizer.accumulate": "accum accum_iter grad_accum gradient_accumulation_steps accumulate_grad_batches accum_freq",
    "optimizer.layer_decay": "layerwise_decay layer_wise_decay llrd",
    "optimizer.ema": "ema_decay model_ema model_ema_decay",
    "optimizer.b1": "beta1 adam_beta1 betas",
    "optimizer.b2": "beta2 adam_beta2 betas",
    "optimizer.freeze": "frozen freeze_layers freeze_backbone",
    "data.image_size": "img_size imgsz input_size resolution crop_size size",
    "data.workers": "num_workers n_workers dataloader_num_workers j",
    "data.train": "data dataset data_path data_dir data_root train_data train_dir train_dataset root",
    "data.eval": "val valid validation test val_data val_dir eval_data eval_dataset test_data test_dir",
    "data.mean": "image_mean img_mean",
    "data.std": "image_std img_std",
    "data.eval_crop": "crop_pct",
    "data.augment.policy": "aa auto_augment autoaugment randaugment rand_augment",
    "data.augment.flip": "hflip horizontal_flip",
    "data.augment.rotate": "rotation degrees",
    "data.augment.crop_area": "crop_scale random_resized_crop",
    "data.augment.erase_prob": "reprob random_erasing",
    "data.augment.repeats": "repeated_aug aug_repeats",
    "data.augment.mixup": "mixup_alpha",
    "data.augment.cutmix": "cutmix_alpha",
    "model.name": "model arch architecture backbone model_name",
    "model.num_classes": "nb_classes n_classes num_labels num_classes",
    "model.drop_path_rate": "drop_path drop_path_rate stochastic_depth",
    "model.dropout_rate": "dropout dropout_rate drop_rate",
    "model.remat": "gradient_checkpointing grad_checkpointing use_checkpoint",
    "loss.label_smoothing": "smoothing",
    "loss.name": "loss criterion loss_fn",
    "precision.compute": "dtype",
    "precision.compute=bfloat16": "fp16 bf16 bfloat16 half amp mixed_precision",
    "mesh.data": "gpus num_gpus devices num_devices",
    "checkpoint.every": "save_every save_freq save_steps save_interval",
    "checkpoint.keep": "save_total_limit max_to_keep",
    "checkpoint.best": "monitor metric_for_best_model",
    "log.every": "log_interval print_freq log_freq logging_steps",
    "log.targets.wandb.project": "wandb wandb_project",
    "init_from": "pretrained finetune load_from from_pretrained",
    "seed": "random_seed random_state manual_seed",
}

# Fields of models; no model has all of them.
_FIELDS = {
    "width": "embed_dim hidden_size hidden_dim dim d_model",
    "depth": "num_layers layers num_hidden_layers",
    "depths": "num_layers layers",
    "num_heads": "heads num_attention_heads",
    "mlp_dim": "intermediate_size dim_feedforward",
    "patch_size": "patch",
    "window": "window_size",
    "drop_path_rate": "drop_path stochastic_depth",
    "dropout_rate": "dropout drop_rate hidden_dropout_prob",
    "attention_dropout_rate": "attn_drop attn_drop_rate attention_dropout attention_probs_dropout_prob",
    "num_classes": "classes nb_classes n_classes num_labels",
    "act": "activation hidden_act act_layer",
    "norm_eps": "eps layer_norm_eps",
    "pool": "global_pool pooling",
    "remat": "gradient_checkpointing grad_checkpointing use_checkpoint",
}

# Options of the commands; no command has all of them.
_OPTIONS = {
    "--config": "cfg config_file yaml experiment recipe",
    "--workdir": "output_dir out_dir outdir output save_dir logdir log_dir run model weights checkpoint_dir",
    "--model": "workdir weights ckpt pretrained run source model_path",
    "--labels": "classes class_names candidate_labels names texts",
    "--templates": "prompts prompt template",
    "--out": "output outdir output_dir out_dir save_dir",
    "--top": "topk top_k k",
    "--features": "embeddings",
    "--image_size": "img_size size resolution input_size",
    "--checkpoint": "ckpt step epoch",
    "--format": "to output_format",
    "--topology": "device devices tpu gpus hardware",
    "--num_processes": "nproc nproc_per_node world_size num_nodes nnodes",
    "--process_id": "rank node_rank local_rank",
    "--coordinator": "master_addr dist_url",
    "--mode=eval": "eval evaluate eval_only test_only validate",
    "--accept=KEY": "force overwrite",
}

_SENTENCES = {
    "a run goes on by itself where its command is given again": "resume auto_resume continue resume_from_checkpoint",
    "JAX takes the devices that it finds; JAX_PLATFORMS=cpu before the command takes none but the processor": "device gpu"
    " cuda cpu accelerator no_cuda",
}


def key_hint(name: object, path: str, known: Iterable) -> str:
    """The end of a message about a key that is not in the config's section at `path`, whose keys are `known`."""
    if found := [key for key in keys_meant(f"{path}{name}") if key != f"{path}{name}"]:
        return _meant(map(_assignment, found))
    here = did_you_mean(name, known)
    return here if here.startswith("; did") else _meant(map(_assignment, _near_keys(str(name), path))) or here


def field_hint(name: str, known: Iterable[str]) -> str:
    """The end of a message about a field that a model, or another part of a config, does not have."""
    known = list(known)
    if found := [field for field in _ours(_FIELDS, name) if field in known]:
        return _meant(f"'{field}'" for field in found)
    if found := [key for key in keys_meant(name) if not key.startswith("model.")]:
        return f"; in a config it is {' or '.join(map(_assignment, found))}"
    return did_you_mean(name, known)


def argument_hint(words: list[str], options: Iterable[str], takes_keys: bool) -> str:
    """The end of a message about the first of some `words` of a command line that is none of the command's `options`.

    takes_keys: whether the command takes `--config.KEY=VALUE`.
    """
    options = list(options)
    given, equals, value = words[0].partition("=")
    word = given.lstrip("-").removeprefix("config.").replace("-", "_")
    if not equals and len(words) > 1 and not words[1].startswith("-"):
        value = words[1]
    found = [option for option in _ours(_OPTIONS, word) if option.partition("=")[0] in options]
    if takes_keys:
        found += [_argument(key, value) for key in keys_meant(word)]
    if not found and (close := nearest(f"--{word}", options, 0.75)):
        found = [close]
    if not found and takes_keys:
        found = [_argument(key, value) for key in _near_keys(word)]
    sentences = _ours(_SENTENCES, word)
    return _meant(found) or (f"; {sentences[0]}" if sentences else f"; known: {', '.join(options)}")


def keys_meant(word: str) -> list[str]:
    """The keys that another project's word stands for, or that end in it: "schedule.base_lr", "duration=N epochs"."""
    word = word.lower()
    last = word.rpartition(".")[2]
    return _ours(_KEYS, word) or ([word] if word in _keys() else _ours(_KEYS, last) or _with_last(last))


def _near_keys(word: str, path: str = "") -> list[str]:
    """Keys, not in the section at `path`, whose last part is similar to a word."""
    last = nearest(word.rpartition(".")[2], {key.rpartition(".")[2] for key in _keys()}, 0.75)
    return [key for key in _with_last(last) if f"{path}{last}" != key] if last else []


def _with_last(name: str) -> list[str]:
    return [key for key in _keys() if key.rpartition(".")[2] == name][:3]


def _ours(table: dict[str, str], word: str) -> list[str]:
    return [ours for ours, theirs in table.items() if word.lower() in theirs.split()]


@functools.cache
def _keys() -> tuple[str, ...]:
    """Every key and section of the schema, including those of built-in parts, such as "optimizer.momentum"."""
    return tuple(dict.fromkeys(_paths(SCHEMA, "")))


def _paths(entry: dict | Part | Several, path: str) -> Iterator[str]:
    entries = dict(entry if isinstance(entry, dict) else entry.keys)
    if isinstance(entry, Part):
        entries |= {name: key for own in entry.own.values() for name, key in own.items()}
    for name, inner in entries.items():
        yield f"{path}{name}"
        if not isinstance(inner, Key):
            yield from _paths(inner, f"{path}{name}.")


def _meant(names: Iterable[str]) -> str:
    names = list(names)
    return f"; did you mean {' or '.join(names)}?" if names else ""


def _assignment(key: str) -> str:
    """The key as written in Python: 'schedule.base_lr', or duration='N epochs'."""
    name, equals, value = key.partition("=")
    return f"{name}='{value}'" if equals else f"'{name}'"


def _argument(key: str, value: str) -> str:
    """The argument that sets a key from `keys_meant` to the given value."""
    key, _, form = key.partition("=")
    if form:
        value = re.sub(r"\bN\b", value if re.fullmatch(r"[\d.]+", value) else "N", form)
    return f'--config.{key}="{value}"' if " " in value else f"--config.{key}={value or 'VALUE'}"
