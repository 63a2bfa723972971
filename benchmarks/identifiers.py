"""How many planted identifiers does an audit find, and how much else does it call one? One table, a line a kind.

    python benchmarks/identifiers.py SHARED                 texts and pictures: a minute or two of one core
    python benchmarks/identifiers.py SHARED --pictures 0    texts alone: seconds

The lines `with the list` are of `audit.names`: a list of everybody whose name is planted and of 20,000 others.

SHARED holds `med-mim/` (the published rows) and `covid-chestxray/images/` (real radiographs). Into half of the texts,
one sentence of a report with an identifier is planted; the other half stays as it is. Values are Faker's (en_US, en_GB,
de_DE: names, phones, addresses of mail, social security numbers) and dates in the forms of `_DATES`; the detector in
medmim/data/audit/identifiers.py was written without them. A third of the sentences is in capitals, as old reports are,
and a third has no word that the detector knows. Sentences without an identifier, full of sizes, doses, times, classes
and numbers of trials, are planted too, as traps. Into half of the pictures, lines as viewers burn them in are
drawn: name, number, birth date, day of the examination; the others are the same pictures as they are.

recall: planted identifiers that a finding overlaps. precision: findings that overlap one; in pictures, a finding in a
picture as it is counts as false, though real radiographs hold real ones (the last column lists these: look at them).
"""

import argparse
import io
import json
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from tempfile import NamedTemporaryFile

from faker import Faker
from PIL import Image, ImageDraw, ImageFont

from medmim.data.audit import burned_in, known_names
from medmim.data.audit.identifiers import KINDS, Found, find

_DATES = (
    "%m/%d/%Y", "%d.%m.%Y", "%Y-%m-%d", "%B %d, %Y", "%d %B %Y", "%b %d, %Y", "%d-%b-%Y", "%m/%d/%y", "%B %Y", "%d %b",
    "%Y%m%d", "%A, %B %d", "%d/%m/%Y", "%m-%d-%Y", "%Y/%m/%d", "%b. %d %Y", "the %dth of %B", "%d.%m.%y",
)  # fmt: skip
_SENTENCES = {
    "date": (
        "Comparison is made with the study of {}.", "The patient was admitted on {} with fever.", "Date of exam: {}.",
        "Surgery took place {}.", "DOB {}.", "Compared to {}, the mass has grown.", "Follow-up from {} is available.",
    ),
    "phone": (
        "Results were phoned to {}.", "Call {} with questions.", "Tel: {}", "Contact number {}.",
        "The ward ({}) was told.", "Findings were discussed by telephone, {}.", "Fax {}.",
    ),
    "mail": ("Report sent to {}.", "Contact: {}", "Please write to {} for the images.", "<{}>"),
    "number": (
        "MRN: {}.", "Accession {}.", "Compare with exam {}.", "Patient ID {} was scanned twice.",
        "Medical record number {}.",
        "See prior study {}.", "(Acc# {})", "Hospital no. {}", "File {} was reviewed.", "Case number is {}.",
    ),
    "name": (
        "Dr. {} reviewed the images.", "Patient name: {}.", "Dictated by {}.", "Discussed with Mrs. {}.",
        "Prof. {} agrees.", "Referring physician: {}.", "Signed by {}.", "Mr. {} has a history of cancer.",
    ),
    "unmarked name": (
        "{} was seen in clinic.", "I spoke to {} about this.", "The patient, {}, is stable.", "{}'s mass has grown.",
    ),
}  # fmt: skip
_OTHER_SENTENCES = {  # without the words by which the detector knows a phone or a number
    "date": ("Films of {} were lost.", "Unchanged since {}.", "({})", "{}: drain removed.", "Her fall was {}."),
    "phone": (
        "She can be had at {} until noon.", "Her son ({}) will fetch the films.", "Ring {} before noon.",
        "The desk is {}.",
    ),
    "mail": ("{} has the films.", "Films went to {}.", "({})"),
    "number": ("Her folder {} was lost.", "Label {} sticks on the film.", "This is {} again.", "Barcode {}."),
    "name": (
        "Seen with {}.", "Under the care of {}.", "Copy to {}.", "Films were fetched by {}, the son.", "Consultant {}",
        "-- {}",
    ),
}  # fmt: skip
_OTHERS = 20_000  # people of the list whom no text names
_WAYS = ("", ", in capitals", ", in other words")
_NUMBERS = ("########", "#######", "??######", "?########", "##-######", "####-#####", "S########", "MG-#######",
            "######", "##.####.####", "E-###-####-##", "?###-####")  # fmt: skip
_TRAPS = (
    "The mass measures {a}.{b} x {b}.{a} x {a} cm at {c} o'clock.", "BI-RADS {c}; Ki-67 {a}%.", "HU {a}{b} to {b}{a}0.",
    "TR/TE {a}00/{b} ms, slice {a} of {b}{c}.", "Trial NCT0428{a}{b}5 enrolled {a},{b}00 patients.", 
    "T2/FLAIR 1/2/3 grades.",
    "Copies were {a}{b}00000 per mL.", "Level L{c}-S1, ICD-10 J{a}.{c}.", "Doses of {a}00-{b}00 mg in 2018-2020.",
    "PMID: 31{a}{b}{a}{c} describes it.", "SUVmax {a}.{b}, {c}/10 pain.", "Aged {a}, weight {b}.{c} kg, BMI {a}.{c}.",
    "Resolution 1024x{a}{b}, {a}{b}00000 voxels.", "Dr. Patient reports pain.", "It may {c} mm; March fracture.",
    "Blood pressure {a}0/{b}, pH 7.{a}, CD4 {a}{b}.", "At week {a}, ratio {a}:{b}:{c}, figure {c}A.",
)  # fmt: skip


@dataclass(frozen=True)
class Planted:
    """A text with an identifier, and where it stands; `kind` is empty where it has none, `way` is one of `_WAYS`."""

    text: str
    kind: str = ""
    start: int = 0
    end: int = 0
    way: str = ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shared", type=Path)
    parser.add_argument("--texts", type=int, default=6_000)
    parser.add_argument("--pictures", type=int, default=1_000, help="at most; half of them planted")
    parser.add_argument("--misses", action="store_true", help="list what was missed, and what was taken for one")
    given = parser.parse_args()
    print("| what | planted | found | recall | findings | false | precision |\n|---|---|---|---|---|---|---|")
    print(_texts(given.shared / "med-mim", given.texts, given.misses))
    if given.pictures:
        print(_pictures(given.shared / "covid-chestxray" / "images", given.pictures, given.misses))


def _texts(folder: Path, count: int, misses: bool) -> str:
    planted = list(_with_identifiers(folder, count))
    sure, found, hits, false = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    began = time.process_time()
    traps = 0
    for one in planted:
        at = find(one.text)
        sure[one.kind + one.way] += 1
        right = [each for each in at if each.start < one.end and one.start < each.end]
        hits[one.kind + one.way] += bool(right)
        for each in at:
            found[each.kind] += 1
            false[each.kind] += each not in right
            if misses and each not in right:
                print("false", each.kind, one.text[max(0, each.start - 40) : each.end + 20].replace("\n", " "))
        traps += not one.kind and bool(at)
        if misses and one.kind and not right:
            print(
                "missed", one.kind, one.text[one.start : one.end], "|", one.text[max(0, one.start - 40) : one.end + 20]
            )
    seconds = time.process_time() - began
    for kind in _SENTENCES:
        if kind in KINDS:
            print(_line(f"text: {kind}", sure[kind], hits[kind], found[kind], false[kind]))
            for way in _WAYS[1:]:
                print(_line(f"text: {kind}{way}", sure[kind + way], hits[kind + way], None, None))
    print(_line("text: name that nothing marks", sure["unmarked name"], hits["unmarked name"], None, None))
    _with_list(folder, planted, misses)
    total = [sum(counts[kind + way] for kind in KINDS for way in _WAYS) for counts in (sure, hits, found, false)]
    print(_line("texts, but for those", *total))
    each = 1e3 * seconds / len(planted)
    return f"\ntexts without an identifier that have a finding: {traps} of {sure['']:,}; {each:.2f} ms a text\n"


def _with_list(folder: Path, planted: Sequence[Planted], misses: bool) -> None:
    """Print the lines of names that the hospital's list has."""
    others = Faker(["en_US", "en_GB", "de_DE"])
    others.seed_instance(61)
    lines = [one.text[one.start : one.end] for one in planted if one.kind.endswith("name")]
    lines += [f"{others.first_name()} {others.last_name()}" for _ in range(_OTHERS)]
    with NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:
        file.write("\n".join(lines))
        file.flush()
        names = known_names.read(file.name)
    words = known_names.words_of(one.text for one in planted)
    sure, hits = Counter[str](), Counter[str]()
    found = false = 0
    for one in planted:
        at: list[Found] = known_names.find(one.text, names, words)
        named = one.kind.endswith("name")
        right = [each for each in at if named and each.start < one.end and one.start < each.end]
        found, false = found + len(at), false + len(at) - len(right)
        if named:
            sure[one.kind + one.way] += 1
            hits[one.kind + one.way] += bool(right)
        for each in at if misses else ():
            if each not in right:
                print("false, list:", one.text[max(0, each.start - 40) : each.end + 20].replace("\n", " "))
    for what in ("name", *(f"name{way}" for way in _WAYS[1:]), "unmarked name"):
        shown = what.replace("unmarked name", "name that nothing marks")
        print(_line(f"text: {shown}, with the list", sure[what], hits[what], None, None))
    print(_line("names with the list", sum(sure.values()), sum(hits.values()), found, false))
    rows = _real_texts(folder)
    words = known_names.words_of(rows)
    alarms = [text for text in rows if known_names.find(text, names, words)]
    print(f"| the {len(rows):,} texts as they are, with the list | 0 | {len(alarms):,} | | | | |")


def _real_texts(folder: Path) -> list[str]:
    """All different texts of the published rows."""
    return sorted(
        {
            turn["content"].replace("<image>", "")
            for file in sorted(folder.glob("*.json"))
            for row in json.loads(file.read_text(encoding="utf-8"))
            for turn in row["conversation"]
        }
    )


def _with_identifiers(folder: Path, count: int) -> Iterator[Planted]:
    texts = _real_texts(folder)
    rng = random.Random(59)
    people = Faker(["en_US", "en_GB", "de_DE"])
    people.seed_instance(59)
    american = people["en_US"]
    for number, text in enumerate(rng.sample(texts, min(count, len(texts)))):
        if number % 4 == 0:
            yield Planted(text)
        elif number % 4 == 1:
            a, b, c = rng.randrange(10, 99), rng.randrange(10, 99), rng.randrange(1, 9)
            yield Planted(_joined(rng, text, rng.choice(_TRAPS).format(a=a, b=b, c=c))[0])
        else:
            kind = rng.choice([*_SENTENCES, "date", "number", "name"])
            value = _value(rng, people, american, kind)
            way = rng.choice(_WAYS) if kind in _OTHER_SENTENCES else ""
            sentence = rng.choice((_OTHER_SENTENCES if way == _WAYS[2] else _SENTENCES)[kind])
            if way == _WAYS[1]:
                value, sentence = value.upper(), sentence.upper()
            whole, begin = _joined(rng, text, sentence.format(value))
            start = begin + sentence.index("{}")
            yield Planted(whole, kind, start, start + len(value), way)


def _joined(rng: random.Random, text: str, sentence: str) -> tuple[str, int]:
    """A text with a sentence before, after or within it, and where that begins."""
    places = [0, *(i + 2 for i in range(len(text) - 2) if text[i : i + 2] == ". "), len(text)]
    place = rng.choice(places)
    before, after = text[:place], text[place:]
    before = f"{before} " if before and not before.endswith((" ", "\n")) else before
    return f"{before}{sentence} {after}".rstrip(), len(before)


def _value(rng: random.Random, people: Faker, american: Faker, kind: str) -> str:
    if kind == "date":
        day = people.date_between(date(1930, 1, 1), date(2025, 1, 1))
        return day.strftime(rng.choice(_DATES))
    if kind == "phone":
        abroad = f"+{rng.choice((44, 49, 33))} {american.numerify('%## ### ####')}"
        return rng.choice((american.phone_number(), american.numerify("(%##) %##-####"), abroad))
    if kind == "mail":
        return people.email()
    if kind == "number":
        return rng.choice(
            (american.bothify(rng.choice(_NUMBERS)).upper(), american.bothify("########"), american.ssn())
        )
    return rng.choice((f"{people.first_name()} {people.last_name()}", people.last_name()))


def _pictures(folder: Path, count: int, misses: bool) -> str:
    read = burned_in.reader()
    rng = random.Random(53)
    people = Faker(["en_US", "de_DE"])
    people.seed_instance(53)
    paths = sorted(folder.iterdir())[: max(2, count)]
    rng.shuffle(paths)
    kinds = Counter[str]()
    hits = Counter[str]()
    planted = regions = flagged = plain = seen = 0
    real: list[str] = []
    began = time.process_time()
    for number, path in enumerate(paths):
        try:
            picture = Image.open(path).convert("RGB")
        except OSError:
            continue
        picture.thumbnail((1024, 1024))
        if number % 2:
            plain += 1
            found = read(path.name, _saved(picture))
            if found.found:
                real.append(f"{path.name} ({', '.join(found.found)})")
            seen += bool(found.texts)
            continue
        drawn = _drawn(rng, people, picture)
        found = read(path.name, _saved(picture))
        planted += 1
        regions += found.texts > 0 or bool(found.found)
        flagged += bool(found.found)
        kinds[drawn] += 1
        hits[drawn] += bool(found.found)
        if misses and not found.found:
            print("missed in", path.name, drawn, found)
    seconds = (time.process_time() - began) / (planted + plain)
    for kind in sorted(kinds):
        print(_line(f"picture: {kind}", kinds[kind], hits[kind], None, None))
    print(_line("pictures with an identifier", planted, flagged, flagged + len(real), len(real)))
    print(_line("pictures with text", planted, regions, None, None))
    return (
        f"\n{seconds:.2f} s of one core a picture; of {plain} pictures as they are, {seen} have text that is more than "
        f"a marker, and these a finding: {'; '.join(real) or 'none'}"
    )


def _drawn(rng: random.Random, people: Faker, picture: Image.Image) -> str:
    """Draw what identifies into a picture, as viewers do; its kind."""
    day = people.date_between(date(1930, 1, 1), date(2025, 1, 1))
    first, last = people.first_name(), people.last_name()
    kind = rng.choice(("name", "number", "date", "all"))
    name = rng.choice(
        (
            f"{last.upper()}^{first.upper()}",
            f"{last}, {first}",
            f"{last.upper()}, {first[0]}.",
            f"Name: {first} {last}",
            f"NAME: {last.upper()}",
            f"PATIENT: {last.upper()} {first.upper()}",
            f"{last.upper()} {first.upper()}",
        )
    )
    known = rng.choice((f"ID: {people['en_US'].numerify('########')}", people["en_US"].numerify("MRN %######"),
                        people["en_US"].bothify("Acc ??#######").upper()))  # fmt: skip
    taken = rng.choice((day.strftime("%d.%m.%Y"), day.strftime("%m/%d/%Y"), day.strftime("%Y-%m-%d 10:42:07"),
                        day.strftime("DOB: %d-%b-%Y"), day.strftime("%b %d, %Y"),
                        day.strftime("%d %b %Y").upper()))  # fmt: skip
    lines = {"name": [name], "number": [known], "date": [taken], "all": [name, known, taken, rng.choice("MF")]}[kind]
    size = rng.choice((12, 14, 16, 20, 28))
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(size)
    width = max(int(pen.textlength(line, font=font)) for line in lines)
    height = len(lines) * (size + 4)
    left = rng.choice((8, max(8, picture.width - width - 8)))
    top = rng.choice((8, max(8, picture.height - height - 8)))
    grey = rng.choice((255, 255, 220, 180))
    if rng.random() < 0.3:
        pen.rectangle((left - 3, top - 3, left + width + 3, top + height), fill=(0, 0, 0))
    for row, line in enumerate(lines):
        pen.text((left, top + row * (size + 4)), line, fill=(grey,) * 3, font=font)
    return kind


def _saved(picture: Image.Image) -> Image.Image:
    """The picture as a data set stores it."""
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=90)
    return Image.open(io.BytesIO(out.getvalue()))


def _line(what: str, planted: int, found: int, findings: int | None, false: int | None) -> str:
    recall = f"{found / planted:.1%}" if planted else "–"
    if findings is None or false is None:
        return f"| {what} | {planted:,} | {found:,} | {recall} | | | |"
    precision = f"{1 - false / findings:.1%}" if findings else "–"
    return f"| {what} | {planted:,} | {found:,} | {recall} | {findings:,} | {false:,} | {precision} |"


if __name__ == "__main__":
    main()
