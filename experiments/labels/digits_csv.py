"""scikit-learn's digits as PNG files with a table for each split, for tasks that learn several labels or numbers.

    python experiments/labels/digits_csv.py FOLDER        # FOLDER/{train,test}.csv, FOLDER/{train,test}/0000.png, ...

The split is that of the sources "digits:train" and "digits:test". Columns:

    file     the picture, grey, 8 x 8 pixels
    labels   the digit, and "even" or "odd": "3|odd"
    ink      mean grey level, 0 (none) to 1
    holes    how many the printed digit has: two of 8, one of 0, 6 and 9
"""

import argparse
import csv
import pathlib

from PIL import Image

from vision_jax.data import open_source

HOLES = {0: 1, 6: 1, 8: 2, 9: 1}


def write(folder: pathlib.Path) -> None:
    """Writes both splits."""
    for split in ("train", "test"):
        source = open_source(f"digits:{split}")
        (folder / split).mkdir(parents=True, exist_ok=True)
        with open(folder / f"{split}.csv", "w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(["file", "labels", "ink", "holes"])
            for number, example in enumerate(source):
                grey, digit, name = example["image"][..., 0], example["label"], f"{split}/{number:04}.png"
                Image.fromarray(grey).save(folder / name)
                labels = f"{digit}|{'odd' if digit % 2 else 'even'}"
                table.writerow([name, labels, f"{grey.mean() / 255:.6f}", HOLES.get(digit, 0)])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    write(parser.parse_args().folder)
