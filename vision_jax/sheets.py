"""Sheets of pictures with what a model sees in them, as PNGs."""

import functools
import pathlib
import unicodedata
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from vision_jax.errors import ConfigError
from vision_jax.files import printable

COLUMNS, ROWS = 4, 5  # per sheet
SIDE, LINE, GAP = 220, 22, 16  # pixels: a picture's side, a line of text below it, the gap between cells
LINES = 5  # of answers
TEXT, FAINT, BAR, GROUND = "#1a1a1a", "#6b6b6b", "#bcdcf2", "#f1f1f1"


class Sheets:
    """FOLDER/sheet_1.png etc., each with up to `ROWS` rows of `COLUMNS` pictures. Raises ConfigError if it cannot write."""

    def __init__(self, folder: pathlib.Path):
        self._folder, self._cells, self._written = folder, [], []
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"--out: cannot make the folder {folder}: {error.strerror}") from error

    def add(self, picture: Image.Image, title: str, answers: Sequence[tuple[str, float]], are_numbers: bool) -> None:
        """Adds a picture with (name, value) pairs seen in it: shares of 1, or any numbers if `are_numbers`."""
        self._cells.append(_cell(picture, title, answers[:LINES], are_numbers))
        if len(self._cells) == COLUMNS * ROWS:
            self._write()

    def close(self) -> list[tuple[pathlib.Path, int]]:
        """Writes what is left; returns the files and the number of pictures in each."""
        if self._cells:
            self._write()
        return self._written

    def _write(self) -> None:
        path, cells = self._folder / f"sheet_{len(self._written) + 1}.png", self._cells
        width, height = max(cell.width for cell in cells), max(cell.height for cell in cells)
        columns = min(len(cells), COLUMNS)
        rows = -(-len(cells) // columns)
        sheet = Image.new("RGB", (columns * (width + GAP) + GAP, rows * (height + GAP) + GAP), "white")
        for number, cell in enumerate(cells):
            row, column = divmod(number, columns)
            sheet.paste(cell, (GAP + column * (width + GAP), GAP + row * (height + GAP)))
        try:
            sheet.save(path)
        except OSError as error:
            raise ConfigError(f"--out: cannot write {path}: {error.strerror}") from error
        self._written.append((path, len(cells)))
        self._cells = []


def _cell(picture: Image.Image, title: str, answers: Sequence[tuple[str, float]], are_numbers: bool) -> Image.Image:
    cell = Image.new("RGB", (SIDE, SIDE + LINE * (1 + len(answers)) + 4), "white")
    draw, font = ImageDraw.Draw(cell), _font()
    draw.rectangle((0, 0, SIDE - 1, SIDE - 1), fill=GROUND)
    scale = SIDE / max(picture.size)
    size = [max(round(side * scale), 1) for side in picture.size]
    resampling = Image.Resampling.NEAREST if scale > 2 else Image.Resampling.LANCZOS
    cell.paste(picture.resize(size, resampling), ((SIDE - size[0]) // 2, (SIDE - size[1]) // 2))
    draw.text((0, SIDE + 4), _fitting(title, font, SIDE), FAINT, font)
    for number, (name, value) in enumerate(answers, 1):
        top = SIDE + 4 + number * LINE
        if not are_numbers:
            draw.rectangle((0, top - 1, round((SIDE - 1) * min(max(value, 0), 1)), top + LINE - 5), fill=BAR)
        figure = f"{value:.4g}" if are_numbers else f"{value:.1%}"
        figure_width = font.getlength(figure)
        draw.text((4, top), _fitting(name, font, SIDE - figure_width - 16), TEXT, font)
        draw.text((SIDE - 4 - figure_width, top), figure, TEXT, font)
    return cell


@functools.cache
def _font():
    try:
        return ImageFont.truetype("DejaVuSans.ttf", 13)
    except OSError:  # if it is not installed: Pillow's own font, which only has ASCII
        return ImageFont.load_default(14)


def _fitting(text: str, font, width: float) -> str:
    """The text without accents, with "?" for what the font lacks; its middle cut out if wider than `width` pixels."""
    text = printable(text, 100)
    if font.getname()[0] != "DejaVu Sans":
        plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
        text = plain.encode("ascii", "replace").decode()
    short, kept = text, len(text)
    while kept > 2 and font.getlength(short) > width:
        kept -= 1
        short = f"{text[: kept - kept // 3]}...{text[-(kept // 3) :]}"
    return short
