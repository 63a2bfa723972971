"""What perceptual hashes find, and what they confuse, on real pictures: the measurement behind the audit's distance.

    python benchmarks/look_alikes.py FOLDER [--side 1024]

FOLDER holds metadata.csv and images/ in the layout of covid-chestxray. For each hash: the smallest distances between
pictures of different patients, which must not be found; and which share of changed copies is found at each distance.
The audit's own hash comes first; the others are ImageHash's, too.
"""

import argparse
import csv
import io
import time
from collections.abc import Callable
from pathlib import Path

import imagehash
import numpy as np
from PIL import Image, ImageEnhance
from rich.console import Console
from rich.table import Table

from medmim.data.audit import fingerprints
from medmim.recipe.schema import Audit

Picture = Image.Image


def saved(picture: Picture, kind: str, **options: int) -> Picture:
    """A picture as another program that opens its file sees it."""
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return Image.open(out)


def cropped(picture: Picture, share: float) -> Picture:
    """Without that share of its width and height, half on each side."""
    width, height = (round(side * share / 2) for side in picture.size)
    return picture.crop((width, height, picture.width - width, picture.height - height))


CHANGES: dict[str, Callable[[Picture], Picture]] = {
    "PNG, optimised": lambda one: saved(one, "PNG", optimize=1),
    "JPEG, quality 95": lambda one: saved(one, "JPEG", quality=95),
    "JPEG, quality 50": lambda one: saved(one, "JPEG", quality=50),
    "half the size": lambda one: one.resize((one.width // 2, one.height // 2), Image.Resampling.LANCZOS),
    "224 x 224": lambda one: one.resize((224, 224), Image.Resampling.BICUBIC),
    "brightness x 1.2": lambda one: ImageEnhance.Brightness(one).enhance(1.2),
    "contrast x 1.3": lambda one: ImageEnhance.Contrast(one).enhance(1.3),
    "cropped by 2%": lambda one: cropped(one, 0.02),
    "cropped by 5%": lambda one: cropped(one, 0.05),
    "mirrored": lambda one: one.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
}
HASHES: dict[str, Callable[[Picture], np.ndarray]] = {
    "the audit's (phash 16)": lambda one: np.unpackbits(np.frombuffer(fingerprints.fingerprint(one)[1], np.uint8)),
    "phash 8": lambda one: imagehash.phash(one).hash.ravel(),
    "dhash 16": lambda one: imagehash.dhash(one, 16).hash.ravel(),
}
AT = (8, 16, Audit().look_alike_distance, 32, 48)


def pictures(folder: Path, side: int) -> list[tuple[str, Picture]]:
    """Patient and picture of each row, reduced as a data set stores it."""
    found = []
    with (folder / "metadata.csv").open(encoding="utf-8", errors="replace", newline="") as file:
        for row in csv.DictReader(file):
            path = folder / "images" / row["filename"]
            if path.exists():
                one = Image.open(path).convert("RGB")
                one.thumbnail((side, side), Image.Resampling.LANCZOS)
                found.append((row["Patientid"], one))
    return found


def main() -> None:
    """Print a table a hash."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--side", type=int, default=1024)
    given = parser.parse_args()
    shown = pictures(given.folder, given.side)
    patients = np.array([patient for patient, _ in shown])
    strangers = np.triu(patients[:, None] != patients[None], 1)
    console = Console()
    console.print(f"{len(shown)} pictures of {len(set(patients))} patients, {strangers.sum():,} pairs of strangers")
    for name, hashed in HASHES.items():
        begin = time.process_time()
        own = np.array([hashed(one) for _, one in shown])
        each = (time.process_time() - begin) / len(shown)
        apart = (own[:, None] != own[None]).sum(axis=-1)[strangers]
        table = Table(
            f"{name}, {own.shape[1]} bits, {1000 * each:.0f} ms", "median", "largest", *(f"<= {at}" for at in AT)
        )
        nearest = np.sort(apart)
        shares = (f"{np.mean(apart <= at):.2%}" for at in AT)
        table.add_row(
            "strangers (nearest: " + ", ".join(map(str, nearest[:3])) + ")", f"{np.median(apart):.0f}", "", *shares
        )
        for change, changed in CHANGES.items():
            bits = np.array(
                [(hashed(changed(one)) != before).sum() for (_, one), before in zip(shown, own, strict=True)]
            )
            shares = (f"{np.mean(bits <= at):.0%}" for at in AT)
            table.add_row(change, f"{np.median(bits):.0f}", str(bits.max()), *shares)
        console.print(table)


if __name__ == "__main__":
    main()
