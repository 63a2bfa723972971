"""Finds identifiers of people in the texts of a data set: dates, phones, addresses of mail, record numbers, names.

Radiology is full of numbers (sizes, doses, classes, years, counts of cells), so each pattern asks for the form that
only an identifier has. Names are found where a text marks them as names; those of a DICOM header are compared when the
data set is built, where the header is at hand (`sources.dicom_tags`). benchmarks/identifiers.py measures precision and
recall on identifiers that another generator plants; docs/data.md has the figures.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import PurePosixPath

from medmim.data.audit.check import Check, Row
from medmim.data.sources.published_rows import file_of
from medmim.errors import require
from medmim.redact import shape
from medmim.sample import Sample

KINDS = ("date", "phone", "mail", "number", "own", "name")
ABOUT = {
    "date": "rows with a date, of a day or a month",
    "phone": "rows with a phone number",
    "mail": "rows with an address of mail",
    "number": "rows with a number of a record, an examination or a person",
    "own": "rows whose text holds the identifier of their own patient or study",
    "name": "rows with a person's name, by title or by what introduces it",
}
LIMIT = "max_identifiers"
_REGIONS = ("US", "GB", "DE", "FR", "ES", "IT", "NL", "CH", "AT", "BR", "IN", "CN", "JP", "AU")

_MONTHS = {
    name: number
    for number, names in enumerate(
        (
            "january jan januar", "february feb februar", "march mar märz", "april apr", "may mai", "june jun juni",
            "july jul juli", "august aug", "september sept sep", "october oct oktober okt", "november nov",
            "december dec dezember dez",
        ),
        1,
    )
    for name in names.split()
}  # fmt: skip
_LONGEST_FIRST = sorted(_MONTHS, key=len, reverse=True)
# `march` and `may` are verbs, OCT and MAR are methods: in small or capital letters these need a day and a year.
_ONE_MEANING = [name for name in _LONGEST_FIRST if len(name) > 4 and name != "march"]
_WRITTEN = [*map(str.capitalize, _LONGEST_FIRST), *_ONE_MEANING, *map(str.upper, _ONE_MEANING), "JUNE", "JULY", "MARCH",
            "JAN", "FEB", "APR", "JUN", "JUL", "AUG", "MAY", "NOV", "DEC"]  # fmt: skip
_MONTH = rf"(?P<month>{'|'.join(_WRITTEN)})\b\.?"
_ANY_MONTH = rf"(?i:{'|'.join(_LONGEST_FIRST)})(?![^\W\d_])\.?"
_YEAR = r"(?:19|20)\d\d"
_BEGIN, _END = r"(?<![^\W_])(?<![./:-])", r"(?![^\W_]|[/-]|\.\d)"  # names of files join with `_`
_DATES = tuple(
    re.compile(_BEGIN + form + _END)
    for form in (
        rf"(?P<y>{_YEAR})(?P<s>[-/.])(?P<m>\d\d?)(?P=s)(?P<d>\d\d?)",
        rf"(?P<a>\d\d?)(?P<s>[-/.])(?P<b>\d\d?)(?P=s)(?P<y>{_YEAR})",
        r"(?P<a>\d\d?)/(?P<b>\d\d?)/(?P<y>\d\d)",
        r"(?P<a>\d\d)(?P<s>[-.])(?P<b>\d\d)(?P=s)(?P<y>\d\d)",
        rf"(?P<y>{_YEAR})(?P<m>\d\d)(?P<d>\d\d)(?:[T_ -]?(?:[01]\d|2[0-3])[0-5]\d(?:[0-5]\d(?:\.\d{{1,6}})?)?)?",
    )
)
_IN_PATH = re.compile(rf"(?<!\d)(?<!\d[-./])(?P<y>{_YEAR})-(?P<m>\d\d)-(?P<d>\d\d)(?:T\d\d(?::?\d\d)*|(?!\d|[-./]\d))")
_NO_UNIT = r"(?![.,]\d|\s*%|\s*(?i:mm|cm|m?g|ml)\b)"
_NAMED_DATES = tuple(
    re.compile(form)
    for form in (
        rf"\b{_MONTH}[- ]?(?i:the )?(?P<d>\d\d?)(?i:st|nd|rd|th)?(?:,? ?-?{_YEAR}|,? '?\d\d)?\b{_NO_UNIT}",
        rf"{_BEGIN}(?P<d>\d\d?)(?i:st|nd|rd|th|\.)?[- ]?(?i:of )?{_MONTH}(?:[- ,]*(?:{_YEAR}|'?\d\d(?!\d)))?",
        rf"\b{_MONTH},?[- /]?(?i:of )?{_YEAR}\b",
        rf"{_BEGIN}{_YEAR}[- ]{_MONTH}(?:[- ]\d\d?)?",
        rf"\b{_ANY_MONTH}[- ]?(?i:the )?(?P<d>\d\d?)(?i:st|nd|rd|th)?(?:,|\b) ?-?(?:{_YEAR}|'\d\d)\b",
        rf"{_BEGIN}(?P<d>\d\d?)(?i:st|nd|rd|th|\.)?[- ]?(?i:of )?{_ANY_MONTH}"
        rf"(?:[- ,]*{_YEAR}|[- ]?'\d\d|-\d\d)(?!\d)",
    )
)
_AT, _DOT = r"(?:@| at (?=\S+ dot )|\[at\]|\(at\))", r"(?:\.| dot )"
_MAIL = re.compile(rf"(?<![\w.+-])[\w.+-]+ ?{_AT} ?[\w-]+(?:{_DOT}[\w-]+)*{_DOT}[A-Za-z]{{2,}}\b")
_KEYED = re.compile(
    r"""\b(?:
        MRN | SSN | UR[ ]?(?:number|no)
        | (?:medical[ ]record|accession|NHS|social[ ]security)(?:[ ](?:number|no|num|id))?
        | (?:patient|pat|pt|person|subject)(?:'s)?[ .-]{1,2}(?:id|identifier|number|no|nr)
        | acc(?:[ .]{1,2}(?:number|no|num))?
        | (?:hospital|unit|chart|case|study|exam|examination|order|visit|encounter|account|specimen|insurance|member)
          [ ](?:number|no|u?id)
        | (?:Fall|Patienten|Auftrags)-?(?:nummer|nr|id)
    )\b[\s.:\#=]*(?:is[ ]|was[ ]|of[ ])?\(?
    (?P<value>\#?[A-Za-z]{0,5}[-/ ]?\d[\dA-Za-z]*(?:[-/. ]\d[\dA-Za-z]*)*)""",
    re.IGNORECASE | re.VERBOSE,
)
_KEYED_DIGITS = 4
_ID = re.compile(
    r"\b(?:ID|Id|id)\b[\s.:#=]*(?:is |was )?(?P<value>[A-Za-z]{0,4}[-/]?\d[\dA-Za-z]*(?:[-/.]\d[\dA-Za-z]*)*)"
)
_ID_DIGITS = 5
_NEAR = re.compile(
    r"\b(?:files?|exams?|examinations?|study|studies|records?|scans?|films?)\s+#?"
    r"(?P<value>[A-Z]{0,4}-?\d[\dA-Z]*(?:[-./]\d+)*)(?!\w|\s*(?:mm|cm|ml|patients|participants|subjects)\b)",
    re.IGNORECASE,
)
_NEAR_DIGITS = 6
_YEARS = re.compile(rf"{_YEAR}[-/.]{_YEAR}")
_SOCIAL = re.compile(rf"{_BEGIN}\d{{3}}-\d{{2}}-\d{{4}}(?![\w-]|\.\d)")
_UID = re.compile(r"(?<![\w.])[0-2](?:\.\d+){6,}(?![\w.]*\w)")
_LETTERED = re.compile(r"(?<![\w./:^-])(?P<prefix>[A-Za-z]{1,5})(?P<between>[-_#]?)(?P<digits>\d{6,})(?!\w|-\d|\.\d)")
_COUNTED = (
    r"%|/|[x×]|(?:copies|cells|cpm|IU|U/|units?|Hz|Da|bp|cm|mm|ml|kg|persons?|people|patients?|cases|deaths|dollars|USD"
    r"|EUR)\b"
)
_BARE = re.compile(rf"(?<![\w./:^,×-])#?(?P<digits>\d{{7,12}})(?!\w|[.,/]\d|-\d|\s*(?:{_COUNTED}))")
_GROUPED = re.compile(r"(?<![\w./:-])(?=[\w-]*\d)[A-Z0-9]{2,}(?:-[A-Z0-9]{2,}){1,3}(?![\w-]|\.\d)")
_GROUPED_DIGITS = 6
_RANGE = re.compile(r"\d{1,5}-\d{1,5}")
# Prefixes of what is published: trials, articles, genes, variants, sequences, chemicals, norms.
_PUBLISHED = re.compile(
    r"(?:nct|pmc|pmid|rs|cosm|cosv|gse|gsm|gds|srr|srx|srp|err|prj|ens[gtp]|isrctn|eudract|chictr|jprn|umin|drks|actrn"
    r"|ctri|chembl|cid|isbn|issn|hgnc|omim|orpha|uniprot|afrr|doi|iso|astm|us|ep|wo|jp|cn)",
    re.IGNORECASE,
)
_AFTER_PUBLISHED = re.compile(
    r"(?:pmid|pmcid|pubmed|omim|orpha|isbn|issn|doi|trial|registration|registered|identifier|clinicaltrials\.gov|chictr"
    r"|drks|grant|award|project|patent|ref(?:erence)?|lot|cat(?:alog(?:ue)?)?)(?: (?:number|no\.?|id))?[\s:#.(]*$",
    re.IGNORECASE,
)
_PHONE = r"\b(?:tel(?:ephone|efon)?|phone|mobile|fax|call(?:ed)?|contact(?:ed)?|pager|reach(?:ed|able)?|dial)\b"
_SAYS_PHONE = re.compile(_PHONE, re.IGNORECASE)
_CALLED = re.compile(rf"{_PHONE}\W{{0,3}}(?:\w+\W+){{0,3}}$", re.IGNORECASE)
_NANP = re.compile(r"(?:\+?1[-. ]?)?(?:\(\d{3}\) ?|\d{3}[-. ])\d{3}[-. ]\d{4}(?: ?(?:x|ext\.?) ?\d+)?")
_PHONE_DIGITS = re.compile(r"\d(?:[^\dA-Za-z]{0,3}\d){6}")
_PART = r"[A-ZÀ-Þ](?:[a-zß-ÿ]+|['’][A-Z][a-z]+)(?:[-'’][A-Z]?[a-zß-ÿ]+)*"
_CAPITALS = r"[A-ZÀ-Þ](?:['’][A-ZÀ-Þ])?[A-ZÀ-Þ]+(?:[-'’][A-ZÀ-Þ]{2,})*"
_INITIALS = r"(?:[A-Z]\.[ -]?){1,3}"
_OF = r"(?:(?:van|von|de|der|di|da|la|del|den|bin|al|el)\s+)*"
_NAME = rf"{_PART}(?:\s+(?:[A-Z]\.?\s+)?{_OF}{_PART}){{0,2}}"
_TITLE = r"\b(?:Dr|Mr|Mrs|Ms|Prof|Professor|Doctor|Herr|Frau|Mme|Nurse|Radiologist)\b"
_TITLE_IN_CAPITALS = r"\b(?:DR|MR|MRS|MS|PROF)\."  # without the full stop, MR is an image, and DR and MS are diseases
_ROLE = (
    r"(?i:\b(?:patient(?:'s)? name|name of (?:the )?patient|patient,? (?:named|called)|name|physician"
    r"|(?:referred|reported|dictated|signed|read|reviewed|verified) by|technologist|operator|patient)\b"
    r"(?: is| was|:|,)?\s+)"
)
_SIGNED = (
    r"(?i:\b(?:patient(?:'s)? name|name of (?:the )?patient|(?:referring|attending|requesting|ordering) physician"
    r"|(?:referred|reported|dictated|signed|read|reviewed|verified|requested) by)\b(?: is|:)?\s+)"
)
_CALLED_SO = (  # what only a name follows
    r"(?i:\b(?:patient(?:'s)? name|name of (?:the )?patient|(?<![^\W_] )(?:sur|last |family |first )?name)\b"
    r"\s*(?:is|was|:|=)\s*)"
)
_ROLES = "patient|pt|physician|technologist|radiologist|operator|surgeon|consultant|reader|author"
_WITH_COLON = (
    rf"(?i:\b(?:{_ROLES}"
    r"|(?:referred|reported|dictated|signed|read|reviewed|verified|requested|approved|authenticated) by)\s*:\s*)"
)
_DEGREE = r"(?:M\.?D\b|Ph\.?D\b|D\.O\.|FRCR\b|FRCPC\b|MBBS\b|R\.?N\b|R\.?T\.?\(R\))"
_NAMES = tuple(
    re.compile(form)
    for form in (
        rf"{_CALLED_SO}(?P<name>(?:{_INITIALS})?[^\W\d_][\w'’-]+"
        rf"(?:(?:, ?|\s){_OF}(?:[A-ZÀ-Þ][\w'’-]*|[a-z]{{3,}}(?=\W*$))\.?){{0,2}})",
        rf"{_WITH_COLON}(?P<name>(?:{_INITIALS})?(?:{_CAPITALS}|{_PART})(?:(?:,\s?|\s)(?:{_CAPITALS}|[A-Z]\b)){{0,2}})",
        rf"{_SIGNED}(?P<name>{_INITIALS}(?:{_PART}|{_CAPITALS}))\b",
        rf"{_SIGNED}(?P<name>{_CAPITALS}(?:,?\s(?:{_CAPITALS}|[A-Z]\b)){{0,2}})\b",
        rf"(?:{_TITLE}\.?|{_TITLE_IN_CAPITALS})\s+(?P<name>(?:{_INITIALS})?(?:{_CAPITALS}|{_PART})(?:\s{_CAPITALS})?)",
        rf"\b(?P<name>(?:{_INITIALS}|{_PART}\s)(?:[A-Z]\.?\s)?(?:{_PART}|{_CAPITALS})),?\s{_DEGREE}",
        rf"{_SIGNED}(?P<name>{_PART})\b(?!\s+[a-z])",
        rf"{_TITLE}\.?\s+(?:med\.\s+|Dr\.\s+)?(?P<name>(?:[A-Z]\.\s*)*{_NAME})",
        rf"{_ROLE}(?P<name>{_PART}(?:,?\s+[A-Z]\.?)?,?\s+{_OF}{_PART})\b",
        r"(?<![\w^])(?P<name>[A-ZÀ-Þ][\wÀ-ÿ'-]+\^[A-ZÀ-Þ][\wÀ-ÿ'-]*(?:\^[\wÀ-ÿ'-]*)*)",  # as in DICOM
    )
)
_NO_NAME = re.compile(  # what a text with capitals in its headings has where a name could be
    r"\b(?:Images?|Chest|Lungs?|Right|Left|Axial|Coronal|Sagittal|Figure|Panel|Computed|Magnetic|Contrast|The|This"
    r"|These|That|There|With|Without|And|Upper|Lower|Middle|Acute|Chronic|Normal|Bilateral|Radiograph|Ray|Scan"
    r"|Tomography|Resonance|Imaging|Patients?|Please|Follow|He|She|His|Her|It|They|We|In|On|At|For|To|Findings"
    r"|Impression|Has|Had|Was|Were|Is|Are|No|Not|Shows|Showed|Underwent|Presented|From|After|Before|During|History"
    r"|[A-Z]?CT|MRI?|C?XR|PET|US|DR|CR|MG|PA|AP|LAT|MRN|DOB|ID|AI|ICU|ER|ED|MD|RN|AAA|COPD|TB|HIV|COVID|Male|Female"
    r"|Man|Woman|Boy|Girl|Child|Adult|Infant|Unknown|None|Anonym(?:ous|i[sz]ed)|Removed|Redacted|Given|Stated"
    r"|Available|Provided|Withheld|Confidential|Hidden|Radiology|Department|Hospital|Clinic|Staff|Team|Physician"
    r"|Doctor|Date|Time|Age|Sex|Name|Number|Exam|Stable|Alert|Pending|Yes|Which|What|How|Who)\b",
    re.IGNORECASE,
)
_TRIAGE = re.compile(
    r"[@^]|\[at\]|\(at\)| dot |\d[\W_]{0,3}\d[\W_]{0,3}\d[\W_]{0,3}\d"
    r"|(?i:\b(?:Jan|Feb|Mar|Mär|Apr|May|Mai|Jun|Jul|Aug|Sep|Oct|Okt|Nov|Dec|Dez)[a-zä]*\b\.?,? ?-?(?:the )?'?\d)"
    r"|\d\w{0,2}\.?[- ]?(?i:(?:of )?(?:Jan|Feb|Mar|Mär|Apr|May|Mai|Jun|Jul|Aug|Sep|Oct|Okt|Nov|Dec|Dez))"
    rf"|{_TITLE}|{_TITLE_IN_CAPITALS}|{_DEGREE}"
    r"|(?i:name|physician|by|technologist|operator|patient)\b(?: is| was|:|,)?\s+[A-ZÀ-Þ]"
    rf"|(?i:name\s*(?:is|was|:|=)|(?:by|{_ROLES})\s*:|\bid\b)"
)
_TOKEN = re.compile(r"[\w.-]*\w")


@dataclass(frozen=True, slots=True)
class Found:
    """An identifier in a text.

    Attributes:
        kind: One of `KINDS`.
        start: Where it begins.
        end: Where it ends.
    """

    kind: str
    start: int
    end: int


def find(text: str) -> list[Found]:
    """The identifiers in a text, in their order, none within another.

    Args:
        text: Of any length.

    Raises:
        UserError: phonenumbers is not installed.
    """
    if not _TRIAGE.search(text):
        return []
    found = [*_mails(text), *_dates(text), *_phones(text), *_numbers(text), *_names(text)]
    left: list[Found] = []
    for one in sorted(found, key=lambda one: (one.start, -one.end)):
        if not left or one.start >= left[-1].end:
            left.append(one)
    return left


def own(sample: Sample, text: str) -> list[Found]:
    """Where a text of a sample holds the identifiers of its own patients, studies or files."""
    if not any(letter.isdigit() for letter in text):
        return []
    known = {name.lower() for name in _own_names(sample)}
    return [Found("own", at.start(), at.end()) for at in _TOKEN.finditer(text) if at[0].lower() in known]


def checks(samples: Iterable[Sample]) -> list[Check]:
    """A check for each of `KINDS`: how many rows of the data set hold such an identifier.

    Args:
        samples: Of all splits.
    """
    seen: dict[str, list[Found]] = {}  # a wording stands in many rows
    rows: dict[str, list[Row]] = defaultdict(list)
    total = 0
    for sample in samples:
        total += 1
        found: dict[str, list[str]] = defaultdict(list)
        for place, text in texts_of(sample):
            if text not in seen:
                seen[text] = find(text)
            for one in (*seen[text], *own(sample, text)):
                found[one.kind].append(f"{shape(text[one.start : one.end])} in the {place}")
        for kind, texts in found.items():
            rows[kind].append(Row(sample.id, file_of(sample), "; ".join(dict.fromkeys(texts))))
    return [
        Check(f"identifiers/{kind}", ABOUT[kind], len(rows[kind]), of=total, key=LIMIT, rows=tuple(rows[kind]))
        for kind in KINDS
    ]


def of_headers(samples: Sequence[Sample], flagged: Sequence[Mapping[str, str]], headers: int) -> list[Check]:
    """Checks of what the DICOM headers said when the data set was built: names in texts, and BurnedInAnnotation.

    Args:
        samples: Of all splits.
        flagged: The rows of the data set's `flagged.jsonl`; none where no header said anything.
        headers: Images whose header was read; 0 where the data set does not say.
    """
    images = len({path for sample in samples for path in sample.paths})
    note = "" if headers >= images else f"of {headers:,} of {images:,} images, whose DICOM header was read"
    said: dict[str, list[str]] = defaultdict(list)
    for one in flagged:
        said[one["file"]].append(f"{one['key']} {one['reason']}")
    burned: list[Row] = []
    named: list[Row] = []
    for sample in samples if flagged else ():
        for text in dict.fromkeys(text for path in sample.paths for text in said.get(path, ())):
            rows = burned if text.startswith("BurnedInAnnotation") else named
            rows.append(Row(sample.id, file_of(sample), text))
    about = {
        "identifiers/dicom-name": ("rows of images whose DICOM header has a name that a text repeats", named),
        "identifiers/dicom-burned-in": ("rows of images whose DICOM tag BurnedInAnnotation is YES", burned),
    }
    if not headers:
        note = "no DICOM header was read when the data set was built"
        return [Check(name, text, None, note=note) for name, (text, _) in about.items()]
    return [
        Check(name, text, len(rows), key=LIMIT, rows=tuple(rows), note=note) for name, (text, rows) in about.items()
    ]


def texts_of(sample: Sample) -> Iterator[tuple[str, str]]:
    """What holds a text of a sample, and the text."""
    yield "question", sample.question
    for option in sample.options:
        yield "options", option
    if sample.answer not in sample.options:
        yield "answer", sample.answer


def _own_names(sample: Sample) -> Iterator[str]:
    """Patients, and the parts of paths, that are too long to be a number of a finding or an image."""
    for patient in sample.patients:
        if (patient.isdigit() and len(patient) > 4) or (
            not patient.isdigit() and _digits(patient) and len(patient) > 3
        ):
            yield patient
    for path in sample.paths:
        for part in PurePosixPath(path).parts:
            if _digits(part) > 3 and len(part) > 4:
                yield part
                yield part.split(".")[0] if _digits(part.split(".")[0]) > 3 else part


def _digits(text: str) -> int:
    return sum(letter.isdigit() for letter in text)


def _mails(text: str) -> Iterator[Found]:
    return (Found("mail", at.start(), at.end()) for at in _MAIL.finditer(text))


def _dates(text: str) -> Iterator[Found]:
    for form in (*_DATES, _IN_PATH):
        for at in form.finditer(text):
            parts = at.groupdict()
            year = int(parts["y"]) + (2000 if len(parts["y"]) == 2 else 0)
            first, second = (parts["m"], parts["d"]) if "m" in parts else (parts["a"], parts["b"])
            if _is_day(year, int(first), int(second)) or ("a" in parts and _is_day(year, int(second), int(first))):
                yield Found("date", at.start(), at.end())
    for form in _NAMED_DATES:
        for at in form.finditer(text):
            day = at.groupdict().get("d")
            if day is None or 1 <= int(day) <= 31:
                yield Found("date", at.start(), at.end())


def _is_day(year: int, month: int, day: int) -> bool:
    try:
        date(year, month, day)
    except ValueError:
        return False
    return True


def _phones(text: str) -> Iterator[Found]:
    if not _PHONE_DIGITS.search(text):
        return
    phonenumbers = require("phonenumbers", "data")
    for at in _NANP.finditer(text):  # 555-0123 and the like are no valid numbers, and written for one all the same
        if not text[: at.start()][-1:].isalnum() and not text[at.end() :][:1].isdigit():
            yield Found("phone", at.start(), at.end())
    matcher, leniency = phonenumbers.PhoneNumberMatcher, phonenumbers.Leniency.POSSIBLE
    for match in matcher(text, None, leniency):  # with the code of a country
        yield Found("phone", match.start, match.end)
    for region in _REGIONS if _SAYS_PHONE.search(text) else ():
        for match in matcher(text, region, leniency):
            if _CALLED.search(text[: match.start]):
                yield Found("phone", match.start, match.end)


def _numbers(text: str) -> Iterator[Found]:
    for at in _KEYED.finditer(text):
        if _digits(at["value"]) >= _KEYED_DIGITS:
            yield Found("number", at.start("value"), at.end("value"))
    for at in _ID.finditer(text):
        if _digits(at["value"]) >= _ID_DIGITS and not _is_published(text, at.start()):
            yield Found("number", at.start("value"), at.end("value"))
    for at in _NEAR.finditer(text):
        if _digits(at["value"]) >= _NEAR_DIGITS and not _YEARS.fullmatch(at["value"]):
            yield Found("number", at.start("value"), at.end("value"))
    for form in (_SOCIAL, _UID):
        yield from (Found("number", at.start(), at.end()) for at in form.finditer(text))
    for at in _LETTERED.finditer(text):
        if not _PUBLISHED.fullmatch(at["prefix"]) and not _is_published(text, at.start()):
            yield Found("number", at.start(), at.end())
    for at in _BARE.finditer(text):
        if not at["digits"].endswith("000") and not _is_published(text, at.start()):
            yield Found("number", at.start(), at.end())
    for at in _GROUPED.finditer(text):
        enough = _GROUPED_DIGITS + 4 * at[0].replace("-", "").isdigit()  # three sizes have as many
        if _digits(at[0]) >= enough and not _RANGE.fullmatch(at[0]) and not _is_published(text, at.start()):
            yield Found("number", at.start(), at.end())


def _is_published(text: str, start: int) -> bool:
    return _AFTER_PUBLISHED.search(text[:start]) is not None


def _names(text: str) -> Iterator[Found]:
    for form in _NAMES:
        for at in form.finditer(text):
            stop = _NO_NAME.search(at["name"])
            if not stop:
                yield Found("name", at.start("name"), at.end("name"))
            elif stop.start() and at["name"].isupper():  # in capitals, the words after a name look like names
                yield Found("name", at.start("name"), at.start("name") + stop.start() - 1)
