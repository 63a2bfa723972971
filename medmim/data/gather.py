"""Reads, checks and stores the images of a data set, each once; bad ones are quarantined. A killed run is resumed.

`FOLDER/pixels.bin` holds the encoded images one after another, `FOLDER/index.jsonl` one line for each path that was
read, written after its bytes. On the next start a torn last line, and bytes that no line refers to, are cut off.
"""

import json
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from PIL import Image

from medmim.data.kept_pixels import KeptPixels
from medmim.data.sources.fragments import Fragment, format_path, parse
from medmim.data.sources.image_file import decode_all
from medmim.data.sources.pixels import BLANK
from medmim.data.sources.source import BadImage
from medmim.progress import bar
from medmim.recipe.schema import MAX_SIDE

MISSING = "image is missing"
_TOGETHER = 256  # pictures of one file in memory at once; no plane of a usual volume has more slices


@dataclass(frozen=True, slots=True)
class Gathered:
    """The result for one image path.

    Attributes:
        path: Source path.
        id: `sha256:HEX` of the original file; empty if it is unusable.
        problem: Why it is unusable; empty if it is not.
        start: Offset of the stored bytes.
        size: Length of the stored bytes.
    """

    path: str
    id: str = ""
    problem: str = ""
    start: int = 0
    size: int = 0


def gather(
    paths: Iterable[str],
    read: Callable[[str], bytes],
    folder: Path,
    side: int = MAX_SIDE,
    identity: Callable[[str], str] = lambda _: "",
    kept: KeptPixels | None = None,
    decode: "Decode | None" = None,
) -> dict[str, Gathered]:
    """Read, check and store every image, on all cores.

    Args:
        paths: Source paths, each once.
        read: As in `Source.read`; called in several threads.
        folder: Working folder of this data set; kept after a kill.
        side: `data.max_side`.
        identity: As `Source.identity`.
        kept: What earlier builds stored; grows by what this one reads.
        decode: What reads them; by default threads of this process, in the order of the paths, but all pictures of one
            file together.

    Returns:
        Path -> result, in the order of `paths`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wanted = list(paths)
    known = _resume(folder)
    end = max((item.start + item.size for item in known.values()), default=0)
    with (
        ExitStack() as undo,
        (folder / "pixels.bin").open("ab") as pixels,
        (folder / "index.jsonl").open("a", encoding="utf-8") as index,
        bar("images", len(wanted), "images") as progress,
    ):
        new = [path for path in wanted if path not in known]
        progress.add(len(wanted) - len(new))
        grown = 0
        pictures = (decode or by_threads)(new, Reader(read, side, identity, kept))
        # an iterator that is left waiting would keep its threads, or its cluster, until an error has been shown
        for item, data in undo.enter_context(closing(pictures)):
            known[item.path] = replace(item, start=end) if data else item
            pixels.write(data)
            pixels.flush()  # to the kernel, where it survives a kill of this process
            index.write(json.dumps(asdict(known[item.path])) + "\n")
            index.flush()
            end += len(data)
            grown += len(data)
            progress.add()
            if kept and grown > kept.limit // 8:
                kept.trim()
                grown = 0
        if kept and grown:
            kept.trim()
    return {path: known[path] for path in wanted}


def stored(folder: Path, items: Iterable[Gathered]) -> Iterator[tuple[str, str, bytes]]:
    """(id, path, bytes) of the usable images; a file that is stored under several paths comes once."""
    seen: set[str] = set()
    with (folder / "pixels.bin").open("rb") as pixels:
        for item in items:
            if item.id and item.id not in seen:
                seen.add(item.id)
                pixels.seek(item.start)
                yield item.id, item.path, pixels.read(item.size)


@dataclass(frozen=True)
class Reader:
    """What is done with one file; the attributes are as for `gather`."""

    read: Callable[[str], bytes]
    side: int
    identity: Callable[[str], str] = lambda _: ""
    kept: KeptPixels | None = None

    def __call__(self, file: str, pictures: Sequence[Fragment | None]) -> list[tuple[Gathered, bytes]]:
        """The pictures of a file with their stored bytes; it is read once, and not at all where all are kept."""
        mark, found = self.find(file, pictures)
        rest = [picture for picture in pictures if picture not in found]
        for picture, (item, data) in zip(rest, self._decoded(file, rest) if rest else (), strict=True):
            found[picture] = item, data
            self.keep(mark, picture, item, data)
        return [found[picture] for picture in pictures]

    def find(
        self, file: str, pictures: Sequence[Fragment | None]
    ) -> tuple[str, dict[Fragment | None, tuple[Gathered, bytes]]]:
        """The file's identity, empty where nothing of it is to be kept, and those of its pictures that are kept."""
        mark = self.identity(file) if self.kept else ""
        found: dict[Fragment | None, tuple[Gathered, bytes]] = {}
        for picture in pictures:
            known = self.kept.find(f"{mark} {picture or ''}", self.side) if self.kept and mark else None
            if known is not None:
                found[picture] = Gathered(format_path(file, picture), known[0], size=len(known[1])), known[1]
        return mark, found

    def keep(self, mark: str, picture: Fragment | None, item: Gathered, data: bytes) -> None:
        """Keep a usable picture of a file for the next build."""
        if self.kept and mark and not item.problem:
            self.kept.keep(f"{mark} {picture or ''}", self.side, item.id, data)

    def _decoded(self, file: str, pictures: Sequence[Fragment | None]) -> Iterator[tuple[Gathered, bytes]]:
        try:
            data = self.read(file)
        except FileNotFoundError:
            yield from ((Gathered(format_path(file, one), problem=MISSING), b"") for one in pictures)
            return
        except BadImage as error:
            yield from ((Gathered(format_path(file, one), problem=str(error)), b"") for one in pictures)
            return
        for picture, image in zip(pictures, decode_all(data, pictures), strict=True):
            path = format_path(file, picture)
            try:
                if isinstance(image, BadImage):
                    raise image
                if _is_blank(image.pixels):
                    raise BadImage(BLANK)
                small = image.shrunk(self.side)
            except BadImage as error:
                yield Gathered(path, problem=str(error)), b""
            else:
                yield Gathered(path, image.id, size=len(small)), small


Pictures = Generator[tuple[Gathered, bytes], None, None]  # with their stored bytes
Decode = Callable[[Sequence[str], Reader], Pictures]
"""What reads the pictures of paths, each once, in any order."""


def by_threads(paths: Sequence[str], reader: Reader, workers: int | None = None) -> Pictures:
    """A `Decode`: each picture, file by file; threads are enough, since decoding frees the GIL.

    Args:
        paths: Source paths.
        reader: What is done with a file.
        workers: Threads; by default as many as there are cores.
    """
    from joblib import cpu_count

    workers = workers or cpu_count()
    ahead: deque[Future[list[tuple[Gathered, bytes]]]] = deque()
    with (
        warnings.catch_warnings(),  # around all threads, which share one list of filters
        ThreadPoolExecutor(workers, thread_name_prefix="images") as pool,
    ):
        warnings.simplefilter("ignore")
        try:
            for file, pictures in by_file(paths):
                ahead.append(pool.submit(reader, file, pictures))
                if len(ahead) > 2 * workers:
                    yield from ahead.popleft().result()
            while ahead:
                yield from ahead.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def by_file(paths: Sequence[str]) -> Iterator[tuple[str, list[Fragment | None]]]:
    """The files of paths in their order, each with its pictures; of very many a part at a time, to bound memory."""
    found: dict[str, list[Fragment | None]] = {}
    for path in paths:
        file, picture = parse(path)
        found.setdefault(file, []).append(picture)
    for file, pictures in found.items():
        for start in range(0, len(pictures), _TOGETHER):
            yield file, pictures[start : start + _TOGETHER]


def _is_blank(picture: Image.Image) -> bool:
    return all(low == high for low, high in (band.getextrema() for band in picture.split()))


def _resume(folder: Path) -> dict[str, Gathered]:
    """What an earlier run finished; both files are truncated to it."""
    pixels, index = folder / "pixels.bin", folder / "index.jsonl"
    pixels.touch()
    index.touch()
    known: dict[str, Gathered] = {}
    kept = end = 0
    available = pixels.stat().st_size
    for line in index.read_bytes().splitlines(keepends=True):
        try:
            item = Gathered(**json.loads(line))
        except (ValueError, TypeError):
            break
        if not line.endswith(b"\n") or item.start + item.size > available:
            break
        known[item.path] = item
        kept += len(line)
        end = max(end, item.start + item.size)
    with index.open("r+b") as file:
        file.truncate(kept)
    with pixels.open("r+b") as file:
        file.truncate(end)
    return known
