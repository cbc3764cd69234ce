"""Draws pictures side by side with labels, using only Pillow."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIDE = 160  # least pixels of a picture's shorter side
GAP = 8  # pixels around every picture and word
TEXT = 18  # height of letters in pixels


def picture_grid(
    pictures: np.ndarray, titles: Sequence[str], notes: Sequence[str], landscape: bool = False
) -> np.ndarray:
    """uint8[H, W, 3]: n rows of k pictures from uint8[n, k, h, w, 3], enlarged by whole pixels to at least `SIDE`.

    titles: k, above the columns. notes: n, one at the end of each row. landscape: n columns instead, with the titles
    beside the rows and the notes below the columns.
    """
    if landscape:
        return _drawn(enlarged(pictures).swapaxes(0, 1), left=titles, bottom=notes)
    return _drawn(enlarged(pictures), top=titles, right=notes)


def enlarged(pictures: np.ndarray) -> np.ndarray:
    """uint8[..., h, w, 3] with every pixel repeated until the shorter side is at least `SIDE`."""
    scale = max(1, -(-SIDE // min(pictures.shape[-3:-1])))
    return pictures.repeat(scale, axis=-3).repeat(scale, axis=-2)


def _drawn(
    cells: np.ndarray,
    top: Sequence[str] = (),
    bottom: Sequence[str] = (),
    left: Sequence[str] = (),
    right: Sequence[str] = (),
) -> np.ndarray:
    """Cells uint8[rows, columns, h, w, 3] on white, with the given words at the ends of rows and columns."""
    font = ImageFont.load_default(TEXT)
    width = [max((int(font.getlength(word)) + GAP for word in words), default=0) for words in (left, right)]
    height = [TEXT + GAP if words else 0 for words in (top, bottom)]
    rows, columns, h, w, _ = cells.shape
    x0, y0 = GAP + width[0], GAP + height[0]
    x1, y1 = x0 + columns * (w + GAP), y0 + rows * (h + GAP)
    sheet = Image.new("RGB", (x1 + width[1], y1 + height[1]), "white")
    draw = ImageDraw.Draw(sheet)

    def write(x: float, y: float, word: str, anchor: str) -> None:
        draw.text((x, y), word, "black", font, anchor)

    for row, column in np.ndindex(rows, columns):
        sheet.paste(Image.fromarray(cells[row, column]), (x0 + column * (w + GAP), y0 + row * (h + GAP)))
    for y, words in ((GAP + TEXT / 2, top), (y1 + TEXT / 2, bottom)):
        for column, word in enumerate(words):
            write(x0 + column * (w + GAP) + w / 2, y, word, "mm")
    for x, words, anchor in ((x0 - GAP, left, "rm"), (x1, right, "lm")):
        for row, word in enumerate(words):
            write(x, y0 + row * (h + GAP) + h / 2, word, anchor)
    return np.asarray(sheet)
