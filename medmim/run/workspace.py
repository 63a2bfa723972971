"""Where a run reads and writes: its home, the artifact store, MLflow's tracking URI."""

import os
import re
import shlex
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

from medmim import hints, store
from medmim.errors import UserError, from_os_error
from medmim.recipe.schema import Recipe
from medmim.redact import remember, shown

_SQLITE = re.compile(r"sqlite(?:\+pysqlite)?:///(?P<path>[^?]*)(?P<query>\?.*)?", re.DOTALL)
_LONGEST_NAME = 255  # bytes
_LONGEST = 3500  # bytes of a folder's path: Linux allows 4,096, and files lie up to 500 below it


@dataclass(frozen=True)
class Workspace:
    """Where a run reads and writes.

    Attributes:
        home: Local folder for everything that is no artifact; nothing is written outside it.
        store: URI of the artifact store.
        tracking: MLflow tracking URI.
        run: Names `STORE/runs/RUN`, where each stage writes its record; empty outside a run.
    """

    home: Path
    store: str
    tracking: str
    run: str = ""

    @property
    def cache(self) -> Path:
        """Local copies of artifacts that lie in S3: MEDMIM_CACHE, which several homes may share, or below the home."""
        return cache_folder(self.home)

    def fetch(self, uri: str, only: Sequence[str] | None = None) -> Path:
        """Local folder of a published artifact; `only` as for `store.fetch`."""
        return store.fetch(store.get(uri), self.cache, only)

    def command(self, *words: str) -> str:
        """A command as `hints.command`, which finds this store and registry also where a recipe has moved them."""
        plain, moved = workspace(self.home), {}
        if self.store != plain.store:
            moved["MEDMIM_STORE"] = self.store
        if self.tracking not in (plain.tracking, "") and self.tracking == shown(self.tracking):
            moved["MLFLOW_TRACKING_URI"] = self.tracking
        return " ".join([*(f"{name}={shlex.quote(value)}" for name, value in moved.items()), hints.command(*words)])


def cache_folder(home: Path) -> Path:
    """The folder of local copies for a home."""
    given = os.environ.get("MEDMIM_CACHE")
    return hints.expanded(given).absolute() if given else home / "cache"


def workspace(home: Path | None, recipe: Recipe | None = None, run: str = "") -> Workspace:
    """Resolve home, store and tracking: recipe first, then environment, then embedded defaults.

    A tracking URI that names a file by a relative path is resolved here, once, against the current folder.

    Raises:
        UserError: The home cannot be made or written into other files, or the store is none.
    """
    place = hints.expanded(home or os.environ.get("MEDMIM_HOME") or ".medmim").absolute()
    platform = recipe.platform if recipe else None
    uri = (platform and platform.store) or os.environ.get("MEDMIM_STORE") or str(place / "store")
    tracking = (platform and platform.tracking) or os.environ.get("MLFLOW_TRACKING_URI")
    remember(tracking or "")
    _refuse_unusable(place)
    if uri != str(place / "store"):
        _refuse_long(uri, "platform.store" if platform and platform.store else "MEDMIM_STORE")
    address = store.open_store(uri).uri  # first: a store that is refused must leave no home behind
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise from_os_error(error, "creating the home") from error
    return Workspace(place, address, absolute(tracking) if tracking else sqlite_uri(place / "mlflow.db"), run)


def absolute(tracking: str) -> str:
    """A tracking URI that means the same in every folder: SQLite files and folders by their whole path."""
    found = _SQLITE.fullmatch(tracking)
    if found:
        path = unquote(found["path"])
        if path in ("", ":memory:") or path.startswith("file:"):
            return tracking
        return sqlite_uri(Path(os.path.abspath(hints.expanded(path)))) + (found["query"] or "")
    scheme, colon, rest = tracking.partition(":")
    if (scheme == "file" and not rest.startswith("/")) or (not colon and "/" in tracking):
        return hints.expanded(unquote(rest if colon else tracking)).absolute().as_uri()
    return tracking


def sqlite_uri(path: Path) -> str:
    """The URI of an SQLite file, with `%` and `?` in its path quoted as SQLAlchemy 2.1 reads it.

    From the first such folder on, slashes are quoted too: MLflow makes the parent folder of the path that it finds in
    the URI, without unquoting it, and would leave an empty one beside the real one.
    """
    parts = path.parts
    first = next((n for n, part in enumerate(parts) if "%" in part or "?" in part), len(parts))
    plain, quoted = Path(*parts[:first]), quote("/".join(parts[first:]), safe="")
    return f"sqlite:///{plain / quoted}" if quoted else f"sqlite:///{plain}"


def sqlite_path(tracking: str) -> Path | None:
    """The file of an SQLite tracking URI; None for any other."""
    found = _SQLITE.fullmatch(tracking)
    return Path(unquote(found["path"])) if found else None


def _refuse_long(store: str, key: str) -> None:
    """Refuse a folder as store whose path is longer than a file system takes, by the key that names it."""
    path = unquote(store.removeprefix("file://"))
    longest = max((len(os.fsencode(part)) for part in Path(path).parts), default=0)
    if "://" not in path and (longest > _LONGEST_NAME or len(os.fsencode(path)) > _LONGEST):
        raise UserError(
            f"{key}: {path[:80]}... is too long for a folder",
            reason=f"a name has at most {_LONGEST_NAME} bytes, and files lie up to 500 bytes below it, of 4,096 in all",
            fix="give a shorter path, or s3://BUCKET/PREFIX",
        )


def _refuse_unusable(home: Path) -> None:
    """Refuse a home whose path SQLite, JSON or a file below it could not hold, before anything is made."""
    name = str(home)
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in name):
        raise UserError(
            f"{name!r} cannot be the home",
            reason="its path has a control character, or a byte that is not UTF-8: no record or recipe could name it",
            fix="give another folder with --home or MEDMIM_HOME",
        )
    if len(os.fsencode(home)) > _LONGEST:
        raise UserError(
            f"the path of the home is {len(os.fsencode(home)):,} bytes long: {name[:80]}...",
            reason="files lie up to 500 bytes below it, and Linux allows 4,096 in all",
            fix="give a shorter --home",
        )
