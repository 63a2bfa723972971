"""MedFrameQA: multiple-choice questions on two to five frames of a teaching video; a benchmark.

    ROOT/data/test-00000-of-00003.parquet      any name below ROOT that begins with `test` and ends in .parquet

An image is in the table, as the struct of bytes and path that the Hugging Face hub stores; or the table holds a path
below ROOT or ROOT/images. The frames of one question are read together for one conclusion, as the views of an exam are,
so the ability is `reasoning`: nothing in the table says which question compares and which asks for an order. The
questions are ready, and the video takes the place of the patient.

The path of an image inside a table is FILE/ROW/COLUMN, with rows from 0: `data/test-0.parquet/17/image_2`.
"""

import bisect
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import accumulate
from pathlib import Path
from typing import Any

from medmim import sniff, terms
from medmim.data.sources import cells, roots
from medmim.data.sources.files import MAX_BYTES, escapes, one_line
from medmim.data.sources.names import nfc
from medmim.data.sources.roots import Root
from medmim.data.sources.source import BadImage, Entry, Source
from medmim.data.sources.table import MAX_CELL
from medmim.errors import UserError
from medmim.recipe.sources import MedFrameQa
from medmim.sample import IMAGE, LETTERS, BadRow, Sample

TERMS = terms.unrestricted("MedFrameQA: CC BY 4.0, name the authors (arXiv 2505.16964)")

SOURCE = "medframeqa"
FAMILY = "frames"
_TEXTS = ("question_id", "video_id", "question", "correct_answer")
_IMAGES = tuple(f"image_{number}" for number in range(1, 6))
_NEEDED = (*_TEXTS, "options", *_IMAGES[:2])
_MODALITY = "modality"
_INSIDE = re.compile(r"(?P<file>.+\.parquet)/(?P<row>0|[1-9]\d{0,8})/(?P<column>image_[1-5])", re.ASCII)
_PARQUET = "a Parquet or Arrow file"
_WANTED = "a Parquet file"
_GROUP = 1 << 30  # bytes of a group of rows; the hub writes groups of a hundred rows
_HELD = len(_IMAGES)  # columns of a group that are in memory
_SPLIT = "test"
_ONE_FRAME = "a question on one frame"


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a group of rows of a file starts, and its number."""

    group: int
    start: int
    rows: int


def inputs(entry: Entry[MedFrameQa]) -> dict[str, str]:
    """The digests of the files, which hold most images, and one over the images that they name."""
    root = roots.opened(entry)
    files, _ = _files(root)
    samples, _, _ = _read(root, files)
    images = (path for sample in samples for path in sample.paths if not _INSIDE.fullmatch(path))
    return roots.digest(root, files, images)


def load(entry: Entry[MedFrameQa]) -> Source:
    """Read the questions of the test split; those that cannot be used are quarantined.

    Raises:
        UserError: No folder, no file of the test split, or one that is something else, broken, or lacks columns.
    """
    root = roots.opened(entry)
    files, others = _files(root)
    samples, bad, counts = _read(root, files)
    outside = dict.fromkeys(path for sample in samples for path in sample.paths if not _INSIDE.fullmatch(path))
    missing = [path for path in outside if not root.has(path)]
    modalities = {key.partition("/")[2]: n for key, n in sorted(counts.items()) if key.startswith(f"{_MODALITY}/")}
    skipped = {_ONE_FRAME: counts[_ONE_FRAME]} if counts[_ONE_FRAME] else {}
    return Source(
        partial(_image, root),
        samples=samples,
        bad=bad,
        missing=missing,
        facts={
            "rows": counts["rows"],
            "videos": len({sample.patients for sample in samples}),
            "by_images": {str(n): many for n, many in sorted(Counter(len(s.paths) for s in samples).items())},
            "by_modality": modalities,
            "missing_images": len(missing),
            "skipped": skipped | ({"a file of another split": len(others)} if others else {}),
        },
        identity=partial(_identity, root),
        fix_for=root.fix_for,
    )


def _files(root: Root) -> tuple[list[str], list[str]]:
    """The files of the test split, and those of other splits."""
    found = [name for name in root.names() if name.endswith(".parquet")]
    test = [name for name in found if name.rsplit("/", 1)[-1].startswith(_SPLIT)]
    if not test:
        there = ", ".join(found[:5]) or "no Parquet file at all"
        raise UserError(
            f"there is no {_SPLIT}*.parquet in {root}",
            reason=f"MedFrameQA has one split, {_SPLIT}, as files in Parquet; there is {there}",
            fix="copy the data set's repository with its files, or give the folder that holds them as root",
        )
    return test, [name for name in found if name not in test]


def _read(root: Root, files: list[str]) -> tuple[list[Sample], list[BadRow], Counter[str]]:
    samples: list[Sample] = []
    bad: list[BadRow] = []
    counts: Counter[str] = Counter()
    first: dict[str, str] = {}
    for name in files:
        for number, row in _rows(root.table(name)):
            counts["rows"] += 1
            images = [_path(root, name, number, column, row[column]) for column in _IMAGES if row.get(column)]
            if len(images) == 1:
                counts[_ONE_FRAME] += 1
                continue
            sample, problems = _sample(row, images)
            if sample is not None and (same := first.setdefault(sample.id, f"{name} row {number + 1}")) != (
                f"{name} row {number + 1}"
            ):
                problems, sample = [("question", f"the question of {same} again")], None
            bad += [BadRow(name, number + 1, key, reason) for key, reason in problems]
            if sample is not None:
                samples.append(sample)
                modality = row.get(_MODALITY)
                counts[f"{_MODALITY}/{modality if isinstance(modality, str) and len(modality) < 40 else 'other'}"] += 1
    return samples, bad, counts


def _path(root: Root, file: str, row: int, column: str, value: Any) -> str:
    """The path of an image: inside the file, or what the table names below the root."""
    if value == IMAGE:
        return f"{file}/{row}/{column}"
    named = nfc(str(value))
    return next((path for path in (named, f"images/{named}") if not escapes(path) and root.has(path)), named)


def _sample(row: dict[str, Any], images: list[str]) -> tuple[Sample | None, list[tuple[str, str]]]:
    texts, problems = {}, []
    for key in _TEXTS:
        value = row[key]
        texts[key] = " ".join(value.split()) if isinstance(value, str) else ""
        if not texts[key]:
            problems.append((key, "is empty" if value is None or isinstance(value, str) else "is no text"))
        elif len(texts[key]) > MAX_CELL:
            problems.append((key, f"has more than {MAX_CELL:,} characters"))
    if not images:
        problems.append((_IMAGES[0], "no image at all"))
    options, reason = _options(row["options"])
    if reason:
        problems.append(("options", reason))
    letter = texts["correct_answer"].rstrip(".):").upper()
    at = LETTERS.find(letter) if len(letter) == 1 else -1
    if texts["correct_answer"] and options and not 0 <= at < len(options):
        problems.append(("correct_answer", f"'{letter[:40]}' is none of A to {LETTERS[len(options) - 1]}"))
    try:
        video = cells.identifier(texts["video_id"]) if texts["video_id"] else ""
    except cells.BadCell as error:
        problems.append(("video_id", str(error)))
    if problems:
        return None, problems
    answer = options[at]
    same = tuple(i for i, option in enumerate(options) if option == answer and i != at)
    return Sample(
        ability="reasoning",
        family=FAMILY,
        source=SOURCE,
        split=_SPLIT,
        held_out=True,
        patients=(video,),
        images=tuple(images),
        paths=tuple(images),
        question=" ".join(re.sub(r"<image(_\d)?>", " ", texts["question"]).split()),
        options=options,
        answer=answer,
        gold=(at, *same),
    ), []


def _options(value: Any) -> tuple[tuple[str, ...], str]:
    """The options without letters of their own, or why they are none."""
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        return (), "is no list of texts"
    texts = [" ".join(text.split()) for text in value]
    if not 2 <= len(texts) <= len(LETTERS):
        return (), f"{len(texts)} options, not 2 to {len(LETTERS)}"
    lettered = [re.match(rf"\(?{letter}\s*[:.)]\s*", text) for letter, text in zip(LETTERS, texts, strict=False)]
    if all(lettered):
        texts = [text[found.end() :] for text, found in zip(texts, lettered, strict=True) if found]
    if not all(texts) or any(len(text) > MAX_CELL for text in texts):
        return (), f"an option is empty or has more than {MAX_CELL:,} characters"
    return tuple(texts), ""


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a file from 0. An image is IMAGE where its bytes are in the file, its path where that is, or None."""
    import pyarrow as pa

    file = _opened(path)
    names = set(file.schema_arrow.names)
    if lacking := [name for name in _NEEDED if name not in names]:
        raise UserError(
            f"{path.name} lacks columns: {', '.join(lacking)}",
            reason=f"it has {', '.join(sorted(names))[:300]}",
            fix="copy MedFrameQA's own file again",
        )
    _require_small_groups(path, file)
    plain = [name for name in (*_TEXTS, "options", _MODALITY) if name in names]
    number = 0
    try:
        for group in range(file.num_row_groups):
            columns = {name: file.read_row_group(group, [name]).column(name).to_pylist() for name in plain}
            for name in _IMAGES:
                if name in names:
                    columns[name] = _places(file.read_row_group(group, [name]).column(name))
            for row in zip(*columns.values(), strict=True):
                yield number, dict(zip(columns, row, strict=True))
                number += 1
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _broken(path, error) from None


def _places(column: Any) -> list[str | None]:
    """IMAGE, a path, or None for each row of a column of images; the bytes are not copied."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_struct(column.type):
        kinds = {column.type.field(i).name for i in range(column.type.num_fields)}
        held = pc.is_valid(pc.struct_field(column, "bytes")).to_pylist() if "bytes" in kinds else [False] * len(column)
        paths = pc.struct_field(column, "path").to_pylist() if "path" in kinds else [None] * len(column)
    elif pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
        held, paths = pc.is_valid(column).to_pylist(), [None] * len(column)
    else:
        held, paths = [False] * len(column), column.to_pylist()
    return [IMAGE if inside else path for inside, path in zip(held, paths, strict=True)]


def _image(root: Root, path: str) -> bytes:
    """The `Source.read`: of a table, only the column and the group of rows that hold the image are read."""
    import pyarrow as pa

    inside = _INSIDE.fullmatch(path)
    if inside is None:
        return root.read(path)
    table = root.table(inside["file"])
    row = int(inside["row"])
    places = _groups(str(table), table.stat().st_mtime_ns)
    at = bisect.bisect_right([place.start for place in places], row) - 1
    if at < 0 or row >= places[at].start + places[at].rows:
        raise FileNotFoundError(path)
    try:
        column = _column(str(table), table.stat().st_mtime_ns, places[at].group, inside["column"])
    except (pa.ArrowException, OSError) as error:
        raise BadImage(f"the table that holds the image is damaged ({one_line(error)})") from None
    value = column[row - places[at].start].as_py()
    data = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(data, bytes):
        raise FileNotFoundError(path)
    if not 0 < len(data) <= MAX_BYTES:
        raise BadImage(f"the image has {len(data):,} bytes, not 1 to {MAX_BYTES:,}")
    return data


def _identity(root: Root, path: str) -> str:
    """The `Source.identity`: that of the table, and the place in it."""
    inside = _INSIDE.fullmatch(path)
    found = root.identity(inside["file"] if inside else path)
    return f"{found} {path}" if found else ""


@lru_cache(maxsize=64)
def _groups(path: str, changed: int) -> tuple[_Place, ...]:
    """The groups of rows of a file; `changed` makes a file that has changed another one."""
    metadata = _opened(Path(path)).metadata
    sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    starts = accumulate(sizes, initial=0)
    return tuple(_Place(group, start, rows) for group, (start, rows) in enumerate(zip(starts, sizes, strict=False)))


@lru_cache(maxsize=_HELD)
def _column(path: str, changed: int, group: int, name: str) -> Any:
    """One column of one group of rows: the images of a question lie in as many columns, so these stay in memory."""
    return _opened(Path(path)).read_row_group(group, [name]).column(name)


def _opened(path: Path) -> Any:
    """A file in Parquet.

    Raises:
        UserError: It is something else, or broken.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    sniff.require_file(path, _WANTED)
    try:
        kind = sniff.kind_of(path)
        if kind is None or kind.name != _PARQUET:
            raise (kind or sniff.UNKNOWN).error(path, _WANTED)
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _broken(path, error) from None


def _broken(path: Path, error: Exception) -> UserError:
    return UserError(
        f"{path.name} is not a sound Parquet file", reason=one_line(error), fix="copy it again, completely"
    )


def _require_small_groups(path: Path, file: Any) -> None:
    for group in range(file.num_row_groups):
        # Not the sizes of its columns: pyarrow 25 ends the whole process where a damaged file lacks some of them.
        size = file.metadata.row_group(group).total_byte_size
        if size > _GROUP:
            code = (
                "import pyarrow.parquet as p, sys; "
                "p.write_table(p.read_table(sys.argv[1]), sys.argv[2], row_group_size=100)"
            )
            raise UserError(
                f"{path.name} has {size:,} bytes in one group of rows, more than {_GROUP:,}",
                reason="an image is read with its group",
                fix=f'`python3 -c "{code}" {path.name} NEW` writes smaller groups; put NEW in its place',
            )
