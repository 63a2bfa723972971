"""What the exports to other harnesses have in common: the names of their files, and the images of a question."""

import re
from collections.abc import Callable

from medmim.errors import UserError
from medmim.sample import Sample


def stem(task: str) -> str:
    """The name of a task's file without its ending; equal for tasks that differ in marks alone (`a-b`, `a b`).

    Both harnesses have tasks of their own, and lmms-eval takes its own one of an equal name: ours have a prefix.
    """
    return "medmim_" + re.sub(r"\W+", "_", task)


def images(sample: Sample, read: Callable[[str], bytes]) -> list[bytes]:
    """The encoded images of a question.

    Args:
        sample: The question.
        read: Image id -> its bytes.

    Raises:
        UserError: The data set lacks one.
    """
    try:
        return [read(name) for name in sample.images]
    except KeyError as error:
        raise UserError(
            f"the data set has no image {error.args[0]}, which question {sample.id} shows",
            fix="build the data set again",
        ) from None
