"""Prepared TensorFlow Datasets, read without TensorFlow."""

import os
import re

import numpy as np

from vision_jax.errors import ConfigError, did_you_mean

# NAME, NAME/CONFIG, NAME:VERSION or NAME/CONFIG:VERSION, a colon, and a split such as train, train[:90%], train+test.
_SPEC = re.compile(r"(?P<name>[^:]+(?::[\d*]+\.[\d*]+\.[\d*]+)?):(?P<split>.+)")


class Tfds:
    """The encoded images of one split of a prepared data set, with their labels, their captions or both.

    The data set needs a file format with random access, such as array_record, and among its features one image, and one
    class label or a feature 'captions', 'caption' or 'text': a text, a sequence of texts, or a sequence of dictionaries
    with a 'text'. Without labels num_classes is 0, and so is every label.

    Raises:
        ConfigError: the data set or split is unknown, not prepared, without random access, or has no labelled or
            captioned images; the message says how to fix it, with the command that prepares the data set.
    """

    def __init__(self, spec: str, data_dir: str = ""):
        match = _SPEC.fullmatch(spec)
        if match is None:
            raise ConfigError(f"data source 'tfds:{spec}' must read 'tfds:NAME:SPLIT', such as 'tfds:cifar10:train'")
        name, split = match["name"], match["split"]
        import tensorflow_datasets as tfds

        data_dir = os.path.expanduser(data_dir or str(tfds.core.constants.DATA_DIR))
        try:
            builder = tfds.core.read_only_builder.builder_from_files(name, data_dir=data_dir)
        except tfds.core.DatasetNotFoundError:
            raise ConfigError(_not_found(name, data_dir)) from None
        _check_format(name, builder)
        features = builder.info.features
        image, label, texts = _image_label_and_texts(name, features)
        pictures = [key for key, feature in features.items() if isinstance(feature, tfds.features.Image)]
        try:
            self._records = builder.as_data_source(
                split, decoders={key: tfds.decode.SkipDecoding() for key in pictures}
            )
        except (ValueError, KeyError):
            splits = sorted(builder.info.splits)
            guess = did_you_mean(split, splits)
            known = "" if "known" in guess else f" (splits: {', '.join(splits)})"
            raise ConfigError(f"TFDS data set '{name}' has no split '{split}'{guess}{known}") from None
        self._version = f"version {builder.info.version}"
        self._spec, self._image, self._label, self._texts = spec, image, label, texts
        self.num_classes = features[label].num_classes if label else 0
        self.class_names = tuple(features[label].names) if label else ()

    def fingerprint(self) -> dict[str, str]:
        return {self._spec: f"{self._version}, {len(self)} examples"}

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict:
        record = self._records[index]
        label = int(record[self._label]) if self._label else 0
        example = {"image": record[self._image], "label": label, "name": f"tfds:{self._spec}[{index}]"}
        if self._texts:
            texts = record[self._texts]
            texts = texts["text"] if isinstance(texts, dict) else texts
            texts = [texts] if isinstance(texts, bytes) else texts
            example["captions"] = tuple(text.decode("utf-8", errors="replace") for text in texts)
        return example


def _not_found(name: str, data_dir: str) -> str:
    import tensorflow_datasets as tfds

    base = re.split(r"[/:]", name)[0]
    folder = os.path.join(data_dir, base)
    prepared = [os.path.relpath(found, data_dir) for found, _, files in os.walk(folder) if "dataset_info.json" in files]
    if prepared:
        return f"TFDS data set '{name}' is not prepared in '{data_dir}', only {', '.join(sorted(prepared))}"
    known = set(tfds.list_builders(with_community_datasets=False))
    if os.path.isdir(data_dir):
        known |= set(os.listdir(data_dir))
    if base not in known:
        return f"no TFDS data set '{base}' is known or prepared in '{data_dir}'{did_you_mean(base, known)}"
    command = (
        'python -c "import tensorflow_datasets as tfds; '
        f"tfds.builder('{name}', data_dir='{data_dir}', file_format='array_record').download_and_prepare()\""
    )
    return (
        f"TFDS data set '{name}' is not prepared in '{data_dir}'; "
        f"prepare it once, most often where TensorFlow is installed, with: {command}"
    )


def _check_format(name: str, builder) -> None:
    import tensorflow_datasets as tfds

    formats = builder.info.available_file_formats()
    if not formats & set(tfds.core.file_adapters.FileFormat.with_random_access()):
        raise ConfigError(
            f"TFDS data set '{name}' is prepared as {'/'.join(sorted(f.value for f in formats))}, which has no random "
            "access; where TensorFlow is installed, add array_record to it with: "
            f"tfds convert_format --dataset_version_dir={builder.data_dir} --out_file_format=array_record"
        )


def _image_label_and_texts(name: str, features) -> tuple[str, str, str]:
    """The names of the only image and class label, or else 'image' and 'label', and the name of the texts.

    The name of the label or the texts is empty if the data set has none.
    """
    import tensorflow_datasets as tfds

    found = []
    for kind, usual in ((tfds.features.Image, "image"), (tfds.features.ClassLabel, "label")):
        keys = [key for key, feature in features.items() if isinstance(feature, kind)]
        found.append(keys[0] if len(keys) == 1 else usual if usual in keys else "")
    image, label = found
    texts = next((key for key in ("captions", "caption", "text") if key in features and _is_texts(features[key])), "")
    if not (image and (label or texts)):
        raise ConfigError(
            f"TFDS data set '{name}' is not one of labelled or captioned images; its features: {', '.join(sorted(features))}"
        )
    return image, label, texts


def _is_texts(feature) -> bool:
    import tensorflow_datasets as tfds

    dtype, shape = feature.np_dtype, feature.shape
    if isinstance(dtype, dict):
        dtype, shape = dtype.get("text"), shape.get("text", ())
    is_nested = isinstance(feature, tfds.features.Dataset) or len(shape) > 1
    return dtype is not None and not isinstance(dtype, dict) and np.dtype(dtype).kind in "OSU" and not is_nested
