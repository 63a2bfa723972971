"""The records that stages pass to each other: Study, Sample, Answer, Score.

The order is source -> Study -> abilities -> Sample -> shards -> checkpoint -> Answer -> Score. All are frozen
dataclasses of plain values, so that they cross process borders and compare by value.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from typing import Any

ABILITIES = ("temporal", "reasoning", "comparison", "coreference", "composed", "single")
SPLITS = ("train", "dev", "test")
LETTERS = "ABCDEFGH"
IMAGE = "<image>"
_AS_JSON = json.JSONEncoder(ensure_ascii=False).encode  # `json.dumps` makes an encoder for each call


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding on one image. `size` is `small | medium | large`, `margin` is `smooth | spiculated`."""

    name: str
    size: str | None = None
    side: str | None = None
    margin: str | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """What became of a finding between an earlier image of the patient and this one.

    `state` is `improved`, `stable` or `worse`; `since` is the path of the earlier image.
    """

    finding: str
    state: str
    since: str


@dataclass(frozen=True, slots=True)
class Pair:
    """A question on one image with its answer, as the source has it; `kind` is `open`, or `closed` (yes or no)."""

    question: str
    answer: str
    kind: str = "open"


@dataclass(frozen=True, slots=True)
class Study:
    """One image of one patient at one time point, as a source delivers it.

    Attributes:
        source: Data set, such as `phantom-chest` or `covid-chestxray`.
        patient: Patient identifier, unique within `source`.
        image: Path of the image within the source's root; a part of a file is named by its fragment.
        modality: `X-ray`, `CT`, `MRI`, `mammography`, `fundus`, `ultrasound`, `dermoscopy`; others for figures.
        time: Days since the patient's first visit; None where unknown.
        view: Projection or plane (`PA`, `AP`, `L`, `CC`, `MLO`, `axial`, `coronal`); None where it has none.
        laterality: `left` or `right` for a paired organ, else None.
        findings: What the image shows; empty means clear.
        rating: BI-RADS or RANO class where the source gives one.
        caption: One sentence, for single-image and composed questions.
        held_out: The whole domain is kept out of training.
        exam: Images that are read together share it; None: those of equal time do.
        age: Years at the time of the image.
        sequence: MRI sequence (`T1`, `CT1` after contrast, `T2`, `FLAIR`).
        slice: Number of the slice; slices of equal number of one patient show the same place.
        outcome: What a later proof says of the exam: `malignant`, `unclear`, `high-risk`, `benign`, `negative`.
        year_after: What the records say of a breast in the year after the exam: `worse` (cancer) or `stable`.
        changes: Since earlier images of the patient.
        pairs: Questions that the source asks on this image alone.
    """

    source: str
    patient: str
    image: str
    modality: str
    time: float | None = None
    view: str | None = None
    laterality: str | None = None
    findings: tuple[Finding, ...] = ()
    rating: str | None = None
    caption: str | None = None
    held_out: bool = False
    exam: str | None = None
    age: float | None = None
    sequence: str | None = None
    slice: int | None = None
    outcome: str | None = None
    year_after: str | None = None
    changes: tuple[Change, ...] = ()
    pairs: tuple[Pair, ...] = ()


@dataclass(frozen=True, slots=True)
class Sample:
    """One question on zero to eight images, with its gold answer.

    Attributes:
        ability: One of `ABILITIES`.
        family: The kind of question within the ability, such as `larger` or `typeB`.
        source: Data set of the images.
        split: `train`, `dev` or `test`.
        held_out: Whether it measures transfer to a domain that training never shows.
        patients: Patients of the images, without repeats, in the order of the images.
        images: Image ids in prompt order: `sha256:HEX` of the original file, or its source path where absent.
        paths: Source paths, parallel to `images`.
        question: The question without image placeholders and without its options.
        options: Option texts in order A, B, ...; empty for an open question.
        answer: Gold text; for a closed question the text of the gold option.
        gold: Indices into `options` that are right (two where the same text stands under two letters).
        swapped: Indices that are right once every image has moved one place on (image 1 becomes image 2, ..., the last
            becomes image 1); none of them is in `gold`. Empty where that is undefined or changes no answer.
    """

    ability: str
    family: str
    source: str
    split: str
    held_out: bool
    patients: tuple[str, ...]
    images: tuple[str, ...]
    paths: tuple[str, ...]
    question: str
    options: tuple[str, ...]
    answer: str
    gold: tuple[int, ...] = ()
    swapped: tuple[int, ...] = ()

    @property
    def id(self) -> str:
        """Digest of image ids, question and options: resizing or renaming a file changes nothing."""
        text = _AS_JSON([self.images, self.question, self.options])
        return hashlib.sha256(text.encode()).hexdigest()[:20]

    @property
    def prompt(self) -> str:
        """The question with its options; no image placeholders."""
        return with_options(self.question, self.options)

    @property
    def choices(self) -> tuple[str, ...]:
        """Each option as a model should answer it: `B: text`; none for an open question."""
        return lettered(self.options)

    @property
    def target(self) -> str:
        """The gold answer as a model should write it: `B: text` for a closed question, the text for an open one."""
        return f"{LETTERS[self.gold[0]]}: {self.answer}" if self.options else self.answer


@dataclass(frozen=True, slots=True)
class Answer:
    """A model's answer to one sample under one probe.

    Attributes:
        sample: `Sample.id`.
        probe: `none` (as trained), `blind` (no images, no markers), `grey` (mean images) or `swap` (images moved on).
        key: Digest of weights, rendered prompt, image pixels, and of how it was asked.
        text: The raw generated text; empty where likelihoods were compared.
        choice: Index of the extracted or likeliest option, None for open questions and unparsed text.
        status: `parsed`, `unparsed` or `error`; open questions are `parsed` unless empty.
        error: Why the status is `error`.
        cut: Whether the limit of new tokens ended it; False where an earlier version, which did not know, stored it.
        letters: Log-likelihood of each option's letter as the begin of the answer; empty for a generated answer.
        texts: Of each option's text as the whole answer; empty also where a server gives none.
        tokens: Over how many tokens each of `texts` is summed.
    """

    sample: str
    probe: str
    key: str
    text: str
    choice: int | None
    status: str
    error: str = ""
    cut: bool = False
    letters: tuple[float, ...] = ()
    texts: tuple[float, ...] = ()
    tokens: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Score:
    """One line of a leaderboard.

    Attributes:
        group: What was scored: `held_in`, `held_out`, `ability:temporal`, `task:clean`, `source:phantom-chest`, ...
        metric: `accuracy`, `likelihood`, `likelihood_text` or `likelihood_norm` (closed), `token_f1`, `bleu` or
            `rouge_l` (open); all 0..1.
        value: Mean over the group.
        low: Lower end of the patient-clustered 95% interval; None under 20 patients.
        high: Upper end, likewise.
        blind: The same metric without images; None where the probe was not run.
        chance: Mean of right letters / options for closed questions, else None.
        n: Items.
        patients: Clusters.
        unparsed: Items whose answer could not be read.
        errors: Items on which the engine failed; they are in no score.
        swap: Share of the items with `Sample.swapped` answered right both ways; None for open questions, without such
            items, and where the probe `swap` was not run.
        swap_low: Lower end of its interval; None under 20 patients.
        swap_high: Upper end, likewise.
        swap_n: Items asked both ways; None where the probe was not run.
        swap_patients: Clusters among them, likewise.
        cut: Items whose answer was cut at the limit of new tokens; they are scored as they are.
        unparsed_cut: Those of `unparsed` that were cut: the answer may stand in what was not written.
    """

    group: str
    metric: str
    value: float
    low: float | None
    high: float | None
    blind: float | None
    chance: float | None
    n: int
    patients: int
    unparsed: int = 0
    errors: int = 0
    swap: float | None = None
    swap_low: float | None = None
    swap_high: float | None = None
    swap_n: int | None = None
    swap_patients: int | None = None
    cut: int = 0
    unparsed_cut: int = 0


@dataclass(frozen=True, slots=True)
class BadRow:
    """A quarantined row: its file, row number, key and the reason."""

    file: str
    row: int
    key: str
    reason: str


def with_options(question: str, options: Sequence[str]) -> str:
    """A question with its options, one per line, as Med-MIM prints them."""
    return "\n".join([question, *lettered(options)])


def lettered(options: Sequence[str]) -> tuple[str, ...]:
    """Each option behind its letter: `B: text`."""
    return tuple(f"{LETTERS[i]}: {text}" for i, text in enumerate(options))


_OPTION = re.compile(r"^([A-Z])\s*[:.)]\s*(.*)$")


def split_options(text: str) -> tuple[str, tuple[str, ...]]:
    """Split a published question into its stem and its options.

    Options are the trailing lines `A: ...`, `B: ...`, lettered from A without a gap. Anything else is the stem.
    """
    lines = text.rstrip("\n").split("\n")
    for start in reversed(range(len(lines))):  # the last run of letters: a stem may hold a line like `A. baumannii`
        options: list[str] = []
        for line in lines[start:]:
            match = _OPTION.match(line)
            if match and len(options) < len(LETTERS) and match[1] == LETTERS[len(options)]:
                options.append(match[2].strip())
            elif options:  # an option that runs over several lines
                options[-1] = f"{options[-1]}\n{line}".rstrip()
            else:
                break
        if len(options) > 1:
            return "\n".join(lines[:start]).strip(), tuple(options)
    return text.strip(), ()


def to_published(sample: Sample) -> dict[str, Any]:
    """Write a Sample as a row of the published Med-MIM JSON (repository README, `conversation` layout)."""
    return {
        "id": sample.id,
        "images": list(sample.paths),
        "conversation": [
            {"role": "user", "content": IMAGE * len(sample.images) + sample.prompt},
            {"role": "assistant", "content": sample.target},
        ],
        "source": f"{sample.source}_{sample.family}",
    }


def to_json(record: Any) -> dict[str, Any]:
    """A record as plain JSON types (tuples become lists)."""
    return asdict(record)


def from_json(kind: type, row: Mapping[str, Any]) -> Any:
    """The inverse of `to_json` for the flat records Sample, Answer and Score."""
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in row.items()})


def is_utf8(text: str) -> bool:
    """Whether a text can be written: half a surrogate pair, which JSON can hold, cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_writable(record: Any) -> bool:
    """Whether all texts of a record, tuples and records in it included, can be written."""
    if isinstance(record, str):
        return is_utf8(record)
    if isinstance(record, tuple):
        return all(map(is_writable, record))
    return not is_dataclass(record) or all(is_writable(getattr(record, field.name)) for field in fields(record))


def escaped(text: str) -> str:
    """The text, with an escape for every character that cannot be written; any other text unchanged."""
    return text.encode("utf-8", "backslashreplace").decode()


def digest_of(parts: Iterable[str]) -> str:
    """SHA-256 over strings, each prefixed with its length, so that no two lists collide."""
    sha = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        sha.update(b"%d:" % len(data))
        sha.update(data)
    return sha.hexdigest()
