"""Raw folders of real data sets as tests type them: tables by hand, and small images of noise."""

import csv
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from medmim.data import reading
from medmim.data.sources.source import Entry
from medmim.recipe.schema import Data


def entry(name: str, root: Path | str, **options: Any) -> Entry[Any]:
    """The section of a source, as a recipe gives it."""
    return reading.of(Data(sources=({"name": name, "root": str(root), **options},))).parts[0][2]  # type: ignore[arg-type]


def write_image(path: Path, form: str = "JPEG", side: int = 24) -> Path:
    """An image whose pixels depend on the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = hashlib.sha256(str(path.name).encode()).digest()
    Image.frombytes("L", (side, side), (seed * (side * side // len(seed) + 1))[: side * side]).save(path, form)
    return path


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> Path:
    """A table whose rows name the cells that are not blank."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, header, restval="")
        table.writeheader()
        table.writerows(rows)
    return path
