"""Reads the records of a file in JSON, one after another: a list, or one object a line (JSON Lines).

Files of captions and conversations have hundreds of megabytes, so never is more in memory than one record and a block.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from medmim import sniff
from medmim.errors import UserError, from_os_error

_BLOCK = 1 << 20  # characters read at once
MAX_RECORD = 32 << 20  # characters; the longest sound ones have some thousand
_BLANKS = re.compile(r"[ \t\r\n]*")


def records(path: Path, wanted: str) -> Iterator[Any]:
    """The elements of the list, or the values one after another, of any type.

    Args:
        path: A file that must be there.
        wanted: What it should be, with its article, for messages.

    Raises:
        UserError: It is something else (a Git LFS pointer, an archive, ...), or is broken or cut off; the message names
            the record.
    """
    sniff.require_text(path, wanted)
    try:
        with path.open(encoding="utf-8-sig") as file:
            yield from _Reader(path, file).records()
    except OSError as error:
        raise from_os_error(error, f"reading {path.name}") from error
    except UnicodeDecodeError:
        sniff.read_text(path, wanted)  # raises the error that names the encoding
        raise


class _Reader:
    """A text that is read block by block, and where in it the next value starts."""

    def __init__(self, path: Path, file: TextIO) -> None:
        self.path, self.file = path, file
        self.text, self.at, self.ended = "", 0, False
        self.count = 0

    def records(self) -> Iterator[Any]:
        is_list = self._next() == "["
        if is_list:
            self.at += 1
        while (char := self._next()) and not (is_list and char == "]"):
            yield self._value()
            self.count += 1
            if is_list and self._next() not in (",", "]"):
                raise self._error("the file is cut off" if not self._next() else "a comma is missing")
            if is_list and self._next() == ",":
                self.at += 1
                if self._next() == "]":
                    raise self._error("nothing follows a comma")
        if is_list and not char:
            raise self._error("the file is cut off")
        if is_list:
            self.at += 1
            if self._next():
                raise self._error("more follows the list")

    def _next(self) -> str:
        """The next character that is no blank; empty at the end."""
        while True:
            blanks = _BLANKS.match(self.text, self.at)
            self.at = blanks.end() if blanks else self.at
            if self.at < len(self.text):
                return self.text[self.at]
            if self.ended:
                return ""
            self._read()

    def _read(self) -> None:
        """Another block; as much as there is already, so that a long record is not parsed a thousand times."""
        rest = self.text[self.at :]
        block = self.file.read(max(_BLOCK, len(rest)))
        self.text, self.at, self.ended = rest + block, 0, not block

    def _value(self) -> Any:
        while True:
            try:
                value, end = json.JSONDecoder().raw_decode(self.text, self.at)
            except json.JSONDecodeError as error:
                if self.ended:
                    cut = error.pos >= len(self.text.rstrip()) or error.msg.startswith("Unterminated string")
                    raise self._error("the file is cut off" if cut else error.msg) from None
                if len(self.text) - self.at > MAX_RECORD:
                    raise self._error(f"{error.msg}, in the first {MAX_RECORD:,} characters of it") from None
            except RecursionError:
                raise self._error("it is nested too deeply") from None
            except ValueError as error:  # a number of more digits than Python converts
                raise self._error(str(error).split(";")[0]) from None
            else:
                if end < len(self.text) or self.ended:  # a number may go on in the next block
                    self.at = end
                    return value
            self._read()

    def _error(self, reason: str) -> UserError:
        return UserError(
            f"{self.path.name} is not valid JSON in record {self.count + 1:,}",
            reason=reason,
            fix=f"copy it completely: it has {self.path.stat().st_size:,} bytes here"
            if reason == "the file is cut off"
            else f"correct record {self.count + 1:,}, or copy the file again",
        )
