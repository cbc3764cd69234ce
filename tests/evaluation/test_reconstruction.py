import json
import struct

import jax
import numpy as np
import pytest
from PIL import Image

import vision_jax as vj
from vision_jax.command_line import load_config
from vision_jax.data import open_source
from vision_jax.data.images import decode, eval_transform
from vision_jax.errors import ConfigError
from vision_jax.evaluation import make_evaluator
from vision_jax.evaluation.picture_grid import GAP, SIDE, TEXT, picture_grid
from vision_jax.evaluation.reconstruction import fixed_noise, readable_images
from vision_jax.tasks import make_task
from vision_jax.training.loop import train
from vision_jax.training.partitioning import make_mesh

EXAMPLES = 11  # which neither 4 rows nor 8 devices divide


def config_of():
    """A tiny MAE on digits of 8 x 12 pixels: 2 x 3 patches, of which 3 are hidden."""
    c = load_config("configs/mae_digits.py")
    c.model = dict(width=16, depth=1, num_heads=2, mlp_dim=24, mask_ratio=0.5)
    c.model = dict(decoder_width=8, decoder_depth=1, decoder_num_heads=2, decoder_mlp_dim=12)
    c.data.image_size, c.data.mean, c.data.std = (8, 12), (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    c.batch_size, c.evals.batch_size = 16, 4
    c.evals.reconstruction = {"every": "2 steps", "examples": EXAMPLES, "pictures": 5}
    c.evals.knn.every = ""
    c.log.compile_cache = ""
    return c


@pytest.fixture
def config():
    return config_of()


@pytest.fixture(scope="module")
def made():
    """(task, variables) of the config."""
    task = make_task(config_of(), open_source("digits:train"))
    batch = {"image": np.zeros((1, 8, 12, 3), np.uint8)}
    return task, jax.device_get(jax.jit(task.init)(jax.random.key(0), batch))


def cell(grid, row, column, height, width):
    """One of the pictures of an upright grid."""
    top, left = 2 * GAP + TEXT + row * (height + GAP), GAP + column * (width + GAP)
    return grid[top : top + height, left : left + width]


def evaluator(task, config, devices=8):
    mesh = make_mesh(config, jax.devices()[:devices])
    return make_evaluator("reconstruction", config.evals.reconstruction, task, config, mesh)


def by_hand(task, variables, config):
    """(PSNR, pictures [n, 4, 8, 12, 3]) over the first examples, from the pixels of each patch in loops."""
    source, transform = open_source("digits:test"), eval_transform(config.data)
    images = np.stack([transform(decode(source[i]["image"])) for i in range(EXAMPLES)])
    mean, std = np.array(config.data.mean), np.array(config.data.std)
    inputs = ((images / 255 - mean) / std).astype(np.float32)
    noise = fixed_noise(task.model, images)
    predicted, mask = jax.jit(vj.reconstruct, static_argnums=0)(task.model, variables, inputs, noise)
    predicted = np.clip(np.asarray(predicted) * std + mean, 0, 1)
    values, pictures = [], []
    for image, guess, hidden in zip(images / 255, predicted, np.asarray(mask), strict=True):
        assert hidden.sum() == 3
        errors, visible, missing, together = [], image.copy(), np.full_like(image, 0.5), image.copy()
        for row, column in np.ndindex(2, 3):
            if hidden[row * 3 + column]:
                patch = np.s_[row * 4 : row * 4 + 4, column * 4 : column * 4 + 4]
                errors += ((guess[patch] - image[patch]) ** 2).ravel().tolist()
                visible[patch], missing[patch], together[patch] = 0.5, guess[patch], guess[patch]
        values.append(-10 * np.log10(np.mean(errors)))
        pictures.append(np.stack([image, visible, missing, together]))
    return np.mean(values), np.stack(pictures) * 255


def test_psnr_and_pictures_by_hand(config, made):
    psnr, pictures = by_hand(*made, config)
    result = evaluator(made[0], config).run(made[1])
    assert set(result) == {"psnr", "reconstruction"}
    np.testing.assert_allclose(result["psnr"], psnr, rtol=1e-5)
    grid = result["reconstruction"]
    # 8 x 12 pixels twentyfold, so that the shorter side has 160; titles above them, the PSNR beside them.
    assert grid.dtype == np.uint8 and len(grid) == 2 * GAP + TEXT + 5 * (160 + GAP)
    for row, column in np.ndindex(5, 4):
        expected = np.kron(pictures[row, column], np.ones((20, 20, 1)))
        assert np.abs(cell(grid, row, column, 160, 240) - expected).max() <= 0.51


def test_devices_batches_and_calls_change_nothing(config, made):
    config.mesh.data = 1
    one = evaluator(made[0], config, devices=1)
    expected = one.run(made[1])
    again = one.run(made[1])
    assert again["psnr"] == expected["psnr"]
    np.testing.assert_array_equal(again["reconstruction"], expected["reconstruction"])
    for batch_size, axes in [(EXAMPLES, {"data": -1}), (3, {"data": 2, "fsdp": 2, "tensor": 2})]:
        config.evals.batch_size = batch_size
        config.mesh = {"data": 1, "fsdp": 1, "tensor": 1} | axes
        result = evaluator(made[0], config).run(made[1])
        np.testing.assert_allclose(result["psnr"], expected["psnr"], rtol=1e-5)
        off = result["reconstruction"].astype(int) - expected["reconstruction"]
        assert np.abs(off).max() <= 1  # a rounding


def test_no_pictures_and_fewer_images_than_asked_for(config, made):
    config.evals.reconstruction = {"examples": 1000, "pictures": 0}
    all_of_them = evaluator(made[0], config)
    assert len(all_of_them.images) == 360 and set(all_of_them.run(made[1])) == {"psnr"}


@pytest.mark.parametrize("section", [{"examples": 0}, {"pictures": -1}, {"examples": 3, "pictures": 4}])
def test_counts_that_cannot_be(config, made, section):
    config.evals.reconstruction = section
    with pytest.raises(ConfigError, match=r"evals\.reconstruction"):
        evaluator(made[0], config)


def test_broken_images_are_passed_over_and_named(config, capsys):
    digits = open_source("digits:test")

    class Source:
        def __len__(self):
            return 5

        def __getitem__(self, index):
            if index == 3:
                raise PermissionError("c.png")
            return {"image": b"no picture", "name": "b.png"} if index == 1 else digits[index]

    images = readable_images(Source(), eval_transform(config.data), 3)
    transform = eval_transform(config.data)
    np.testing.assert_array_equal(images, [transform(decode(digits[i]["image"])) for i in (0, 2, 4)])
    first, second = capsys.readouterr().err.splitlines()
    assert "b.png" in first and "c.png" in second
    assert len(readable_images(Source(), transform, 10)) == 3

    class Broken(Source):
        def __getitem__(self, index):
            return {"image": b"no picture", "name": "b.png"}

    with pytest.raises(ConfigError, match="can be read"):
        readable_images(Broken(), transform, 3)


@pytest.mark.parametrize(("side", "scale"), [(SIDE, 1), (200, 1), (SIDE - 1, 2), (32, 5)])
def test_small_pictures_are_enlarged_by_whole_pixels(side, scale):
    pictures = np.random.default_rng(0).integers(0, 255, (3, 2, side, side, 3), np.uint8)
    grid, size = picture_grid(pictures, ["first", "second"], ["a", "b", "c"]), side * scale
    for row, column in np.ndindex(3, 2):
        shown = cell(grid, row, column, size, size)
        np.testing.assert_array_equal(shown[::scale, ::scale], pictures[row, column])
        np.testing.assert_array_equal(shown[scale - 1 :: scale, scale - 1 :: scale], pictures[row, column])


def test_words_say_what_a_picture_is_whichever_way_it_lies():
    pictures = np.full((3, 2, SIDE, SIDE, 3), 255, np.uint8)  # white, so that only words are black
    words = [["first", "second"], ["1 dB", "2 dB", "3 dB"]]
    upright, landscape = (picture_grid(pictures, *words, landscape=lies) for lies in (False, True))
    assert upright.shape[0] > upright.shape[1] and landscape.shape[0] < landscape.shape[1]
    columns, rows = (np.flatnonzero((upright < 128).any((2, axis))) for axis in (0, 1))
    assert (columns > GAP + 2 * (SIDE + GAP)).any() and (rows < GAP + TEXT).any()
    for size, place in ((3, "bottom"), (2, "left")):
        dark = (landscape < 128).any(2)
        part = dark[-TEXT - GAP :].any(0) if place == "bottom" else dark[: -TEXT - GAP].any(1)
        found = np.flatnonzero(part)
        assert 1 + (np.diff(found) > SIDE / 2).sum() == size, place  # words, each by its picture


def tensorboard_pictures(folder):
    """{(tag, step): bytes of a PNG} from event files."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    pictures = {}
    for path in folder.glob("events*"):
        content, at = path.read_bytes(), 0
        while at < len(content):
            (length,) = struct.unpack_from("<Q", content, at)
            event = event_pb2.Event.FromString(content[at + 12 : at + 12 + length])
            at += 12 + length + 4
            for value in event.summary.value:
                if value.HasField("image"):
                    pictures[value.tag, event.step] = value.image.encoded_image_string
    return pictures


def test_a_run_leaves_its_pictures(config, tmp_path):
    config.duration, config.schedule.warmup = "4 steps", "1 steps"
    summary = train(config, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    psnr = {line["step"]: line["reconstruction/psnr"] for line in lines if "reconstruction/psnr" in line}
    assert set(psnr) == {2, 4} and summary["reconstruction/psnr"] == psnr[4]
    assert not any("reconstruction/reconstruction" in name for line in [summary, *lines] for name in line)
    files = sorted((tmp_path / "pictures" / "reconstruction").iterdir())
    assert [path.name for path in files] == ["reconstruction_00000002.png", "reconstruction_00000004.png"]
    first, last = (np.asarray(Image.open(path)) for path in files)
    assert first.shape == last.shape and (first != last).any()
    np.testing.assert_array_equal(cell(first, 0, 0, 160, 240), cell(last, 0, 0, 160, 240))  # the image itself
    shown = tensorboard_pictures(tmp_path / "tensorboard")
    assert set(shown) == {("reconstruction/reconstruction", 2), ("reconstruction/reconstruction", 4)}
