"""Reads the images of a data set on the nodes of a running Ray cluster, in batches, one Ray task each.

    STORE/resume/data-KEY/NAME.pictures    what one task has stored: pictures, one after another; then JSON, a list of
                                           their `Gathered` fields; then the length of that in 8 bytes

A task writes one file into the store and returns no picture, so that neither Ray's object store nor the driver's memory
fills up, and what is done stays when nodes, driver or head are lost: the next attempt, wherever it runs, takes the
files that it finds. The build clears the folder once its data set is published.
"""

import json
import os
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from itertools import islice
from math import ceil
from pathlib import Path
from typing import Any

from medmim import progress, ray_nodes, store
from medmim.data.gather import Decode, Gathered, Pictures, Reader, by_file, by_threads
from medmim.data.sources.fragments import Fragment, format_path, parse
from medmim.data.sources.source import BadImage
from medmim.errors import UserError, wrap_os_errors
from medmim.sample import digest_of
from medmim.store import Store, removal

_BATCH = 32  # pictures that one task reads, but for a file that holds more
_ROUNDS = 4  # tasks of each CPU where there are few images, so that no node waits long for the last one
_QUEUED = 2  # tasks under way for each CPU
_FETCHED = 4  # files of pictures that the driver fetches at once
_AHEAD = 2  # threads of a task: one reads while another decodes
_SUFFIX = ".pictures"
_LENGTH = 8  # bytes


@dataclass(frozen=True)
class _Done:
    """What a task returns.

    Attributes:
        node: Where it ran.
        unread: Files that could not be read there, as opposed to decoded.
        error: A UserError that ended it. It is returned: if it were raised, Ray would wrap it in an error of its own.
    """

    node: str
    unread: frozenset[str] = frozenset()
    error: UserError | None = None


def on_nodes(address: str, folder: str, root_of: Callable[[str], str]) -> Decode:
    """A `Decode` for the nodes of a cluster; connects only if a picture is neither kept nor done.

    Args:
        address: `auto` on a node of the cluster, or `HOST:6379`.
        folder: URI of this build's folder in the store, which is all that the nodes share with this process.
        root_of: Path -> root of its source, for messages.

    Returns:
        What raises, when its pictures are read:
        UserError: A task raised it, or a node cannot read a file that this one can.
        Unavailable: Nodes were lost too often, none joined, or the cluster does not answer.
    """
    return partial(_read_all, address, folder, root_of)


def clear(folder: str) -> None:
    """Remove what a build whose data set is published, or a killed one, has left in the store."""
    place, _, name = folder.rpartition("/")
    removal.clear(store.open_store(place), name)


def _read_all(
    address: str, folder: str, root_of: Callable[[str], str], paths: Sequence[str], reader: Reader
) -> Pictures:
    left = set(paths)
    for item, data in _of_earlier_attempts(store.open_store(folder), left):
        left.discard(item.path)
        yield item, data
    if len(left) < len(paths):
        progress.say(f"{len(paths) - len(left):,} images are there from an earlier attempt")
    rest: list[str] = []
    for file, pictures in by_file([path for path in paths if path in left]):
        kept = reader.find(file, pictures)[1]
        yield from kept.values()
        rest += [format_path(file, picture) for picture in pictures if picture not in kept]
    if rest:
        with ray_nodes.joined(address):
            ray_nodes.wait_for_workers(1, 1)
            yield from _by_tasks(folder, root_of, rest, reader)


def _of_earlier_attempts(shared: Store, wanted: Set[str]) -> Pictures:
    with tempfile.TemporaryDirectory(prefix="medmim-") as name:
        for key in shared.list():
            if key.endswith(_SUFFIX) and any(item.path in wanted for item in _index(shared, key)):
                part = Path(name) / "part"
                shared.download(key, part)
                yield from (found for found in _pictures(part) if found[0].path in wanted)


def _by_tasks(folder: str, root_of: Callable[[str], str], paths: Sequence[str], reader: Reader) -> Pictures:
    """The pictures in the order in which their batches are done."""
    import ray

    shared, sent = store.open_store(folder), [_sent(reader.read)]
    task = ray_nodes.task(_read_batch, cpus=1)
    progress.say(f"reading images on the Ray cluster: {len(paths):,}")
    batches = _batches(paths, max(1, min(_BATCH, ceil(len(paths) / (_ROUNDS * _cpus())))))
    pending: dict[Any, list[str]] = {}
    fetched: deque[Future[Path]] = deque()
    with ExitStack() as undo:
        place = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="medmim-")))
        pool = undo.enter_context(ThreadPoolExecutor(_FETCHED, "pictures"))
        undo.callback(pool.shutdown, wait=False, cancel_futures=True)
        while True:
            for batch in islice(batches, max(0, _QUEUED * _cpus() - len(pending))):
                pending[task.remote(sent, reader.side, folder, batch)] = batch
            if not pending:
                break
            (ref,), _ = ray.wait(list(pending), num_returns=1)
            batch = pending.pop(ref)
            done: _Done = ray_nodes.result(
                ref,
                "the build lost its nodes",
                fix="run the same command again: what is done is kept; if it ends in the same way, an image of "
                "this batch may need more memory than the nodes have",
                problems=batch,
            )
            if done.error is not None:
                told = done.error.as_dict()
                raise UserError(**{**told, "fact": f"{told['fact']} (on the node {done.node})"})
            for file, pictures in by_file([path for path in batch if parse(path)[0] in done.unread]):
                yield from _unread(file, pictures, reader, done.node, root_of(file))
            fetched.append(pool.submit(_fetch, shared, _name(batch), place, done.node))
            while fetched and (len(fetched) > _FETCHED or fetched[0].done()):
                yield from _keeping(_pictures(fetched.popleft().result()), reader)
        while fetched:
            yield from _keeping(_pictures(fetched.popleft().result()), reader)


def _sent(read: Callable[[str], bytes]) -> Any:
    """A `Source.read` in Ray's object store."""
    import ray

    try:
        return ray.put(read)
    except TypeError as error:
        raise UserError(
            "a source of this recipe cannot be read on other nodes",
            reason=f"its function `read` cannot be sent there: {str(error.__cause__ or error).splitlines()[0][:200]}",
            fix="build with platform.ray: local, or let the source return a function of its module, or a method of a "
            "class there, that holds addresses only (docs/data.md)",
        ) from None


def _cpus() -> int:
    import ray

    return max(1, int(ray.cluster_resources().get("CPU", 0)))


def _batches(paths: Sequence[str], size: int) -> Iterator[list[str]]:
    """Paths in groups of `size`; those of one file stay together."""
    batch: list[str] = []
    for file, pictures in by_file(paths):
        if batch and len(batch) + len(pictures) > size:
            yield batch
            batch = []
        batch += [format_path(file, picture) for picture in pictures]
    if batch:
        yield batch


def _unread(
    file: str, pictures: Sequence[Fragment | None], reader: Reader, node: str, root: str
) -> list[tuple[Gathered, bytes]]:
    """Why the pictures of a file cannot be read, which this process must find as the node did.

    Else a folder that a node does not have would make a data set of fewer images.
    """
    try:
        reader.read(file)
    except (FileNotFoundError, BadImage):
        return Reader(reader.read, reader.side)(file, pictures)
    raise UserError(
        f"the node {node} cannot read {file}{f' in {root}' if root else ''}",
        reason=f"the node {ray_nodes.node_name()}, where the build runs, can: they do not see the same folder",
        fix="give an s3:// address as root, or mount the folder at the same place on every node; "
        "platform.ray: local builds on this node alone",
    )


def _fetch(shared: Store, key: str, folder: Path, node: str) -> Path:
    try:
        shared.download(key, folder / key)
    except FileNotFoundError:
        raise UserError(
            f"what the node {node} has read is not in {shared.uri}",
            reason="it has written it there: this store is a folder of its own, or of this node",
            fix="set platform.store to s3://BUCKET/PREFIX, or to a folder that is mounted on every node",
        ) from None
    return folder / key


def _index(shared: Store, key: str) -> list[Gathered]:
    """The pictures in a file of the store, of which only the end is read."""
    size, version = shared.version(key)

    def read(start: int, length: int) -> bytes:
        found = bytearray(length)

        def write(at: int, data: bytes) -> None:
            found[at : at + len(data)] = data

        shared.read_range(key, version, start, length, write)
        return bytes(found)

    length = int.from_bytes(read(size - _LENGTH, _LENGTH))
    return [Gathered(**item) for item in json.loads(read(size - _LENGTH - length, length))]


def _pictures(part: Path) -> Pictures:
    """The pictures in a file, which is removed."""
    with part.open("rb") as file:
        part.unlink()
        end = file.seek(-_LENGTH, os.SEEK_END)
        length = int.from_bytes(file.read(_LENGTH))
        file.seek(end - length)
        items = json.loads(file.read(length))
        file.seek(0)
        for item in items:
            yield Gathered(**item), file.read(item["size"])


def _keeping(pictures: Pictures, reader: Reader) -> Pictures:
    """The same pictures, kept for the next build."""
    for item, data in pictures:
        file, picture = parse(item.path)
        reader.keep(reader.identity(file) if reader.kept else "", picture, item, data)
        yield item, data


def _read_batch(sent: list[Any], side: int, folder: str, paths: list[str]) -> _Done:
    """One Ray task: read some pictures and write them into the store as one file."""
    node, unread = ray_nodes.node_name(), set[str]()
    try:
        read = _received(sent[0])

        def noting(file: str) -> bytes:
            try:
                return read(file)
            except (FileNotFoundError, BadImage):
                unread.add(file)
                raise

        with wrap_os_errors("reading images"), tempfile.TemporaryDirectory(prefix="medmim-") as name:
            part, items = Path(name) / "part", []
            with part.open("wb") as out:
                for item, data in by_threads(paths, Reader(noting, side), _AHEAD):
                    if parse(item.path)[0] not in unread:
                        items.append(asdict(item))
                        out.write(data)
                index = json.dumps(items).encode()
                out.write(index + len(index).to_bytes(_LENGTH))
            store.open_store(folder).upload(_name(paths), part)
    except UserError as error:
        return _Done(node, error=error)
    return _Done(node, frozenset(unread))


@lru_cache(maxsize=1)
def _received(ref: Any) -> Callable[[str], bytes]:
    """The function that was sent, once for all tasks in this process: it may hold what was read of a table."""
    import ray

    try:
        found: Callable[[str], bytes] = ray.get(ref)
    except ray.exceptions.RaySystemError as error:
        raise UserError(
            "a source of this recipe is not installed",
            reason=str(error).strip().splitlines()[0][:300],
            fix="install its distribution on every node",
        ) from None
    return found


def _name(paths: Sequence[str]) -> str:
    return digest_of(paths)[:32] + _SUFFIX
