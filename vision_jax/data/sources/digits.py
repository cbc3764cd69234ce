"""scikit-learn's handwritten digits: a real data set that comes with a package."""

import numpy as np

from vision_jax.data.fingerprints import digest
from vision_jax.errors import ConfigError, did_you_mean

_TEST_EXAMPLES = 360


class Digits:
    """1,797 handwritten digits as uint8[8, 8, 3] with labels 0 to 9, in a fixed split of 1,437 and 360.

    The pictures are the test set of the UCI Optical Recognition of Handwritten Digits data (Alpaydin & Kaynak, 1998),
    whose 17 grey levels are spread over 0 to 255. The split is a permutation by NumPy's legacy generator, whose stream
    never changes.
    """

    num_classes = 10
    class_names = tuple("0123456789")

    def __init__(self, split: str):
        if split not in ("train", "test"):
            raise ConfigError(f"no split {split!r} of the digits{did_you_mean(split, ('train', 'test'))}")
        from sklearn.datasets import load_digits

        data = load_digits()
        order = np.random.RandomState(0).permutation(len(data.target))
        self._ids = order[_TEST_EXAMPLES:] if split == "train" else order[:_TEST_EXAMPLES]
        self._images = np.round(data.images[self._ids] * (255 / 16)).astype(np.uint8)
        self._labels = data.target[self._ids]

    @property
    def labels(self) -> list[int]:
        return self._labels.tolist()

    def fingerprint(self) -> dict[str, str]:
        return {"digits": digest([self._images.tobytes().hex(), *map(str, self.labels)])}

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: int) -> dict:
        image = np.repeat(self._images[index, :, :, None], 3, axis=-1)
        return {"image": image, "label": int(self._labels[index]), "name": f"digits[{self._ids[index]}]"}
