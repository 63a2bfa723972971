"""What the DICOM headers of a source's images say of persons, whichever source it is.

A source that reads the headers itself, since its table needs their tags, names these images in `Source.headers`; here
are all others whose file may be DICOM. So no source decides whether its headers are looked at.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from posixpath import splitext

from medmim.data.sources import dicom_tags
from medmim.data.sources.fragments import parse
from medmim.data.sources.source import BadImage, Source
from medmim.progress import bar
from medmim.sample import BadRow

NO_DICOM = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp", ".gif", ".nii", ".gz", ".npy")
_THREADS = 8  # that wait for the disk or for S3
_FEW = 100  # files, read within a second
_APART = "\n\n\n\n"  # between two texts: no name is found that begins in one and ends in another

Texts = Mapping[str, str]


def may_be_dicom(path: str) -> bool:
    """Whether the name of an image allows its file to be DICOM, which often has no ending."""
    return splitext(parse(path)[0])[1].lower() not in NO_DICOM


def looked_at(source: Source) -> Source:
    """The source with `headers` and `flagged` of all its images.

    Args:
        source: As its module has loaded it.

    Raises:
        UserError: A file is DICOM, and pydicom is not installed.
    """
    texts = _texts(source)
    if not texts:
        return source
    by_file: dict[str, list[str]] = defaultdict(list)
    for path in texts:
        by_file[parse(path)[0]].append(path)
    read = source.head or source.read

    def flags(file: str) -> list[tuple[str, list[tuple[str, str]]]]:
        """The images of a file, each with what is told of a person; none where it is no DICOM file."""
        try:
            data = read(file)
            if data[128:132] != b"DICM":
                return []
            return [(path, dicom_tags.identifying(data, texts[path])) for path in by_file[file]]
        except (FileNotFoundError, BadImage):  # the build says so when it reads the image
            return []

    headers, flagged = list(source.headers), list(source.flagged)
    with (
        bar("reading headers", len(by_file), "files") if len(by_file) > _FEW else nullcontext() as shown,
        ThreadPoolExecutor(_THREADS, "medmim-headers") as pool,
    ):
        for found in pool.map(flags, by_file):
            for path, said in found:
                headers.append(path)
                flagged += [BadRow(path, 0, key, reason) for key, reason in said]
            if shown:
                shown.add()
    return replace(source, headers=headers, flagged=flagged)


def _texts(source: Source) -> dict[str, Texts]:
    """Image whose header is not known -> what is said of it in free words, by what says it."""
    known = set(source.headers)
    said: dict[str, dict[str, dict[str, None]]] = {}
    for path, column, text in _said(source):
        if path in said or (path not in known and may_be_dicom(path)):
            own = said.setdefault(path, {})
            if text:
                own.setdefault(column, {})[text] = None
    return {path: {column: _APART.join(texts) for column, texts in own.items()} for path, own in said.items()}


def _said(source: Source) -> Iterator[tuple[str, str, str]]:
    """Image, what says something of it, and the words; empty where nothing does."""
    for study in source.studies or ():
        yield study.image, "caption", study.caption or ""
        for pair in study.pairs:
            yield study.image, "question", pair.question
            yield study.image, "answer", pair.answer
    for sample in source.samples or ():
        for path in sample.paths:
            yield path, "question", sample.question
            yield path, "answer", sample.answer
            for option in sample.options:
                yield path, "options", option
