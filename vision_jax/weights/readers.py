"""One entry point for all weight formats: a file's format is read from its first bytes, never from its name.

Formats: numpy's `.npz`, `.safetensors`, PyTorch's `.pt`, `.pth` and `.bin` (read without torch, and without running
any of their code), TorchScript, and several files under an index, as transformers writes large models.
"""

import os
import pathlib

from vision_jax import limits
from vision_jax.errors import ConfigError
from vision_jax.files import printable, read_json
from vision_jax.weights.npz import is_npz, open_npz
from vision_jax.weights.safetensors import is_safetensors, open_safetensors
from vision_jax.weights.tensors import File, Tensors
from vision_jax.weights.torch_archive import is_legacy, is_torch_archive, open_legacy, open_torch_archive
from vision_jax.weights.zip_archive import ZipArchive

# The names of weight files in folders of transformers, timm and open_clip, preferred first.
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "open_clip_model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "open_clip_pytorch_model.bin",
)
_WRAPPERS = ("model", "state_dict", "model_ema", "state_dict_ema")
_BESIDE = (
    *_WRAPPERS,
    *("optimizer", "optimizers", "optimizer_states", "lr_scheduler", "scheduler", "scaler", "loss_scaler"),
    *("amp", "amp_scaler", "rng_state", "cuda_rng_state", "epoch", "args", "config"),
)
_FOREIGN = {
    b"\x89HDF": "an HDF5 file, as Keras and TensorFlow write them",
    b"\x93NUMPY": "a single array of numpy; several by name are a .npz",
    b"\x1f\x8b": "compressed with gzip: unpack it first",
    b"version https://git-lfs": "a pointer of Git LFS: fetch the file itself with `git lfs pull`",
    b"<": "a web page or XML: the download went wrong",
    b"\x80": "a bare pickle, which is not read",
}


def open_tensors(path) -> Tensors:
    """The tensors by name in a file, or in a folder with one of WEIGHT_FILES; each is read when asked for.

    Names of nested checkpoints and of TorchScript's modules are joined with dots: "model.blocks.0.norm1.weight".
    Raises a one-line ConfigError naming the file: it is absent, in no supported format, cut off or damaged, asks for a
    Python name that weights do not need, or lacks a part.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        path = _weights_in(path)
    file = File(path)
    return _open_shards(file) if _starts_json(file) else _open_file(file)


def _starts_json(file: File) -> bool:
    return file.read(0, min(file.size, 64)).tobytes().lstrip().startswith(b"{")


def _open_file(file: File) -> Tensors:
    """The tensors of a file that is not an index."""
    head = file.read(0, min(file.size, 64)).tobytes()
    if not head:
        raise file.error("the file is empty")
    if is_safetensors(head):
        return open_safetensors(file)
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        archive = ZipArchive(file)
        if is_torch_archive(archive):
            return open_torch_archive(archive)
        if is_npz(archive):
            return open_npz(archive)
        raise file.error("a zip file without weights: it has neither arrays of numpy nor a checkpoint of PyTorch")
    if is_legacy(head):
        return open_legacy(file)
    kind = next((kind for start, kind in _FOREIGN.items() if head.startswith(start)), "of no known format")
    raise file.error(f"no file of weights (.npz, .safetensors, PyTorch's .pt, .pth, .bin), but {kind}")


def unwrap(tensors: Tensors) -> Tensors:
    """The model's own tensors, without the optimizer's, and without the prefixes "model.", "state_dict." and "module.".

    From a checkpoint that also has averaged weights this takes the plain ones; `select(tensors, "model_ema")` takes the
    others. A prefix stays if tensors of unknown meaning lack it.
    """
    while (prefix := _wrapper(tensors)) is not None:
        tensors = select(tensors, prefix)
    return tensors


def _wrapper(tensors: Tensors) -> str | None:
    roots = {name.partition(".")[0] for name in tensors}
    wrapper = next((wrapper for wrapper in _WRAPPERS if any(name.startswith(f"{wrapper}.") for name in tensors)), None)
    if wrapper and roots <= set(_BESIDE):
        return wrapper
    return "module" if roots == {"module"} and all(name.startswith("module.") for name in tensors) else None


def select(tensors: Tensors, prefix: str) -> Tensors:
    """The tensors whose names begin with `prefix` and a dot, which are removed. Raises ConfigError if there are none."""
    start = f"{prefix}."
    found = {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}
    if not found:
        roots = ", ".join(sorted({name.partition(".")[0] for name in tensors})[:20])
        raise ConfigError(f"no tensors under '{prefix}'; there are: {printable(roots)}")
    return Tensors(tensors.path, found, tensors.metadata, tensors.on_disk)


def _weights_in(folder: pathlib.Path) -> pathlib.Path:
    for name in WEIGHT_FILES:
        if os.path.exists(folder / name):
            return folder / name
    raise ConfigError(
        f"'{folder}': the folder holds none of {', '.join(WEIGHT_FILES)}; nor is it a run, which has checkpoints"
    )


def shards_of(index: pathlib.Path) -> dict[str, str]:
    """{tensor name: file name} from a `*.index.json`. Raises ConfigError."""
    file = File(index)
    with file.parsing("the index"):
        parsed = read_json(index, limits.CONFIG_BYTES)
    shards = parsed.get("weight_map") if isinstance(parsed, dict) else None
    if not isinstance(shards, dict) or not shards:
        raise file.error("a JSON file, but no index of weights: it has no 'weight_map'")
    for shard in shards.values():
        if not isinstance(shard, str) or not shard.strip(".") or not shard.isprintable() or set(shard) & set("/\\:"):
            raise file.error(f"the index names a file outside of its folder, {printable(shard)}")
    return shards


def _open_shards(file: File) -> Tensors:
    shards, opened = shards_of(file.path), {}
    for shard in dict.fromkeys(shards.values()):
        path = file.path.parent / shard
        if not os.path.exists(path):
            raise file.error(f"shard '{printable(shard)}' is missing")
        part = File(path)
        if _starts_json(part):
            raise file.error(f"the index names an index, '{printable(shard)}'")
        opened[shard] = _open_file(part)
    for name, shard in shards.items():
        if name not in opened[shard]:
            raise file.error(f"shard '{printable(shard)}' has no tensor '{printable(name)}'")
    metadata = {key: value for tensors in opened.values() for key, value in tensors.metadata.items()}
    on_disk = sum(tensors.on_disk for tensors in opened.values())
    return Tensors(file.path, {name: opened[shard][name] for name, shard in shards.items()}, metadata, on_disk)
