"""Reads values from the cells of tables.

Tables pass through pandas, R and spreadsheets before they come here. What these leave in cells is read by these rules:

* **No value**: an empty cell, the words of those programs for it (`NaN`, `NA`, `N/A`, `None`, `NULL`, `#REF!`, ... in
  any case: `MISSING`) and those of people (`unknown`, `?`, `-`, `todo`, `k.A.`), also in brackets. A missing id is a
  bad row, never an id; so is an id of nines that is longer than all others (`9999` among `1` to `14`).
* **An id is text**, without invisible characters, every dash a `-` and every digit one of ASCII: programs put them in.
  A whole number that became a float is that number: `1`, `1.0` and ` 1` are one id. Where a
  spreadsheet wrote an exponent (`1.23E+15`), more than 15 digits as a float or with zeros at the end, a date or a truth
  value, the id is lost and the row is bad. Thousands separators and negative numbers (codes for no value) are bad too.
  `1e0`, `1 000` and `1.000` are bad among whole numbers but text among other ids: hexadecimal ids may look so.
* **Leading zeros stay**, since `007` may be the whole id. Where one column has both `01` and `1`, `P1` and `p1`, or ids
  that differ in marks only (`P-1`, `P_1`, `P1`) or in letters that look alike (a Cyrillic and a Latin P), it is not
  known whether these are two patients: the rows of both are bad. That there is a mark between two digits counts, not
  which: `P1-2` and `P12` are two patients, `P1-2` and `P1/2` may be one.
* **One id, two people**: ids whose rows name two sexes, two birth years, or ages that time does not explain are bad.
* **A number** is written with digits, a point and perhaps an exponent. Infinity is no value; a decimal comma, a
  thousands separator, a date, and a number beyond what the column can hold (a date as a number) are bad.
* **A label**, such as a diagnosis, has letters: a number, a date or a truth value is none.
"""

import math
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

_PROGRAMS = (
    "", "nan", "-nan", "+nan", "na", "n/a", "n.a.", "n-a", "n / a", "nat", "null", "nil", "none", "<na>", "(null)",
    "(none)", "(blank)", "#n/a", "#na", "#n/a n/a", "#null!", "#ref!", "#value!", "#div/0!", "#num!", "#name?",
    "#getting_data", "#spill!", "#calc!", "#field!", "\\n", "na_character_", "na_integer_", "na_real_", "undefined",
    "empty", *(f"{sign}1.#{word}" for sign in ("", "-") for word in ("qnan", "ind", "inf")),
)  # fmt: skip
_PEOPLE = (
    "missing", "unknown", "unk", "unspecified", "not specified", "not known", "not available", "not applicable",
    "not given", "not reported", "no data", "anonymous", "anonymized", "anonymised", "redacted", "removed", "todo",
    "tbd", "to be determined", "not recorded", "not found", "not a number", "no value", "nodata", "anonym", "anon",
    "deidentified", "de-identified", "dummy", "?", "??", "???", "-", "--", "---", "\u2013", "\u2014", ".",
    "..", "...", "_",
)  # fmt: skip
_LANGUAGES = (
    "unbekannt", "nicht bekannt", "k.a.", "k. a.", "k.a", "keine angabe", "keine angaben", "ohne angabe", "fehlt",
    "leer", "entf\u00e4llt", "inconnu", "inconnue", "non renseign\u00e9", "non disponible", "vide", "desconocido",
    "sin dato", "sin datos", "no disponible", "no aplica", "s/d", "sconosciuto", "non disponibile", "n.d.", "n.d",
    "n/d", "nd", "desconhecido", "n\u00e3o informado", "sem dados", "onbekend", "brak", "brak danych", "nieznany",
    "\u043d/\u0434", "\u043d\u0435\u0442 \u0434\u0430\u043d\u043d\u044b\u0445",
    "\u043d\u0435\u0438\u0437\u0432\u0435\u0441\u0442\u043d\u043e", "\u4e0d\u660e", "\u4e0d\u8be6", "\u672a\u77e5",
    "\u65e0", "\u7121", "\u306a\u3057", "\u672a\u8a18\u5165", "\ud574\ub2f9\uc5c6\uc74c", "\uc5c6\uc74c",
    "\ubbf8\uc0c1", "\u0644\u0627 \u0634\u064a\u0621",
)  # fmt: skip
MISSING = frozenset((*_PROGRAMS, *_PEOPLE, *_LANGUAGES))
# What spreadsheets of any language write for an error, what Python prints, and one mark over and over.
_NO_VALUE = re.compile(
    r"#[^\W\d_][\w/ ]{0,18}[!?]|#nv|#n/\w|err:\d{3}|(np|numpy|pd|pandas|math)\.(nan|na|nat)|float\(.nan.\)"
    r"|\\+n|x{3,20}|\*{1,20}"
)
HIDDEN = "\u200b\u200c\u200d\u200e\u200f\u2060\ufeff\x1a\0"  # invisible marks around a value
# Letters, marks and symbols that show nothing, beside the category Cf: fillers of Hangul, variation selectors, ...
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
# Cyrillic and Greek letters whose capitals look like Latin ones
_LATIN = str.maketrans(
    "\u0430\u0432\u0435\u043a\u043c\u043d\u043e\u0440\u0441\u0442\u0445\u0443\u0456\u0458\u0455", "abekmhopctxyijs"
) | str.maketrans(
    "\u03b1\u03b2\u03b5\u03b6\u03b7\u03b9\u03ba\u03bc\u03bd\u03bf\u03c1\u03c4\u03c5\u03c7", "abezhikmnoptyx"
)
_TRUTH = ("true", "false", "yes", "no")
_MONTH = (
    "(jan(uary)?|feb(ruary)?|mar(ch)?|apr(il)?|may|june?|july?|aug(ust)?|sept?(ember)?|oct(ober)?|nov(ember)?"
    "|dec(ember)?)"
)
_YEAR = r"(19|20)\d\d"
_DATE = re.compile(
    rf"{_YEAR}[-/.]\d\d?[-/.]\d\d?([ t].*)?|\d\d?/\d\d?/(\d\d|{_YEAR})( .*)?|\d\d?[-.]\d\d?[-.]{_YEAR}"
    rf"|\d\d?[- ]{_MONTH}([- ](\d\d|{_YEAR}))?|{_MONTH} \d\d?,? {_YEAR}",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_WHOLE = re.compile(r"\+?(\d+)(\.0*)?")  # also as a float
_POINTED = r"[1-9]\d{0,2}(\.\d{3})+"
_INFINITE = re.compile(r"[+-]?inf(inity)?|[+-]?∞", re.IGNORECASE)
_EXPONENT = re.compile(r"[+-]?(\d+\.?\d*[eE]\+\d+|\d+\.\d*[eE]-?\d+)")
_THOUSANDS = re.compile(r"[+-]?\d{1,3}([,'\u2019]\d{3})+(\.\d*)?")
_ODD_AMONG_NUMBERS = re.compile(r"\d+[eE]-?\d+|\d+,\d+|\d{1,3}([ .]\d{3})+|\d+\.\d{8,}")
_EXACT = 15  # digits that a spreadsheet keeps
_ENOUGH = 5  # as many ids that end in zeros are no accident
_AGE_SLACK = 2  # years by which ages of one patient differ without a contradiction, beside the time between the rows
_LIFE = 130  # years; nobody is older
_AGE_UNITS = (  # how a unit is written -> its part of a year
    (("", "Y", "YR", "YRS", "YEAR", "YEARS"), 1.0),
    (("M", "MO", "MOS", "MONTH", "MONTHS"), 1 / 12),
    (("W", "WK", "WKS", "WEEK", "WEEKS"), 7 / 365),
    (("D", "DAY", "DAYS"), 1 / 365),
)
_UNSURE_UNITS = ("M", "W", "D")  # letters that are also sexes: male, weiblich, divers
_FOLLOW_UP = 10  # years that may lie between two rows whose times are not known


_MALE = (
    "m", "male", "man", "boy", "mr", "h", "homme", "hombre", "masculin", "masculino", "m\u00e4nnlich", "maennlich",
    "mann", "herr", "uomo", "maschio", "homem", "mannelijk", "\u043c", "\u043c\u0443\u0436",
    "\u043c\u0443\u0436\u0441\u043a\u043e\u0439", "\u7537", "\u7537\u6027",
)  # fmt: skip
_FEMALE = (
    "f", "female", "w", "woman", "girl", "mrs", "ms", "femme", "femenino", "f\u00e9minin", "mujer", "weiblich",
    "frau", "donna", "femmina", "feminino", "mulher", "vrouw", "vrouwelijk", "\u0436", "\u0436\u0435\u043d",
    "\u0436\u0435\u043d\u0441\u043a\u0438\u0439", "\u5973", "\u5973\u6027",
)  # fmt: skip


class BadCell(ValueError):
    """A cell whose value cannot be used; the message is the reason under which its row is quarantined."""


def has_controls(value: str) -> bool:
    """Whether a text holds control characters, line breaks included."""
    return any(unicodedata.category(char) == "Cc" for char in value)


def text(cell: str) -> str | None:
    """The text of a cell on one line; None where it holds no value."""
    plain = " ".join(unicodedata.normalize("NFC", cell).strip(HIDDEN).split())
    return None if _is_no_value(plain.casefold()) or not plain.strip("#") else plain


def _is_no_value(word: str) -> bool:
    """Whether a folded text stands for no value, also in brackets, with a full stop, several times, or as a float."""
    if word in MISSING or _NO_VALUE.fullmatch(word):
        return True
    bare = re.sub(r"^[<\[({](.*)[>\])}]$", r"\1", word)
    bare = bare.removesuffix(".0").removesuffix(".")
    parts = re.split(r"[/,;|]", bare)
    return (
        bool(bare)
        and bare != word
        and bare in MISSING
        or len(parts) > 1
        and len(set(parts)) == 1
        and parts[0] in MISSING
    )


def has_thousands(column: Iterable[str]) -> bool:
    """Whether a point in the ids of a column may separate thousands, as in German: then `1.000` may be 1000, not 1.

    Args:
        column: All cells of the column, each once or more.
    """
    long = pointed = False
    for cell in column:
        plain = _plain(cell)
        long |= re.fullmatch(r"[1-9]\d{3,}", plain) is not None
        pointed |= re.fullmatch(_POINTED, plain) is not None
    return long and pointed


def identifier(cell: str, thousands: bool = False) -> str:
    """The id in a cell, so that equal ids are equal texts.

    Args:
        cell: The cell.
        thousands: See `has_thousands`; then `1.000` stays as it is, for `suspicious` to report.

    Raises:
        BadCell: There is none, or it is damaged. The reason never holds an id.
    """
    plain = _plain(cell)
    if not plain:
        raise BadCell("is empty")
    if text(plain) is None or _INFINITE.fullmatch(plain) or re.fullmatch(r"-\d+(\.0*)?", plain):
        raise BadCell(f"'{plain}' stands for a missing value")
    if plain.casefold() in _TRUTH:
        raise BadCell(f"'{plain}' is a truth value, not an id")
    if _EXPONENT.fullmatch(plain):
        raise BadCell("an id with an exponent, such as 1.23E+15: a spreadsheet has cut its digits off")
    if _THOUSANDS.fullmatch(plain):
        raise BadCell("an id with thousands separators, such as 1,234")
    if _DATE.fullmatch(plain):
        raise BadCell("an id that is a date: a spreadsheet makes dates of ids such as 1-2")
    if has_controls(plain) or len(plain) > 200:
        raise BadCell("an id with line breaks, control characters or more than 200 characters")
    whole = _WHOLE.fullmatch(plain)
    if whole is None or (thousands and re.fullmatch(_POINTED, plain)):
        return plain
    if whole[2] and len(whole[1].lstrip("0")) > _EXACT:
        raise BadCell(f"an id of more than {_EXACT} digits that became a float, which cuts digits off")
    return whole[1]


def suspicious(ids: Iterable[str]) -> dict[str, str]:
    """Ids of one column that cannot be trusted beside the others -> the reason, which never holds an id."""
    known = set(ids)
    whole = {name for name in known if name.isdecimal()}
    odd = {name for name in known if _ODD_AMONG_NUMBERS.fullmatch(name)}
    found: dict[str, str] = {}
    if len(whole) * 2 > len(known - odd):
        found |= dict.fromkeys(odd, "an id that is a number of another form among whole numbers")
    code = {name for name in whole if re.fullmatch("9{3,}", name)}
    if code and max((len(name.lstrip("0")) for name in whole - code), default=9) < min(map(len, code)):
        found |= dict.fromkeys(code, "an id of nines among shorter ones: a code for a missing value")
    long = {name for name in whole if len(name) > _EXACT}
    if len(long) >= _ENOUGH and all(not name[_EXACT:].strip("0") for name in long):
        reason = f"all ids of more than {_EXACT} digits end in zeros: a spreadsheet has cut their digits off"
        found |= dict.fromkeys(long, reason)
    reason = "ids that differ in hyphens or other marks, or in letters that look alike, only: perhaps one patient"
    found |= _alike(known, _without_marks, reason)
    found |= _alike(known, lambda name: name.replace(".", "") if re.fullmatch(_POINTED, name) else name, reason)
    reason = "ids that differ in leading zeros, case or blanks only: perhaps one patient"
    return found | _alike(known, lambda name: re.sub(r"(?<!\d)0+(?=\d)|\s", "", name.casefold()), reason)


def _alike(known: Iterable[str], spelling: Callable[[str], str], reason: str) -> dict[str, str]:
    """Ids of which another has the same spelling -> the reason."""
    same: dict[str, list[str]] = defaultdict(list)
    for name in known:
        same[spelling(name)].append(name)
    return {name: reason for key, names in same.items() if key and len(names) > 1 for name in names}


def _without_marks(name: str) -> str:
    """Letters and digits alone, and one mark between two digits: without it, `P1-2` would be `P12`."""
    if name.isascii() and name.isdecimal():
        return name.lstrip("0") or name[-1:]
    folded = name.casefold().translate(_LATIN)
    # vowel signs of many scripts are no letters to Python, but part of a name
    bare = "".join(char if char.isalnum() or unicodedata.category(char) in ("Mn", "Mc") else " " for char in folded)
    return re.sub(r"(?<!\d)0+(?=\d)|\s", "", re.sub(r"(?<=\d) +(?=\d)", "-", bare))


def number(cell: str, unit: str, largest: float) -> float | None:
    """The number in a cell; None where it holds no value.

    Args:
        cell: The cell.
        unit: What it counts, for the message.
        largest: What its absolute value cannot exceed.

    Raises:
        BadCell: It is something else than a number.
    """
    plain = (text(cell) or "").replace("\u2212", "-")
    if not plain or _INFINITE.fullmatch(plain):
        return None
    if not _NUMBER.fullmatch(plain):
        raise BadCell(f"'{plain[:40]}' is no number of {unit}")
    value = float(plain)
    if abs(value) > largest:
        raise BadCell(f"'{plain[:40]}' is more than {largest:,.0f} {unit}: perhaps a date that became a number")
    return value


def label(cell: str) -> str | None:
    """The label in a cell, such as a diagnosis; None where it holds no value.

    Raises:
        BadCell: It is a number, a date or a truth value.
    """
    plain = text(cell)
    if plain is None:
        return None
    if plain.casefold() in _TRUTH or _DATE.fullmatch(plain) or not any(char.isalpha() for char in plain):
        raise BadCell(f"'{plain[:40]}' is a number, a date or a truth value")
    return plain


def file_name(cell: str) -> str:
    """The name of a file in a cell, in NFC.

    Raises:
        BadCell: There is none, or it holds line breaks or other control characters.
    """
    plain = unicodedata.normalize("NFC", cell).strip(HIDDEN).strip()
    if not plain:
        raise BadCell("is empty")
    if text(plain) is None:
        raise BadCell(f"'{plain}' stands for a missing value")
    if has_controls(plain):
        raise BadCell("a file name with line breaks or other control characters")
    return plain


@dataclass(frozen=True, slots=True)
class Person:
    """What one row says of its patient, as the cells have it; `days` is the time of the row, if it is known."""

    patient: str
    sex: str = ""
    age: str = ""
    birth: str = ""
    days: float | None = None


def shared_ids(people: Iterable[Person]) -> dict[str, str]:
    """Ids that stand for two people -> the reason, which never holds the id."""
    seen: dict[str, list[Person]] = defaultdict(list)
    for person in people:
        seen[person.patient].append(person)
    found = {}
    for patient, own in seen.items():
        reason = _contradiction(own)
        if reason:
            found[patient] = f"one patient id with {reason}: two people, or a wrong cell"
    return found


def _contradiction(own: Sequence[Person]) -> str:
    sexes = {sex for person in own if (sex := _sex(person.sex))}
    if {"female", "male"} <= sexes or len(sexes - {"female", "male"}) > 1:
        return "two sexes"
    births = {found[0] for person in own if (found := re.search(rf"{_YEAR}", person.birth))}
    if len(births) > 1:
        return "two years of birth"
    ages = [(*age, person.days) for person in own if (age := _age(person.age)) is not None]
    return "two ages" if _ages_differ(ages) else ""


def _ages_differ(ages: Sequence[tuple[float, float, float | None]]) -> bool:
    """Whether two ages are further apart than the time between them and the slack explain.

    In one pass over the rows in the order of time: a later 365 x age - days may not be above an earlier one by more
    than the slack, nor an earlier 365 x age + days above a later one.

    Args:
        ages: The least and the greatest age in years that a row can mean, and its days or None. Of two spans, the ages
            that are closest count.
    """
    lows, highs = [low for low, _, _ in ages], [high for _, high, _ in ages]
    undated = [(low, high) for low, high, days in ages if days is None]
    allowed = _FOLLOW_UP + _AGE_SLACK
    if any(max(lows) - high > allowed or low - min(highs) > allowed for low, high in undated):
        return True
    least, most = math.inf, -math.inf
    slack = 365 * _AGE_SLACK + 1e-6  # rounding
    for days, low, high in sorted((days, low, high) for low, high, days in ages if days is not None):
        least, most = min(least, 365 * high - days), max(most, 365 * low + days)
        if 365 * low - days - least > slack or most - (365 * high + days) > slack:
            return True
    return False


def _sex(cell: str) -> str:
    plain = (text(cell) or "").casefold().rstrip(".*")
    if plain in _MALE:
        return "male"
    if plain in _FEMALE:
        return "female"
    return "" if plain in ("u", "o", "other") else plain.removesuffix(".0")


def _age(cell: str) -> tuple[float, float] | None:
    """The least and the greatest age in years that a cell can mean; None for a word: only what is sure counts.

    `40-49` and `90+` are spans. The `006M` of DICOM are months; `6M` may also be a man of 6, so it is a span of both.
    """
    plain = (text(cell) or "").upper().replace("\u2013", "-")
    span = re.fullmatch(r"(\d{1,3})\s*(?:-\s*(\d{1,3})|\+)\s*(Y(EARS?)?)?", plain)
    if span:
        least, greatest = float(span[1]), float(span[2] or _LIFE)
        return (least, greatest) if least <= greatest else None
    found = re.fullmatch(r"(\d{1,3}(?:\.\d+)?)\s*([A-Z]*)", plain)
    years = None if found is None else next((years for units, years in _AGE_UNITS if found[2] in units), None)
    if found is None or years is None:
        return None
    age = float(found[1])
    unsure = found[2] in _UNSURE_UNITS and len(found[1]) < 3
    return age * years, age if unsure else age * years


def _plain(cell: str) -> str:
    """An id as it was meant, without what surrounds it."""
    return _unwrapped(_typed(unicodedata.normalize("NFKC", cell).strip(HIDDEN)).strip())


def _typed(text: str) -> str:
    """Text as a keyboard would give it: nothing invisible, `-` for every dash, ASCII digits."""
    if text.isascii():
        return text
    plain = ""
    for char in text:
        category = unicodedata.category(char)
        if category == "Cf" or _INVISIBLE.match(char):
            continue
        digit = unicodedata.decimal(char, None)
        plain += "-" if category == "Pd" or char == "\u2212" else char if digit is None else str(digit)
    return plain


def _unwrapped(cell: str) -> str:
    """Without what makes a spreadsheet take a cell for text: `="1"`, `'1`; and the quotation marks of bytes."""
    found = re.fullmatch(r"=?\"(.*)\"|'(.*?)'?|b'(.*)'", cell, re.DOTALL)
    return (found[1] or found[2] or found[3] or "").strip() if found else cell
