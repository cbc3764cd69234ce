import pickle

import numpy as np
import pytest

from vision_jax.data import images, open_source
from vision_jax.errors import ConfigError

tfds = pytest.importorskip("tensorflow_datasets")


TEXTS = [("a grey square", "un carr\u00e9 gris"), ("\u7070\u8272",), ("one", "two", "three")]
CAPTIONS = {  # configuration: name of the feature, the feature, and how texts are given to it
    "coco": (
        "captions",
        lambda: tfds.features.Sequence({"id": np.int64, "text": np.str_}),
        lambda texts: [{"id": i, "text": text} for i, text in enumerate(texts)],
    ),
    "several": ("captions", lambda: tfds.features.Sequence(tfds.features.Text()), list),
    "one": ("text", tfds.features.Text, lambda texts: texts[0]),
    "numbers": ("captions", lambda: tfds.features.Sequence(np.int64), lambda texts: [len(text) for text in texts]),
    "unnamed": ("remarks", tfds.features.Text, lambda texts: texts[0]),
}


def _greys(count, start):
    return [np.full((6, 5, 3), start + i, np.uint8) for i in range(count)]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Prepared data sets: tiny_squares (labels, a caption), tiny_captions (texts of many forms), tiny_texts (no image)."""
    import io

    from PIL import Image

    def png(array):
        stream = io.BytesIO()
        Image.fromarray(array).save(stream, "PNG")
        return stream.getvalue()

    class TinySquares(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.2.0")

        def _info(self):
            features = {
                "picture": tfds.features.Image(shape=(None, None, 3)),
                "kind": tfds.features.ClassLabel(names=["dark", "light"]),
                "caption": tfds.features.Text(),
            }
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, _):
            return {"train": self._examples(7, 10), "test": self._examples(4, 200)}

        def _examples(self, count, start):
            for i, image in enumerate(_greys(count, start)):
                yield i, {"picture": png(image), "kind": int(start > 100), "caption": f"grey {start + i}"}

        def _generate_examples(self):
            raise NotImplementedError

    class TinyCaptions(tfds.core.GeneratorBasedBuilder):
        """Features as those of coco_captions, or with the captions in another form."""

        VERSION = tfds.core.Version("1.0.0")
        BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name) for name in CAPTIONS]  # noqa: RUF012

        def _info(self):
            name, feature, _ = CAPTIONS[self.builder_config.name]
            features = {
                "image": tfds.features.Image(shape=(None, None, 3)),
                "image/id": np.int64,
                "objects": tfds.features.Sequence({"label": tfds.features.ClassLabel(num_classes=80)}),
                name: feature(),
            }
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, _):
            name, _, form = CAPTIONS[self.builder_config.name]
            return {
                "train": [
                    (i, {"image": png(image), "image/id": i, "objects": [{"label": 3}] * i, name: form(TEXTS[i])})
                    for i, image in enumerate(_greys(len(TEXTS), 30))
                ]
            }

        def _generate_examples(self):
            raise NotImplementedError

    class TinyTexts(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict({"text": tfds.features.Text()})
            )

        def _split_generators(self, _):
            return {"train": [(0, {"text": "none"})]}

        def _generate_examples(self):
            raise NotImplementedError

    root = tmp_path_factory.mktemp("tfds")
    options = dict(data_dir=root, file_format="array_record")
    for builder in (TinySquares(**options), TinyTexts(**options)):
        builder.download_and_prepare()
    for name in CAPTIONS:
        TinyCaptions(config=name, **options).download_and_prepare()
    return str(root)


def test_reads_encoded_images_and_labels(data_dir):
    source = open_source("tfds:tiny_squares:train", tfds_dir=data_dir)
    assert len(source) == 7 and source.num_classes == 2 and source.class_names == ("dark", "light")
    examples = [source[i] for i in range(7)]
    assert {e["label"] for e in examples} == {0} and examples[3]["name"] == "tfds:tiny_squares:train[3]"
    assert all(isinstance(e["image"], bytes) for e in examples)
    greys = sorted(np.asarray(images.decode(e["image"]))[0, 0, 0] for e in examples)
    assert greys == list(range(10, 17))


@pytest.mark.parametrize(
    "name, split, length",
    [("tiny_squares", "train[:3]", 3), ("tiny_squares:1.2.0", "train+test", 11), ("tiny_squares", "test[50%:]", 2)],
)
def test_versions_and_sub_splits(data_dir, name, split, length):
    assert len(open_source(f"tfds:{name}:{split}", tfds_dir=data_dir)) == length


@pytest.mark.parametrize("form, count", [("coco", None), ("several", None), ("one", 1)])
def test_captions_of_images_without_labels(data_dir, form, count):
    source = open_source(f"tfds:tiny_captions/{form}:train", tfds_dir=data_dir)
    assert len(source) == 3 and source.num_classes == 0 and source.class_names == ()
    for example in (source[i] for i in range(3)):
        number = int(np.asarray(images.decode(example["image"]))[0, 0, 0]) - 30
        assert example["captions"] == TEXTS[number][:count] and example["label"] == 0


def test_captions_beside_labels(data_dir):
    source = open_source("tfds:tiny_squares:test", tfds_dir=data_dir)
    for example in (source[i] for i in range(4)):
        assert example["label"] == 1
        assert example["captions"] == (f"grey {np.asarray(images.decode(example['image']))[0, 0, 0]}",)


def test_survives_pickling(data_dir):
    source = open_source("tfds:tiny_squares:test", tfds_dir=data_dir)
    assert pickle.loads(pickle.dumps(source))[2] == source[2]


@pytest.mark.parametrize(
    "spec, message",
    [
        ("tiny_squares:trian", "has no split 'trian'; did you mean 'train'? (splits: test, train)"),
        ("tiny_square:train", "no TFDS data set 'tiny_square' is known or prepared in"),
        ("tiny_square:train", "did you mean 'tiny_squares'?"),
        ("cifra10:train", "did you mean 'cifar10'?"),
        (
            "cifar10:train",
            "tfds.builder('cifar10', data_dir='{dir}', file_format='array_record').download_and_prepare()",
        ),
        ("tiny_squares:9.9.9:train", "is not prepared in '{dir}', only tiny_squares/1.2.0"),
        ("tiny_texts:train", "is not one of labelled or captioned images; its features: text"),
        ("tiny_captions/numbers:train", "its features: captions, image, image/id, objects"),
        ("tiny_captions/unnamed:train", "its features: image, image/id, objects, remarks"),
    ],
)
def test_errors_say_what_would_be_right(data_dir, spec, message):
    with pytest.raises(ConfigError) as error:
        open_source(f"tfds:{spec}", tfds_dir=data_dir)
    assert message.format(dir=data_dir) in str(error.value)


def test_a_format_without_random_access_is_named(data_dir, tmp_path):
    import json
    import shutil

    shutil.copytree(f"{data_dir}/tiny_squares", tmp_path / "tiny_squares")
    info = tmp_path / "tiny_squares" / "1.2.0" / "dataset_info.json"
    info.write_text(json.dumps(json.loads(info.read_text()) | {"fileFormat": "tfrecord"}))
    with pytest.raises(ConfigError, match=r"prepared as tfrecord.*tfds convert_format --dataset_version_dir=.*1\.2\.0"):
        open_source("tfds:tiny_squares:train", tfds_dir=str(tmp_path))
