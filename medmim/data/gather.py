"""Reads, checks and stores the images of a data set, each once; bad ones are quarantined. A killed run is resumed.

`FOLDER/pixels.bin` holds the encoded images one after another, `FOLDER/index.jsonl` one line for each path that was
read, written after its bytes. On the next start a torn last line, and bytes that no line refers to, are cut off.
"""

import json
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from PIL import Image

from medmim.data.sources.fragments import parse
from medmim.data.sources.image_file import decode
from medmim.data.sources.pixels import BLANK
from medmim.data.sources.source import BadImage
from medmim.progress import bar
from medmim.recipe.schema import MAX_SIDE

MISSING = "image is missing"


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
    paths: Iterable[str], read: Callable[[str], bytes], folder: Path, side: int = MAX_SIDE
) -> dict[str, Gathered]:
    """Read, check and store every image, on all cores.

    Args:
        paths: Source paths, each once, in the order of storage.
        read: As in `Source.read`; called in several threads.
        folder: Working folder of this data set; kept after a kill.
        side: `data.max_side`.

    Returns:
        Path -> result, in the order of `paths`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wanted = list(paths)
    known = _resume(folder)
    end = max((item.start + item.size for item in known.values()), default=0)
    with (
        (folder / "pixels.bin").open("ab") as pixels,
        (folder / "index.jsonl").open("a", encoding="utf-8") as index,
        bar("images", len(wanted), "images") as progress,
    ):
        new = [path for path in wanted if path not in known]
        progress.add(len(wanted) - len(new))
        for item, data in _read_all(new, read, side):
            known[item.path] = replace(item, start=end) if data else item
            pixels.write(data)
            pixels.flush()  # to the kernel, where it survives a kill of this process
            index.write(json.dumps(asdict(known[item.path])) + "\n")
            index.flush()
            end += len(data)
            progress.add()
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


def _read_all(paths: Sequence[str], read: Callable[[str], bytes], side: int) -> Iterator[tuple[Gathered, bytes]]:
    """Each image with its stored bytes, in the order of `paths`; threads are enough, since decoding frees the GIL."""
    from joblib import cpu_count

    workers = cpu_count()
    ahead: deque[Future[tuple[Gathered, bytes]]] = deque()
    with (
        warnings.catch_warnings(),  # around all threads, which share one list of filters
        ThreadPoolExecutor(workers, thread_name_prefix="images") as pool,
    ):
        warnings.simplefilter("ignore")
        try:
            for path in paths:
                ahead.append(pool.submit(_read, path, read, side))
                if len(ahead) > 2 * workers:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _read(path: str, read: Callable[[str], bytes], side: int) -> tuple[Gathered, bytes]:
    try:
        file, fragment = parse(path)
        image = decode(read(file), fragment)
        if _is_blank(image.pixels):
            raise BadImage(BLANK)
        data = image.shrunk(side)
    except FileNotFoundError:
        return Gathered(path, problem=MISSING), b""
    except BadImage as error:
        return Gathered(path, problem=str(error)), b""
    return Gathered(path, image.id, size=len(data)), data


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
