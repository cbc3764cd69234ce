"""Pictures with labels, numbers or captions from a table."""

import array
import csv
import io
import os
import zlib

from vision_jax import limits
from vision_jax.data.decoding import read_picture
from vision_jax.errors import ConfigError
from vision_jax.files import printable, read_regular

FILE = ("file", "image", "path", "filename")  # possible names of the column of pictures


class Csv:
    """The rows of a CSV file whose first line names the columns: file, label or labels, caption, and any numbers.

    "file" (or "image", "path", "filename") is a picture, relative to the CSV file's folder. "label" is a class, "labels"
    is any number of classes, separated by "|"; classes are sorted by name. "caption" is a text, which may be empty. All
    other columns are numbers: the example's `targets`. Text is UTF-8.

    Raises:
        ConfigError: the file cannot be read, or a line is wrong; the message says which and why.
    """

    def __init__(self, path: str):
        self._path = os.path.expanduser(path)
        self._folder = os.path.dirname(os.path.abspath(self._path))
        content = self._read()
        self._checksum = f"{zlib.crc32(content):08x}"
        text = io.TextIOWrapper(io.BytesIO(content), "utf-8-sig", newline="")
        table = csv.reader(text, strict=True, skipinitialspace=True)
        try:
            self._keep(table)
        except csv.Error as error:
            raise self._wrong(table.line_num, error) from None

    def _read(self) -> bytes:
        try:
            content = read_regular(self._path, limits.TABLE_BYTES)
            content.decode()
        except OSError as error:
            raise ConfigError(f"data source 'csv:{printable(self._path)}': {error.strerror or error}") from None
        except UnicodeDecodeError as error:
            raise self._wrong(content.count(b"\n", 0, error.start) + 1, "it is no UTF-8 text") from None
        return content

    def _keep(self, table) -> None:
        columns = next(table, [])
        file = next((name for name in FILE if name in columns), None)
        if file is None or "" in columns or len(set(columns)) < len(columns):
            raise self._wrong(1, f"expected distinct names of columns, 'file' among them; got {', '.join(columns)!r}")
        if "label" in columns and "labels" in columns:
            raise self._wrong(1, "either 'label' or 'labels' can be a column, and both are")
        self._has_label, self._has_labels = "label" in columns, "labels" in columns
        self.target_names = tuple(name for name in columns if name not in (file, "label", "labels", "caption"))
        self._files, self._captions, self._targets = [], [], array.array("f")
        shown, known = [], {}  # each row's class names; equal ones are stored once
        for row in filter(None, table):  # skips blank lines
            if len(row) != len(columns):
                raise self._wrong(table.line_num, f"expected {len(columns)} values, got {len(row)}")
            if len(shown) == limits.TABLE_ROWS:
                raise self._wrong(table.line_num, f"there are more than the {limits.TABLE_ROWS:,} rows that are read")
            cells = dict(zip(columns, row, strict=True))
            self._files.append(cells[file])
            self._targets.extend(self._number(cells, name, table.line_num) for name in self.target_names)
            if "caption" in cells:
                self._captions.append(cells["caption"])
            names = tuple(self._classes(cells, table.line_num))
            shown.append(known.setdefault(names, names))
        if not shown:
            raise self._wrong(1, "there are no rows below it")
        self.class_names = tuple(sorted({name for names in known for name in names}))
        if self._has_labels and not self.class_names:
            raise self._wrong(1, "no row has any labels")
        self.num_classes = len(self.class_names)
        numbers = {name: number for number, name in enumerate(self.class_names)}
        numbered = {names: tuple(numbers[name] for name in names) for names in known}
        self._shown = [numbered[names] for names in shown]

    def _number(self, cells: dict[str, str], name: str, line: int) -> float:
        try:
            if abs(number := float(cells[name])) <= limits.FLOAT:  # excludes NaN and what 32 bits cannot hold
                return number
        except ValueError:
            pass
        raise self._wrong(
            line, f"column '{name}' must be a number, as all but file, label(s) and caption; got {cells[name]!r}"
        )

    def _classes(self, cells: dict[str, str], line: int) -> list[str]:
        if not self._has_label:
            return list(dict.fromkeys(name.strip() for name in cells.get("labels", "").split("|") if name.strip()))
        if not cells["label"].strip():
            raise self._wrong(line, "the label is empty")
        return [cells["label"].strip()]

    def _wrong(self, line: int, what) -> ConfigError:
        return ConfigError(f"data source 'csv:{printable(self._path)}', line {line}: {printable(what, 300)}")

    @property
    def labels(self) -> list[int]:
        return [number for (number,) in self._shown] if self._has_label else []

    def fingerprint(self) -> dict[str, str]:
        return {os.path.basename(self._path): f"{len(self)} rows ({self._checksum})"}

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> dict:
        path, count = os.path.join(self._folder, self._files[index]), len(self.target_names)
        example = {"image": read_picture(path), "name": path}
        if self._has_label:
            example["label"] = self._shown[index][0]
        if self._has_label or self._has_labels:
            example["labels"] = self._shown[index]
        if count:
            example["targets"] = tuple(self._targets[index * count : (index + 1) * count])
        if self._captions and self._captions[index]:
            example["captions"] = (self._captions[index],)
        return example
