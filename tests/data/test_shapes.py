import collections
import itertools
import math
import pickle
import re

import numpy as np
import pytest

from vision_jax.data import open_source
from vision_jax.data.sources.shapes import COLORS, OPPOSITES, SHAPES, SIDE
from vision_jax.errors import ConfigError

THING = r"a (small|large) (\w+) (\w+)"
SENTENCE = re.compile(f"{THING} (left of|right of|above|below) {THING}")


def parse(caption: str) -> tuple:
    """((size, colour, shape), relation, (size, colour, shape)) with the relation turned to "left of" or "above"."""
    first, relation, second = np.split(SENTENCE.fullmatch(caption).groups(), [3, 4])
    first, second, relation = tuple(map(str, first)), tuple(map(str, second)), str(relation[0])
    opposites = {other: one for one, other in OPPOSITES.items()}
    return (second, opposites[relation], first) if relation in opposites else (first, relation, second)


@pytest.fixture(scope="module")
def scenes() -> dict[str, list]:
    """What the first caption of every picture says, for each split."""
    sources = {split: open_source(f"shapes:{split}") for split in ("train", "test")}
    return {split: [tuple(source.scene(i)) for i in range(len(source))] for split, source in sources.items()}


def test_an_example():
    source = open_source("shapes:test")
    example = source[3]
    assert (source.num_classes, source.class_names, len(source), example["label"]) == (0, (), 100, 0)
    assert example["image"].shape == (SIDE, SIDE, 3) and example["image"].dtype == np.uint8
    assert example["name"] == "shapes:test[3]" and len(example["captions"]) == 2
    with pytest.raises(IndexError):
        source[100]
    with pytest.raises(IndexError):
        source[-1]
    with pytest.raises(ConfigError, match=r"no split 'tset' of the shapes; did you mean 'test'\?"):
        open_source("shapes:tset")


def test_both_captions_say_the_same(scenes):
    for split in ("train", "test"):
        source = open_source(f"shapes:{split}")
        for i in range(100):
            first, second = source[i]["captions"]
            assert first != second and parse(first) == parse(second) == scenes[split][i]


def test_a_picture_is_a_function_of_its_index():
    one, other = open_source("shapes:train"), pickle.loads(pickle.dumps(open_source("shapes:train")))
    order = [7, 19_999, 0, 7, 12_345]
    for index, example in zip(order, [one[i] for i in order], strict=True):
        np.random.seed(index)
        np.testing.assert_equal(other[index], example)


def test_pictures_of_one_scene_vary(scenes):
    places = collections.defaultdict(list)
    for index, scene in enumerate(scenes["train"]):
        places[scene].append(index)
    source = open_source("shapes:train")
    pairs = [found[:2] for found in places.values() if len(found) > 1][:20]
    assert len(pairs) == 20 and all((source[a]["image"] != source[b]["image"]).mean() > 0.3 for a, b in pairs)


def test_no_scene_of_the_test_split_is_shown_in_training(scenes):
    train, test = set(scenes["train"]), set(scenes["test"])
    assert len(test) == len(scenes["test"]) == 100 and not train & test
    things = set(itertools.product(("small", "large"), COLORS, SHAPES))
    everything = {(a, relation, b) for a in things for b in things for relation in OPPOSITES if a != b}
    assert train | test == everything and len(everything) == 18_240


def test_no_caption_of_one_test_scene_is_true_of_another():
    source = open_source("shapes:test")
    captions = [caption for i in range(100) for caption in source[i]["captions"]]
    assert len(set(captions)) == 200 and len({parse(caption) for caption in captions}) == 100


def test_every_attribute_and_relation_is_common_in_both_splits(scenes):
    for split, least in (("train", 1000), ("test", 5)):
        counts = collections.Counter()
        for first, relation, second in scenes[split]:
            counts.update([*first, relation, *second])
        assert set(counts) == {"small", "large", *COLORS, *SHAPES, *OPPOSITES}
        assert min(counts.values()) >= least


def objects(image: np.ndarray) -> list[np.ndarray]:
    """Masks bool[H, W] of the connected regions that differ from the corner's shade."""
    ndimage = pytest.importorskip("scipy.ndimage")
    differs = np.abs(image.astype(int) - image[0, 0]).max(-1) > 22
    regions, count = ndimage.label(differs, structure=np.ones((3, 3)))
    return [regions == i + 1 for i in range(count)]


def inside(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Which points (x, y) lie in a shape of radius 1 around the origin, y pointing down."""
    radius, angle = np.hypot(x, y), np.arctan2(x, -y)
    if shape in ("circle", "ring"):
        return (radius <= 1) & ((radius >= 0.55) | (shape == "circle"))
    if shape == "square":
        return np.maximum(abs(x), abs(y)) <= 0.88
    if shape == "triangle":
        return (y <= 0.85) & (abs(x) <= (y + 1) / 1.85)
    if shape == "cross":
        return (np.maximum(abs(x), abs(y)) <= 1) & (np.minimum(abs(x), abs(y)) <= 0.33)
    # Star: each tenth of a turn has one edge, from the tip at angle 0 to the inner corner at pi / 5.
    angle = abs((angle + math.pi / 5) % (2 * math.pi / 5) - math.pi / 5)
    a, b = np.array([0, 1.0]), 0.45 * np.array([math.sin(math.pi / 5), math.cos(math.pi / 5)])
    px, py = radius * np.sin(angle), radius * np.cos(angle)
    return (b[0] - a[0]) * (py - a[1]) - (b[1] - a[1]) * (px - a[0]) <= 0


def likeliest_shape(mask: np.ndarray) -> str:
    """The shape that covers `mask` best, at the mask's own middle and area, whatever the turn."""
    y, x = np.argwhere(mask).T
    fine_y, fine_x = np.mgrid[-1.2:1.2:0.02, -1.2:1.2:0.02]
    scores = {}
    for shape in SHAPES:
        template = inside(shape, fine_x, fine_y)
        scale = math.sqrt(mask.sum() / (template.sum() * 0.02**2))
        rows, columns = np.mgrid[: mask.shape[0], : mask.shape[1]]
        for turn in (-0.1, 0.0, 0.1):
            u, v = (columns - x.mean()) / scale, (rows - y.mean()) / scale
            u, v = u * math.cos(turn) + v * math.sin(turn), v * math.cos(turn) - u * math.sin(turn)
            covered = inside(shape, u + fine_x[template].mean(), v + fine_y[template].mean())
            overlap = (covered & mask).sum() / (covered | mask).sum()
            scores[shape] = max(overlap, scores.get(shape, 0))
    return max(scores, key=scores.get)


def seen(image: np.ndarray) -> tuple:
    """The scene that a picture shows, read from its pixels."""
    masks = objects(image)
    assert len(masks) == 2
    things, middles = [], []
    for mask in masks:
        rows, columns = np.argwhere(mask).T
        extent = max(np.ptp(rows), np.ptp(columns)) + 1
        color = np.median(image[mask], axis=0)
        nearest = min(COLORS, key=lambda name: np.abs(color - COLORS[name]).sum())
        things.append(("large" if extent >= 17.5 else "small", nearest, likeliest_shape(mask)))
        middles.append(np.array([columns.mean(), rows.mean()]))
    apart = middles[1] - middles[0]
    axis = int(abs(apart[1]) > abs(apart[0]))
    assert abs(apart[axis]) > 2 * abs(apart[1 - axis])
    first = int(apart[axis] < 0)
    return things[first], ("left of", "above")[axis], things[1 - first]


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_picture_shows_what_its_captions_say(split, scenes):
    source = open_source(f"shapes:{split}")
    wrong = [i for i in range(100) if seen(source[i]["image"]) != scenes[split][i]]
    assert not wrong, [(i, source[i]["captions"][0], seen(source[i]["image"])) for i in wrong]
