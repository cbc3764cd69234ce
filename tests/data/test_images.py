import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vision_jax.config import base_config
from vision_jax.data import images
from vision_jax.errors import ConfigError


def test_decodes_every_mode_to_rgb(picture, encode):
    rgb, grey = np.asarray(picture), np.asarray(picture.convert("L"))
    as_rgb = np.repeat(grey[..., None], 3, axis=-1)
    alpha = picture.copy()
    alpha.putalpha(Image.fromarray(255 - grey))
    deep = grey.astype(np.uint16) * 256 + 77
    cases = {
        "rgb png": (encode(picture), rgb),
        "grey png": (encode(picture.convert("L")), as_rgb),
        "grey and alpha": (encode(picture.convert("LA")), as_rgb),
        "one bit": (encode(picture.convert("1")), np.asarray(picture.convert("1").convert("RGB"))),
        "palette": (encode(picture.quantize(64)), np.asarray(picture.quantize(64).convert("RGB"))),
        "alpha": (encode(alpha), rgb),
        "16 bits": (encode(deep), as_rgb),
        "array": (rgb, rgb),
        "grey array": (grey, as_rgb),
        "one channel": (grey[..., None], as_rgb),
        "four channels": (np.asarray(alpha), rgb),
    }
    for name, (image, expected) in cases.items():
        decoded = images.decode(image)
        assert decoded.mode == "RGB", name
        np.testing.assert_array_equal(np.asarray(decoded), expected, err_msg=name)


@pytest.mark.parametrize(
    "format, tolerance", [("BMP", 0), ("TIFF", 0), ("PPM", 0), ("GIF", 12), ("WEBP", 12), ("JPEG", 12)]
)
def test_decodes_every_format(format, tolerance, picture, encode):
    decoded = images.decode(encode(picture, format))
    assert np.abs(np.asarray(decoded).astype(int) - np.asarray(picture)).mean() <= tolerance


def test_decodes_cmyk_jpeg(picture, encode):
    smooth = picture.resize((20, 20)).resize((83, 61))
    decoded = np.asarray(images.decode(encode(smooth.convert("CMYK"), "JPEG", quality=98)))
    assert np.abs(decoded.astype(int) - np.asarray(smooth)).mean() < 3


def test_exif_orientation_is_not_applied(picture, encode):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    assert images.decode(encode(picture, "JPEG", exif=exif)).size == picture.size


@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_broken_bytes_are_broken_images(data):
    import io

    stream = io.BytesIO()
    Image.fromarray(np.arange(3000, dtype=np.uint8).reshape(20, 50, 3)).save(stream, "JPEG")
    whole = stream.getvalue()
    cut = data.draw(st.integers(0, len(whole) - 200))
    for broken in (whole[:cut], data.draw(st.binary(max_size=64))):
        with pytest.raises(images.BrokenImage):
            images.decode(broken)


@pytest.mark.parametrize("size", [(24, 24), (24, 40), (40, 24)])
@pytest.mark.parametrize("height, width", [(61, 83), (83, 61), (60, 60), (31, 200)])
def test_eval_crop_covers_and_centres(size, height, width):
    ramp = np.zeros((height, width, 3), np.uint8)
    ramp[..., 0] = np.linspace(20, 220, height)[:, None]
    ramp[..., 1] = np.linspace(20, 220, width)[None]
    out = images.EvalTransform(size, "bilinear", crop=0.8)(Image.fromarray(ramp))
    assert out.shape == (*size, 3) and out.dtype == np.uint8
    np.testing.assert_allclose(out[..., :2].mean((0, 1)), 120, atol=4)  # symmetric about the centre
    scale = max(int(s / 0.8) / side for s, side in zip(size, (height, width), strict=True))
    for axis, side in enumerate((height, width)):
        kept = np.ptp(out[..., axis].astype(float)) / 200
        assert kept == pytest.approx(size[axis] / (side * scale), abs=0.08)


def test_squash_keeps_the_whole_picture(picture):
    out = images.EvalTransform((32, 48), squash=True)(picture)
    np.testing.assert_array_equal(out, np.asarray(picture.resize((48, 32), Image.Resampling.BICUBIC)))


def _boxes(height, width, area, ratio, count, seed=0):
    rng = np.random.default_rng(seed)
    return np.array([images.random_crop_box(height, width, area, ratio, rng) for _ in range(count)])


@settings(deadline=None)
@given(height=st.integers(1, 60), width=st.integers(1, 60), low=st.floats(0.01, 1), seed=st.integers(0, 9))
def test_random_crop_boxes_lie_inside(height, width, low, seed):
    top, left, h, w = _boxes(height, width, (low, 1.0), (3 / 4, 4 / 3), 5, seed).T
    assert (h > 0).all() and (w > 0).all() and (top >= 0).all() and (left >= 0).all()
    assert (top + h <= height).all() and (left + w <= width).all()


def test_random_crop_box_follows_its_distribution():
    """Where every box fits, the area is uniform, log ratio uniform, and the position uniform given the size."""
    from scipy import stats

    top, left, h, w = _boxes(3000, 3000, (0.1, 0.5), (0.5, 2.0), 4000).T
    uniforms = {
        "area": (h * w / 3000**2 - 0.1) / 0.4,
        "ratio": (np.log(w / h) + np.log(2)) / (2 * np.log(2)),
        "top": top / (3000 - h),
        "left": left / (3000 - w),
    }
    for name, values in uniforms.items():
        assert stats.kstest(values, "uniform").pvalue > 1e-3, name
    assert abs(np.corrcoef(list(uniforms.values())) - np.eye(4)).max() < 0.06


@pytest.mark.parametrize(
    "height, width, expected", [(10, 100, (0, 43, 10, 13)), (100, 10, (43, 0, 13, 10)), (30, 30, (0, 0, 30, 30))]
)
def test_random_crop_falls_back_to_the_centre(height, width, expected):
    area = (1.0, 1.0) if height != width else (1.5, 1.5)  # nothing fits
    np.testing.assert_array_equal(_boxes(height, width, area, (3 / 4, 4 / 3), 3), [expected] * 3)


@pytest.mark.parametrize("size", [0, -3, (3,), (3, 4, 5), (8, 0), (8, 2.5)])
def test_bad_image_sizes(size):
    c = base_config()
    c.data.image_size = size
    with pytest.raises(ConfigError, match=r"data\.image_size"):
        images.image_size(c.data)


@pytest.mark.parametrize("crop", [0.0, 1.5, -1.0])
def test_bad_eval_crop(crop):
    c = base_config()
    c.data.eval_crop = crop
    with pytest.raises(ConfigError, match=r"data\.eval_crop"):
        images.eval_transform(c.data)


def test_clipped_crops_are_the_first_box_cut_to_fit():
    """On a wide picture nearly every box is too high: its height is cut, its width and its place stay random."""
    area, ratio = (0.5, 1.0), (3 / 4, 4 / 3)
    rng = np.random.default_rng(0)
    boxes = np.array([images.random_crop_box(20, 100, area, ratio, rng, clip=True) for _ in range(2000)])
    top, left, h, w = boxes.T
    assert (h == 20).all() and (top == 0).all()  # the least height is sqrt(1000 * 3 / 4) = 27
    drawn = np.sqrt(rng.uniform(*area, 2000) * 2000 * np.exp(rng.uniform(np.log(ratio[0]), np.log(ratio[1]), 2000)))
    np.testing.assert_allclose(np.percentile(w, (5, 50, 95)), np.percentile(drawn, (5, 50, 95)), rtol=0.05)
    assert (left + w <= 100).all() and left.std() > 10
