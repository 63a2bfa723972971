"""Names of a hospital's own list in the texts of a data set, where nothing around them says that they are names.

The list is a text file, a person a line: `Stone, Jane`, `STONE^JANE`, `Jane Stone`, or `Stone` alone; `#` begins a
comment. It is read when a data set is judged, and kept nowhere: no artifact, digest or page has a name of it, or says
which one was found. So it changes no audit, and to change it makes none again.

A text repeats a name where family and given name stand side by side, in either order, in any case, with at most one
word or initial between; where the family name has the initial of a given one beside it; or where it stands alone with a
capital letter and is no word. Words are those that the texts of the data set have in small letters, or that radiology
and everyday English have (`dicom_tags`): of a patient Stone, neither `stone in the ureter` nor `Stone in the ureter`
tells anything.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from medmim import sniff
from medmim.data.audit.check import Check, Row
from medmim.data.audit.identifiers import LIMIT, Found, texts_of
from medmim.data.sources.dicom_tags import PARTICLES, WORDS
from medmim.data.sources.published_rows import file_of
from medmim.errors import UserError
from medmim.sample import Sample
from medmim.store.paths import existing

_NAME = "identifiers/known-name"
_WANTED = "a list of names, a person a line"
_TOKEN = re.compile(r"(?<!\w)[^\W\d_]+(?:['’-][^\W\d_]+)*(?![\w@])")
_BEFORE = re.compile(r"(?<![^\W_])(?P<initial>[^\W\d_])\.?\s$")
_AFTER = re.compile(r",?\s(?P<initial>[^\W\d_])(?![^\W_]|[:)])")
_OWNED = re.compile(r"['’]s$", re.IGNORECASE)
_SHORTEST = 3  # letters of a name that stands alone
_SENTENCES = 2  # texts that have a word in small letters

Names = Mapping[str, Collection[str]]  # family name -> given names, both case-folded


def read(path: str) -> Names:
    """The names of a list.

    Args:
        path: The key `audit.names` of a recipe.

    Raises:
        UserError: There is no such file on this machine, it is no text, or it has no name.
    """
    place = existing(path)
    if place is None:
        raise UserError(
            f"there is no list of names {path}",
            reason="audit.names is a file of the machine that audits: it is never copied",
            fix="put it there (on a cluster: mount it into the pods), or leave audit.names out",
        )
    found: dict[str, set[str]] = defaultdict(set)
    for line in sniff.read_text(place, _WANTED).splitlines():
        for family, given in _of_line(line.partition("#")[0]):
            found[family].update(given)
    if not found:
        raise UserError(f"{path} has no name", fix="write a person a line: `Stone, Jane`")
    return dict(found)


def _of_line(line: str) -> Iterator[tuple[str, list[str]]]:
    """(family, given names) of a line; of several parts of a family name, each."""
    first, mark, rest = (part.strip() for part in re.sub(r"\^", ",", line).partition(","))
    names, given = _parts(first), _parts(rest)
    if not mark and len(names) > 1:
        names, given = names[-1:], names[:-1]
    for family in names:
        yield family, given


def _parts(text: str) -> list[str]:
    parts = (at[0].casefold() for at in _TOKEN.finditer(text))
    return [part for part in parts if part not in PARTICLES and len(part) > 1]


def words_of(texts: Iterable[str]) -> frozenset[str]:
    """The words that these texts have in small letters."""
    counted = Counter(
        word for text in set(texts) for word in {at[0] for at in _TOKEN.finditer(text) if at[0].islower()}
    )
    return frozenset(word for word, number in counted.items() if number >= _SENTENCES) | WORDS


def find(text: str, names: Names, words: Collection[str]) -> list[Found]:
    """The places of a text that repeat a name.

    Args:
        text: Of any length.
        names: From `read`.
        words: From `words_of`.
    """
    tokens = [(_OWNED.sub("", at[0]), at.start()) for at in _TOKEN.finditer(text) if at[0].casefold() not in PARTICLES]
    found = []
    for at, (token, start) in enumerate(tokens):
        family = token.casefold()
        if family not in names:
            continue
        given = names[family]
        near = [tokens[i] for i in (at - 2, at - 1, at + 1, at + 2) if 0 <= i < len(tokens)]
        known = next((one for one in near if one[0].casefold() in given), None)
        if known is not None and not (family in words and known[0].casefold() in words and token.islower()):
            begin = min(start, known[1])
            found.append(Found("name", begin, max(start + len(token), known[1] + len(known[0]))))
        elif token[0].isupper() and (
            (len(token) >= _SHORTEST and family not in words) or _has_initial(text, start, start + len(token), given)
        ):
            found.append(Found("name", start, start + len(token)))
    return found


def _has_initial(text: str, start: int, end: int, given: Collection[str]) -> bool:
    """Whether the initial of a given name stands beside a family name: `J. Stone`, `Stone, J`; not `B: Stone`."""
    for at in (_BEFORE.search(text, max(0, start - 4), start), _AFTER.match(text, end)):
        if at and at["initial"].isupper() and any(name.startswith(at["initial"].casefold()) for name in given):
            return True
    return False


def check(samples: Sequence[Sample], names: Names) -> Check:
    """How many rows of a data set repeat a name of the list.

    Args:
        samples: Of all splits.
        names: From `read`.
    """
    words = words_of(text for sample in samples for _, text in texts_of(sample))
    seen: dict[str, bool] = {}  # a wording stands in many rows
    rows = []
    for sample in samples:
        places = []
        for place, text in texts_of(sample):
            if text not in seen:
                seen[text] = bool(find(text, names, words))
            if seen[text]:
                places.append(f"in the {place}")
        if places:
            told = " and ".join(dict.fromkeys(places))
            rows.append(Row(sample.id, file_of(sample), f"a name of the list {told}"))
    return Check(_NAME, "rows with a name of the list audit.names", len(rows), of=len(samples), key=LIMIT, rows=rows)
