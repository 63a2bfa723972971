"""Looks at a folder of DICOM files or pictures, and writes what a data set of it needs: table, terms and recipe.

What can be known is filled in: of DICOM files from their tags, of pictures from their names. The rest are empty columns
for a person to complete; an empty column does no harm, it only means fewer kinds of questions.
"""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medmim import hints, store
from medmim.data.build import questions
from medmim.data.sources import dicom_tags, nifti, roots, studies
from medmim.data.sources.fragments import FRAME, Fragment, format_path
from medmim.data.sources.source import BadImage, Entry, Source
from medmim.errors import UserError, wrap_os_errors
from medmim.progress import bar
from medmim.recipe.schema import Data
from medmim.recipe.sources import Studies
from medmim.terms import FLAGS, Terms

TABLE, TERMS = "studies.csv", "terms.json"
_NO_IMAGE, _NO_VOLUME = "DICOM without an image", "NIfTI that cannot be read"
# First folders that name no patient.
_GENERAL = (
    "image", "images", "img", "imgs", "picture", "pictures", "png", "jpg", "jpeg", "dicom", "dcm", "nifti", "nii",
    "data", "files", "raw", "train", "test", "val",
)  # fmt: skip
_PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp")
_VOLUMES, _PLANE = (".nii", ".nii.gz"), "axial"
_WORDS = {  # part of a file's name -> column and value
    "left": ("laterality", "left"), "right": ("laterality", "right"), "l": ("laterality", "left"),
    "r": ("laterality", "right"), "cc": ("view", "CC"), "mlo": ("view", "MLO"), "pa": ("view", "PA"),
    "ap": ("view", "AP"), "lateral": ("view", "lateral"), "t1": ("sequence", "T1"), "t2": ("sequence", "T2"),
    "flair": ("sequence", "FLAIR"), "ct1": ("sequence", "CT1"),
}  # fmt: skip
_COLUMNS = ("patient", "path", "date", "exam", "modality", "view", "laterality", "finding", "size", "side", "rating",
            "caption", "age", "sequence", "held_out")  # fmt: skip


@dataclass(frozen=True)
class Begun:
    """What `begin` found and wrote.

    Attributes:
        images: Images in the table.
        patients: Patients, as far as they can be told apart.
        guessed: Images whose patient is only the name of a folder or file.
        passed_over: Files that are no images, by ending.
        families: Question family -> questions that the table gives as it is.
        further: Question family -> the columns that it lacks.
        written: The files.
    """

    images: int
    patients: int
    guessed: int
    passed_over: Mapping[str, int]
    families: Mapping[str, int]
    further: Mapping[str, tuple[str, ...]]
    written: tuple[Path, ...]


def begin(folder: Path, recipe: Path, name: str) -> Begun:
    """Write `studies.csv` and `terms.json` into a folder of images, and a recipe that reads it.

    Args:
        folder: DICOM files or pictures, at any depth.
        recipe: The recipe to write.
        name: Of the recipe and of the data set: letters, digits and dashes.

    Raises:
        UserError: No folder, no images in it, or one of the three files is there already; nothing is written then.
    """
    root = roots.opened(Entry(Studies(name="studies", root=str(folder))))
    written = (folder / TABLE, folder / TERMS, recipe)
    there = [str(path) for path in written if path.exists()]
    if there:
        raise UserError(
            f"{', '.join(there)} {'is' if len(there) == 1 else 'are'} there already",
            reason="nothing that somebody may have completed is overwritten",
            fix="move it away to begin anew, or go on with it",
        )
    rows, guessed, passed_over = _look(root, folder)
    if not rows:
        raise UserError(
            f"there are no images in {folder}",
            reason=f"looked for DICOM, {', '.join(_PICTURES)} and NIfTI ({', '.join(_VOLUMES)}) at any depth",
            fix="give the folder that holds them, unpacked",
        )
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, _COLUMNS, restval="", lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    with wrap_os_errors("writing the table, the terms and the recipe"):
        place = store.open_store(str(folder))
        place.write(TABLE, text.getvalue().encode())
        place.write(TERMS, _terms(name).encode())
        store.open_store(str(recipe.parent)).write(recipe.name, _recipe(folder, name).encode())
    own = Studies(name="studies", root=str(folder), source=name, terms=TERMS)
    source = studies.load(Entry(own))
    families = _possible(source, folder)
    return Begun(
        images=len(rows),
        patients=len({row["patient"] for row in rows}),
        guessed=guessed,
        passed_over=passed_over,
        families=families,
        further=_further(source, rows),
        written=written,
    )


def _look(root: roots.Root, folder: Path) -> tuple[list[dict[str, str]], int, dict[str, int]]:
    """A row for each image, of how many the patient is guessed, and the number of other files by their ending."""
    rows: list[dict[str, str]] = []
    other: Counter[str] = Counter()
    guessed = 0
    paths = [path for path in root.names() if not any(part.startswith(".") for part in path.split("/"))]
    with bar("looking at files", len(paths), "files") as progress:
        for path in paths:
            progress.add()
            ending = "".join(Path(path).suffixes[-2:]).lower()
            ending = ending if ending == ".nii.gz" else Path(path).suffix.lower()
            row = {"patient": _patient(path), "path": path} | _named(path)
            if dicom_tags.is_dicom(folder / path):
                tags = _tags(root, path)
                if tags is None:
                    other[_NO_IMAGE] += 1
                    continue
                row |= tags
                guessed += "patient" not in tags
            elif ending in (*_PICTURES, *_VOLUMES):
                named = _middle(root, path) if ending in _VOLUMES else path
                if named is None:
                    other[_NO_VOLUME] += 1
                    continue
                guessed += 1
                row |= {"path": named} | ({"view": _PLANE} if ending in _VOLUMES else {})
            else:
                other[ending or "no ending"] += 1
                continue
            rows.append(row)
    return rows, guessed, dict(other)


def _tags(root: roots.Root, path: str) -> dict[str, str] | None:
    """The tags of a DICOM file, of several frames with the path of the middle one; None where it has no image."""
    try:
        data = dicom_tags.head(root, path)
        frames = dicom_tags.frames(data)
        several = {"path": format_path(path, Fragment(FRAME, frames // 2))} if frames > 1 else {}
        return dicom_tags.read(data) | several if frames else None
    except (BadImage, FileNotFoundError):
        return None


def _middle(root: roots.Root, path: str) -> str | None:
    """The path of a volume's middle axial slice; None where it cannot be read."""
    try:
        return format_path(path, Fragment(_PLANE, nifti.read(root.read(path)).voxels.shape[2] // 2))
    except (BadImage, FileNotFoundError):
        return None


def _patient(path: str) -> str:
    """The first folder of a path, or the start of its file's name."""
    first, *rest = path.split("/")
    while rest and first.lower() in _GENERAL:
        first, *rest = rest
    return first if rest else re.split(r"[_\s.-]", Path(first).stem, maxsplit=1)[0]


def _named(path: str) -> dict[str, str]:
    """What the words of a file's name say."""
    words = re.split(r"[_\s.-]+", Path(path).name.lower())
    return dict(_WORDS[word] for word in words if word in _WORDS)


def _possible(source: Source, folder: Path) -> dict[str, int]:
    data = Data(source="studies", root=str(folder), dev_fraction=0.05, test_fraction=0.15)
    counts: dict[str, int] = {}
    for sample in questions(source.studies or [], source.families, data):
        key = f"{sample.ability}: {sample.family}"
        counts[key] = counts.get(key, 0) + 1
    return dict(sorted(counts.items()))


def _further(source: Source, rows: Sequence[Mapping[str, str]]) -> dict[str, tuple[str, ...]]:
    """Families that are not asked, with the columns that they lack."""
    filled = {name for row in rows for name, cell in row.items() if cell}
    return {
        name: tuple(column for column in columns if column not in filled) or columns
        for name, columns in studies.FAMILIES.items()
        if name not in source.families
    }


def _terms(name: str) -> str:
    plain = Terms(text=(f"{name}: write here who allows what, and where that is written",)).as_dict()
    return json.dumps({flag: plain[flag] for flag in (*FLAGS, "text")}, indent=1) + "\n"


def _recipe(folder: Path, name: str) -> str:
    return f"""# {name}: our own studies, from the table {TABLE} in their folder.
# Complete the table (docs/data.md says what each column means), then look what it gives, and run it:
#   {hints.command("data", "plan", "THIS_FILE")}
#   {hints.command("run", "THIS_FILE")}
name: {name}
data:
  sources:
    - name: studies
      root: {json.dumps(str(folder.absolute()), ensure_ascii=False)}
      table: {TABLE}
      source: {name}
      terms: {TERMS} # until you write it, nobody may use the model beyond looking at its report
      columns: {{}} # where your table calls a column otherwise: {{patient: PatNr, date: Aufnahmedatum}}
  test_fraction: 0.2 # of the patients; under 20 in the benchmark, no interval is printed and no gate passes
  max_bad_fraction: 0.02 # more unusable rows than this are an error
finetune:
  base: tiny-mantis # a shipped toy, to see that all works; then imported:mantis (docs/bases.md)
  epochs: 2
  batch_size: 16
  optimizer: muon
  lr: 4e-4
  schedule: linear
  freeze_vision: false
register:
  model: {name}
"""
