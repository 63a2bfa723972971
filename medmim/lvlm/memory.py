"""Memory that is used up while a model is loaded, asked or trained: one error of the user's settings."""

from collections.abc import Iterator
from contextlib import contextmanager

from medmim.errors import out_of_memory, used_up


@contextmanager
def reporting(doing: str, fix: str) -> Iterator[None]:
    """Turn an allocation that fails, on the GPU or beside it, into an error that says what to lower.

    Args:
        doing: As in "the GPU ran out of memory DOING".
        fix: What to change; the same command would fail again.

    Raises:
        UserError: The memory is used up.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        where = out_of_memory(error)
        if where is None:
            raise
        raise used_up(where, doing, error, fix) from None
