"""Finds a file by its name in either normal form of Unicode.

`é` is one character (NFC, as lists write it) or two (NFD, as macOS and its archives have it). Both are one name.
"""

import os
import unicodedata
from functools import lru_cache
from pathlib import Path

from medmim.data.sources.source import BadImage


def nfc(name: str) -> str:
    """The name in NFC, by which names are compared."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def find(folder: Path, relative: str) -> Path:
    """The path of a file below a folder, as the disk writes its name; where there is none, the path as given.

    Raises:
        BadImage: The folder holds two files whose names differ in nothing but their normal form.
    """
    if relative.isascii():
        return folder / relative
    at = folder
    for part in relative.split("/"):
        same = [] if part.isascii() else _names(str(at), _changed(at)).get(nfc(part), [])
        if len({os.path.realpath(at / name) for name in same}) > 1:
            raise BadImage("two files have this name, one in composed, one in decomposed letters (NFC, NFD)")
        at = at / (part if part in same or not same else same[0])
    return at


@lru_cache(maxsize=64)
def _names(folder: str, changed: int) -> dict[str, list[str]]:
    """Names in a folder by their NFC form; `changed` makes a folder that has changed another one."""
    found: dict[str, list[str]] = {}
    try:
        for name in os.listdir(folder):
            found.setdefault(nfc(name), []).append(name)
    except (OSError, ValueError):
        return {}
    return found


def _changed(folder: Path) -> int:
    try:
        return folder.stat().st_mtime_ns
    except (OSError, ValueError):
        return 0
