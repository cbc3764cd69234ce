"""Folders of models, and of runs, that describe what no memory holds, or nothing."""

import json
import pathlib

import numpy as np
from hand_made import archive, pickled, safetensors, tensor
from hostile_places import KINDS
from hostile_registry import FILES, MODELS, entry


def change(path: pathlib.Path, **values) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def with_config(name: str, family: str, **values) -> None:
    def case(folder: pathlib.Path) -> pathlib.Path:
        change(folder / family / "config.json", **values)
        return folder / family

    MODELS[f"config.json of {family}: {name}"] = case


for kind, make in KINDS.items():
    for file_name in (
        "config.json",
        "preprocessor_config.json",
        "model.safetensors",
        "model.safetensors.index.json",
        "part-1.safetensors",
    ):

        def case(folder, make=make, file_name=file_name) -> pathlib.Path:
            if file_name in ("model.safetensors.index.json", "part-1.safetensors"):
                (folder / "vit" / "model.safetensors").unlink()
            if file_name == "part-1.safetensors":
                (folder / "vit" / "model.safetensors.index.json").write_text(
                    '{"weight_map": {"w": "part-1.safetensors"}}'
                )
            (folder / "vit" / file_name).unlink(missing_ok=True)
            make(folder / "vit" / file_name)
            return folder / "vit"

        MODELS[f"{kind} for {file_name}"] = case

    def named(folder, make=make) -> pathlib.Path:
        make(folder / "weights.pth")
        return folder / "weights.pth"

    FILES[f"{kind} by its name"] = named

HUGE = 10**9
for family, names in {
    "vit": ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "image_size", "patch_size"),
    "mae": ("num_hidden_layers", "image_size", "decoder_hidden_size", "decoder_num_hidden_layers", "patch_size"),
    "swin": ("image_size", "window_size", "mlp_ratio"),
    "swinv2": ("image_size", "window_size", "pretrained_window_sizes"),
}.items():
    for name in names:
        for value in (HUGE, 0, -1, float("nan"), [HUGE, HUGE], 10**4000):
            with_config(f"{name}={str(value)[:20]}", family, **{name: value})
for name, value in {
    "vision_config": {"image_size": HUGE},
    "text_config": {"num_attention_heads": 0},
    "vision_config_dict": 3,
}.items():
    with_config(f"{name}={value}", "clip", **{name: value})
with_config("hidden_size=4194304", "vit", hidden_size=2**22, intermediate_size=2**22)
with_config("image_size=4096", "vit", image_size=4096)
with_config("image_size=4096", "swinv2", image_size=4096)
with_config("num_hidden_layers=600", "vit", num_hidden_layers=600)
with_config("id2label of lists", "vit", id2label={"0": ["a"], "1": "b", "2": "c"})
with_config("model_type of escape codes", "vit", model_type="\x1b[2J" + "x" * 10**7)
with_config("image_size of 4096, window_size of 64", "swin", image_size=4096, window_size=64)
with_config(
    "crop_pct=1e-9",
    "timm vit",
    pretrained_cfg={"input_size": [3, 16, 16], "mean": [0.5] * 3, "std": [0.5] * 3, "crop_pct": 1e-9},
)


def text_of(name: str, path: str, text: bytes) -> None:
    def case(folder: pathlib.Path) -> pathlib.Path:
        target = folder / path
        if target.name.endswith("index.json"):
            (target.parent / "model.safetensors").rename(target.parent / "part.bin")
        target.write_bytes(text)
        return target.parent

    MODELS[f"{path}: {name}"] = case


for path in ("vit/config.json", "vit/preprocessor_config.json", "vit/model.safetensors.index.json", "run/config.json"):
    text_of("nested 100,000 deep", path, b'{"a":' * 100_000 + b"1" + b"}" * 100_000)
    text_of("nested 900 deep", path, b'{"model_type":' * 900 + b"1" + b"}" * 900)
    text_of("5,000 digits", path, b'{"hidden_size":' + b"9" * 5000 + b"}")
    text_of("64 MB", path, b'{"a":"' + b"x" * 2**26 + b'"}')
    text_of("4 MB of empty objects", path, b'{"model":[' + b"{}," * 1_350_000 + b"{}]}")
    text_of("4 MB of names", path, b'{"model":{' + b",".join(b'"%d":0' % i for i in range(380_000)) + b"}}")
    text_of("no UTF-8", path, b'{"a":"\xff"}')
    text_of("a list", path, b"[]")
for name, shard in {
    "a shard ../part.bin": "../part.bin", "a shard /etc/passwd": "/etc/passwd", "a shard that is the index": "model.safetensors.index.json",
    "a shard of 5,000 characters": "x" * 5000, "a shard of half a character": "\ud800", "a shard that is a list": ["part.bin"],
    "a tensor that the shard lacks": "part.bin", "a shard of escape codes": "\x1b[2J",
}.items():  # fmt: skip
    text_of(name, "vit/model.safetensors.index.json", json.dumps({"weight_map": {"\x1b[31mw": shard}}).encode())


def index_of_itself(folder: pathlib.Path) -> pathlib.Path:
    """Under a name that is no index's."""
    (folder / "weights").write_text('{"weight_map": {"w": "weights"}}')
    return folder / "weights"


FILES["an index that names itself"] = index_of_itself


def expanded(folder: pathlib.Path) -> pathlib.Path:
    """timm's ViT, every tensor of which is one number."""
    from vision_jax.weights.readers import open_tensors

    shapes = {name: found.shape for name, found in open_tensors(folder / "timm vit").items()}
    grown = {name: tuple(side * 2048 if side in (8, 24) else side for side in shape) for name, shape in shapes.items()}
    root = {name: tensor("FloatStorage", "0", 1, 0, shape, (0,) * len(shape)) for name, shape in grown.items()}
    (folder / "weights.pth").write_bytes(archive(pickled(root), {"0": bytes(4)}))
    return folder / "weights.pth"


MODELS[".pth: parameters of gigabytes in one number"] = expanded


def deep(folder: pathlib.Path) -> pathlib.Path:
    """Google's ViT of 10 million layers, stacked."""
    shapes = {"embedding/kernel": (4, 4, 3, 1), "Transformer/encoderblock/LayerNorm_0/scale": (10**7, 1)}
    shapes |= {"Transformer/encoderblock/MultiHeadDotProductAttention_0/query/kernel": (10**7, 1, 1, 1)}
    shapes |= {
        "Transformer/encoderblock/MlpBlock_0/Dense_0/kernel": (10**7, 1, 1),
        "cls": (1, 1, 1),
        "Transformer/posembed_input/pos_embedding": (1, 2, 1),
    }
    np.savez_compressed(folder / "weights.npz", **{name: np.zeros(shape, np.int8) for name, shape in shapes.items()})
    return folder / "weights.npz"


MODELS[".npz: 10 million layers"] = deep


def stages(folder: pathlib.Path) -> pathlib.Path:
    """timm's hybrid with a stage of an endless number."""
    names = {f"patch_embed.backbone.stages.{10**n}.blocks.0.conv1.weight": entry([0], end=0) for n in (8, 100)}
    names |= {"patch_embed.proj.weight": entry([0, 1, 1, 1], end=0)}
    (folder / "weights").write_bytes(safetensors(names))
    return folder / "weights"


MODELS[".safetensors: a stage of the number 10**100"] = stages


def classes(folder: pathlib.Path) -> pathlib.Path:
    """10**12 classes of no width, with names."""
    from vision_jax.weights.readers import open_tensors

    place = folder / "timm vit"
    change(place / "config.json", id2label={"0": "a"})
    header, data, end = {}, b"", 0
    for name, found in open_tensors(place).items():
        shape = (10**12, 0) if name == "head.weight" else (10**12, 0)[:0] if name == "head.bias" else found.shape
        size = 4 * int(np.prod(shape, dtype=object))
        header[name], data, end = entry(shape, start=end, end=end + size), data + bytes(size), end + size
    (place / "model.safetensors").write_bytes(safetensors(header, data))
    return place


MODELS[".safetensors: 10**12 classes without parameters"] = classes


def repeated(name: str, prefix: str, count: int):
    """A model in timm's format with so many blocks like the first, in a row."""

    def case(folder: pathlib.Path) -> pathlib.Path:
        from vision_jax.weights.readers import open_tensors
        from vision_jax.weights.safetensors import write_safetensors

        place = folder / name
        tensors = {name: np.asarray(found.read()) for name, found in open_tensors(place).items()}
        first = {name: value for name, value in tensors.items() if name.startswith(f"{prefix}blocks.0.")}
        for i in range(1, count):
            tensors |= {name.replace("blocks.0.", f"blocks.{i}."): value for name, value in first.items()}
        write_safetensors(place / "model.safetensors", tensors)
        return place

    return case


MODELS[".safetensors: 900 blocks"] = repeated("timm vit", "", 900)
MODELS[".safetensors: Swin of 600 blocks"] = repeated("timm swin", "layers.0.", 600)


def with_run(name: str, **values) -> None:
    def case(folder: pathlib.Path) -> pathlib.Path:
        path = folder / "run" / "config.json"
        config = json.loads(path.read_text())
        for key, value in values.items():
            *parents, last = key.split("__")
            section = config
            for parent in parents:
                section = section[parent]
            section[last] = value
        path.write_text(json.dumps(config))
        return folder / "run"

    MODELS[f"config.json of a run: {name}"] = case


for key, value in {
    "derived__class_names": [1, 2], "derived": 3, "data": [], "data__image_size": HUGE, "data__mean": [1], "data__eval_crop": 1e-9,
    "model__depth": HUGE, "model__name": ["vit"], "model__width": "8", "model__num_heads": 0, "checkpoint": None, "schedule__base_lr": 10**400,
    "optimizer": {"name": {}}, "unknown": 1, "model__posemb": "sincos2d\x1b", "task": 7,
}.items():  # fmt: skip
    with_run(f"{key.replace('__', '.')}={str(value)[:20]}", **{key: value})
