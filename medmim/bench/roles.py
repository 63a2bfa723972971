"""Names of the models of one benchmark: given as NAME=REF, or made from the reference."""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from urllib.parse import urlsplit

from medmim.errors import UserError
from medmim.store.paths import existing

ALONE = "model"  # the name of a model that is benched without others
_TAKEN = ("data",)  # beside the models, a benchmark's record names its data set
_LONGEST = 60
_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._@+-]{{0,{_LONGEST - 1}}}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_SHORT = 12  # characters of a digest that name an artifact


def named(given: Sequence[str]) -> dict[str, str]:
    """Role -> reference of the models of a benchmark, in their order.

    A reference without a name is named after what it ends in: a shipped base or a folder after itself,
    `models:/x@champion` `x@champion`, `openai:URL#org/name` `name`; a second one of that name gets `-2`. One model
    alone is `model`.

    Args:
        given: `REF` or `NAME=REF`; what names an existing file or folder is a reference.

    Raises:
        UserError: A name that is no name, or that is given twice.
    """
    pairs = [_split(text) for text in given]
    own = [name for name, _ in pairs if name is not None]
    _refuse(own)
    if len(pairs) == 1 and not own:
        return {ALONE: pairs[0][1]}
    taken = {*own, *_TAKEN}
    found: dict[str, str] = {}
    for name, ref in pairs:
        role = name or next(other for other in _tried(short(ref)) if other not in taken)
        taken.add(role)
        found[role] = ref
    return found


def refuse_equal(digests: Mapping[str, str]) -> None:
    """Refuse to compare a model with itself.

    Args:
        digests: Role -> digest of its weights.

    Raises:
        UserError: Two roles have one digest; every pair is named.
    """
    first: dict[str, str] = {}
    equal = [(first[digest], role) for role, digest in digests.items() if first.setdefault(digest, role) != role]
    if equal:
        raise UserError(
            "; ".join(f"{one} and {other} are the same model, {digests[other][:_SHORT]}" for one, other in equal),
            reason="its differences from itself would be 0 by construction",
            fix="leave one of them out",
        )


def _split(text: str) -> tuple[str | None, str]:
    name, equals, ref = text.partition("=")
    if not equals or "/" in name or ":" in name or existing(text) is not None:
        return None, text
    if not ref:
        raise UserError(f"--model {text} names no model", fix="write NAME=REF")
    return name, ref


def _refuse(names: Sequence[str]) -> None:
    wrong = [name for name in names if not _NAME.fullmatch(name)]
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    problems = [f"'{name[:100]}' is no name: up to {_LONGEST} letters, digits and ._@+-" for name in wrong]
    problems += [f"'{name}' is given twice" for name in twice]
    problems += [f"'{name}' is taken by the data set" for name in _TAKEN if name in names]
    if problems:
        raise UserError(
            "--model: names of models that cannot be", problems=problems, fix="write NAME=REF, such as base=REF"
        )


def short(ref: str) -> str:
    """A name that a reference ends in."""
    if ref.startswith("models:/"):
        name, _, version = ref.removeprefix("models:/").rpartition("/")
        last = f"{name}-v{version}" if name else version
    elif ref.startswith("openai:"):
        last = ref.rpartition("#")[2].rstrip("/").rpartition("/")[2]
    else:
        path = urlsplit(ref).path if "://" in ref else ref
        last = path.rstrip("/").rpartition("/")[2].rpartition(":")[2]
        last = last[:_SHORT] if _DIGEST.fullmatch(last) else last
    return re.sub(r"[^A-Za-z0-9._@+-]+", "-", last).strip("-._@+")[:_LONGEST] or ALONE


def _tried(name: str) -> Iterator[str]:
    """The name, and with numbers behind it."""
    yield name
    for number in count(2):
        yield f"{name[: _LONGEST - len(str(number)) - 1]}-{number}"
