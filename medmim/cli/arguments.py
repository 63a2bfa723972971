"""Command-line text that is not UTF-8."""

from collections.abc import Sequence

from medmim.errors import UserError
from medmim.sample import is_utf8
from medmim.store.paths import existing


def check(arguments: Sequence[str]) -> None:
    """Refuse an argument that is not text in UTF-8, since it could be written into no record; an existing path may be.

    Args:
        arguments: As the operating system gave them: Python writes a byte that it cannot decode as half a surrogate
            pair, and so gives it back to the file system.

    Raises:
        UserError: There is one.
    """
    for number, argument in enumerate(arguments, 1):
        value = argument.partition("=")[2] if argument.startswith("--") and "=" in argument else argument
        if not is_utf8(argument) and (not is_utf8(argument.removesuffix(value)) or existing(value) is None):
            shown = argument.encode("utf-8", "surrogateescape" if _is_bytes(argument) else "replace")
            raise UserError(
                f"argument {number} is not text in UTF-8: {shown[:100]!r}",
                reason="it holds bytes of another encoding, and names no file that exists",
                fix="type it in a terminal that is set to UTF-8, or convert it: iconv -f latin1 -t utf-8",
            )


def _is_bytes(argument: str) -> bool:
    return all(not "\ud800" <= c <= "\udfff" or "\udc80" <= c <= "\udcff" for c in argument)
