"""The values of cells as pandas, R, spreadsheets and people leave them."""

import re
import string
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medmim.data.sources import cells
from medmim.data.sources.cells import BadCell, Person

MISSING = (
    "", " ", "\t", "\u00a0", "\u200b", "NaN", "nan", "NAN", "NA", "na", "<NA>", "N/A", "n/a", "#N/A", "#N/A N/A",
    "n.a.", "None", "none", "NONE", "NULL", "null", "(null)", "nil", "NaT", "-nan", "1.#QNAN", "-1.#IND", "#REF!",
    "#VALUE!", "#DIV/0!", "#NAME?", "#NUM!", "########", "-", "--", "\u2013", "?", ".", "...", "unknown", "Unknown",
    "UNK", "todo", "TBD", "missing", "not available", "undefined", "\\N", "NA_character_", "(blank)", " NaN ",
    "\ufeffNA", "#NV", "#WERT!", "#BEZUG!", "#N/D", "#NOM?", "#ZAHL!", "#FEHLER!", "#\u00dcBERLAUF!", "Err:502", "k.A.",
    "k. A.", "keine Angabe", "unbekannt", "inconnu", "non renseign\u00e9", "desconocido", "s/d", "n.d.", "brak",
    "\u043d/\u0434", "\u4e0d\u660e", "\u65e0", "\ud574\ub2f9\uc5c6\uc74c", "[null]", "<null>", "(unknown)", "{none}",
    "none.", "nan.0", "NA/NA",
    "nan,nan", "pd.NA", "numpy.nan", "float('nan')", "\\\\N", "XXXX", "xxx", "***", "anonym", "not recorded",
)  # fmt: skip


@pytest.mark.parametrize("cell", MISSING)
def test_a_word_for_no_value_is_none(cell: str) -> None:
    assert cells.text(cell) is None
    assert cells.number(cell, "days", 99) is None
    assert cells.label(cell) is None
    for read in (cells.identifier, cells.file_name):
        with pytest.raises(BadCell, match="is empty|stands for a missing value"):
            read(cell)


@pytest.mark.parametrize(
    "cell",
    [
        "N",
        "0",
        "#7",
        "#A1",
        "x1",
        "xx",
        "N/B",
        "A/A",
        "NA/17",
        "(7",
        "test",
        "nd1",
        "Nan Wang",
        "NA-17",
        "none of these",
        "nana",
        "O",
        "no-1",
        "P-",
        "x?",
    ],
)
def test_a_value_that_only_looks_like_one_is_kept(cell: str) -> None:
    assert cells.text(cell) == cell
    assert cells.identifier(cell) == cell


@pytest.mark.parametrize(
    ("cell", "name"),
    [
        ("1", "1"), ("1.0", "1"), ("1.", "1"), (" 1", "1"), ("1.000", "1"), ("+1", "1"), ('="1"', "1"), ("'1", "1"),
        ('"1"', "1"), ("b'1'", "1"), ("\uff11", "1"), ("1\u00a0", "1"), ("\ufeff1", "1"), ("1\u200b", "1"),
        ("007", "007"),
        ("1.5", "1.5"),
        ("12e5", "12e5"), ("123456789012345.0", "123456789012345"), ("1234567890123456789", "1234567890123456789"),
        ("1.2.840.10008", "1.2.840.10008"), ("a1-\u00e9", "a1-e\u0301"), ("MAR-01", "MAR-01"), ("0x1F", "0x1F"),
    ],
)  # fmt: skip
def test_equal_ids_are_equal_texts(cell: str, name: str) -> None:
    assert cells.identifier(cell) == cells.identifier(name)
    assert name.isascii() is False or cells.identifier(cell) == name


TYPED = {  # what a program or another keyboard made of an id -> what was typed
    "P\u20131": "P-1", "P\u20141": "P-1", "P\u20101": "P-1", "P\u20111": "P-1", "P\ufe631": "P-1", "P\uff0d1": "P-1",
    "P\u22121": "P-1", "\u2013 P1": "- P1", "P7\u200b": "P7", "P\u200b7": "P7", "P\u00ad7": "P7", "P\u20607": "P7",
    "P\ufeff7": "P7", "\u202aP7\u202c": "P7", "P\u200e7": "P7", "P\u20697": "P7", "P\u180e7": "P7", "P7\ufe0f": "P7",
    "P\u034f7": "P7", "P\u31647": "P7", "P\u28007": "P7", "\u0667": "7", "\u0661\u0662": "12", "P\u06f7": "P7",
    "\u096d": "7", "\uff17": "7", "\u0be7\u0be8.\u0be6": "12", "\u0660\u0660\u0667": "007", "P7\U000e0041": "P7",
}  # fmt: skip


@pytest.mark.parametrize("cell", TYPED, ids=ascii)
def test_an_id_is_read_as_it_was_typed(cell: str) -> None:
    assert cells.identifier(cell) == cells.identifier(TYPED[cell]) == TYPED[cell]


INVISIBLE = [chr(code) for code in range(0x1_0000) if unicodedata.category(chr(code)) == "Cf"]
DASHES = [chr(code) for code in range(0x1_0000) if unicodedata.category(chr(code)) == "Pd"]
ZEROS = [chr(code) for code in range(0x1_0000) if unicodedata.decimal(chr(code), None) == 0]


@given(
    st.from_regex(r"[A-Z]{1,3}(-?[0-9]{1,4}){1,2}[A-Z]", fullmatch=True),
    st.lists(st.tuples(st.integers(0, 12), st.sampled_from(INVISIBLE))),
    st.sampled_from(DASHES),
    st.sampled_from(ZEROS),
)
def test_invisible_characters_dashes_and_digits_of_any_script_are_one_id(
    name: str, hidden: list[tuple[int, str]], dash: str, zero: str
) -> None:
    changed = "".join(chr(ord(zero) + int(char)) if char.isdigit() else char for char in name.replace("-", dash))
    for at, char in hidden:
        changed = changed[:at] + char + changed[at:]
    assert cells.identifier(changed) == cells.identifier(name) == name


@given(st.text(string.printable, min_size=1, max_size=20))
def test_an_id_of_ascii_is_what_it_was(cell: str) -> None:
    """The digests of sound data sets depend on it."""
    assert cells._typed(cell) is cell


@given(st.integers(0, 10**15 - 1), st.sampled_from(["", ".0", ".", ".00"]), st.sampled_from(["", " ", "\t", "\u00a0"]))
def test_a_whole_number_is_one_id_in_whatever_form(value: int, tail: str, blank: str) -> None:
    assert cells.identifier(f"{blank}{value}{tail}{blank}") == str(value)


@given(st.text(string.ascii_letters + string.digits + "-_", min_size=1, max_size=20))
def test_an_id_that_is_read_is_read_again_as_itself(cell: str) -> None:
    try:
        name = cells.identifier(cell)
    except BadCell:
        return
    assert cells.identifier(name) == name


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ("7.23E+15", "exponent"), ("4.37886E+15", "exponent"), ("1e+05", "exponent"), ("1E+16", "exponent"),
        ("1.0E15", "exponent"), ("4,321", "thousands"), ("1,234,567.0", "thousands"), ("1'234", "thousands"),
        ("4378860000000000.0", "float"), ("12345678901234567.0", "float"), ("-1", "missing value"),
        ("-9.0", "missing value"), ("\u22121", "missing value"), ("inf", "missing value"),
        ("-Infinity", "missing value"),
        ("TRUE", "truth value"), ("false", "truth value"), ("2020-01-02", "date"), ("2020-01-02 00:00:00", "date"),
        ("2-Jan", "date"), ("02-Jan-2020", "date"), ("1/2/2020", "date"), ("1\n2", "line breaks"), ("a\0b", "control"),
        ("x" * 300, "200"),
    ],
)  # fmt: skip
def test_a_damaged_id_is_bad_and_its_reason_does_not_hold_it(cell: str, words: str) -> None:
    with pytest.raises(BadCell, match=words) as caught:
        cells.identifier(cell)
    assert words in ("missing value", "truth value") or cell not in str(caught.value)


@pytest.mark.parametrize(
    ("column", "bad"),
    [
        (["1", "2", "3", "1000", "1.000"], {"1.000", "1000"}), (["1", "2", "1000", "2.000"], {"2.000"}),
        (["1", "2", "3", "4", "1000", "1.234", "1234"], {"1.234", "1234"}),
        (["1", "2", "1.000", "3.000"], set()), (["1.000", "1000.000", "1"], set()),
        (["1", "2", "10000", "10.000", "4", "1.000.000"], {"10000", "10.000", "1.000.000"}),
        (["1", "2", "1000", "1.0", "2.00"], set()),
        (["1", "2", "3", "'1000", '="1.000"'], {"1.000", "1000"}),
    ],
)  # fmt: skip
def test_a_point_before_three_digits_may_separate_thousands(column: list[str], bad: set[str]) -> None:
    thousands = cells.has_thousands(column)
    ids = [cells.identifier(cell, thousands) for cell in column]
    assert set(cells.suspicious(ids)) == bad
    assert set(ids) - bad <= {"1", "2", "3", "4", "1000"}


@pytest.mark.parametrize(
    ("ids", "bad"),
    [
        (["1", "2", "3"], []), (["007", "008", "12"], []), (["a1", "b2"], []), (["12", "12.1", "13"], []),
        (["1", "2", "1e0"], ["1e0"]), (["1", "2", "1 000"], ["1 000"]), (["1", "2", "1.000.000"], ["1.000.000"]),
        (["1", "2", "3,5"], ["3,5"]),
        (["1", "2", "1.0000000001", "1.9999999999"], ["1.0000000001", "1.9999999999"]),
        (["1.2", "1.84011400", "7"], []),
        (["ab12", "12e5", "cd34", "7"], []), (["01", "1", "2"], ["01", "1"]),
        (["P01", "P1", "P2"], ["P01", "P1"]), (["p1", "P1"], ["p1", "P1"]), (["P 1", "P1"], ["P 1", "P1"]),
        (["P-1", "P1", "P2"], ["P-1", "P1"]), (["P_1", "P-1", "P.1", "P-2"], ["P_1", "P-1", "P.1"]),
        (["#7", "7", "8"], ["#7", "7"]), (["P1*", "P1"], ["P1*", "P1"]), (["(7)", "7"], ["(7)", "7"]),
        (["A-B", "AB", "AC"], ["A-B", "AB"]), (["1-A", "1A"], ["1-A", "1A"]), (["P7\u20e3", "P7"], ["P7\u20e3", "P7"]),
        (["P1-2", "P12", "P1-3"], []), (["P1-2", "P1/2", "P12"], ["P1-2", "P1/2"]), (["P1-12", "P11-2", "P112"], []),
        (["1.2", "12", "1.20"], []), (["S01-P1", "S1-P1"], ["S01-P1", "S1-P1"]), (["S1-P1", "S1-P11", "S11-P1"], []),
        (["\u04201", "P1", "P2"], ["\u04201", "P1"]), (["\u0420\u0411", "\u0420\u0412"], []),
        (["\u0915\u093e", "\u0915\u0940", "\u0915"], []), (["@", "&&"], []),
        (["1", "2", "14", "9999"], ["9999"]), (["1", "14", "999", "9999"], ["999", "9999"]), (["1", "999", "1000"], []),
        (["98", "99", "100"], []), (["0999", "998"], []), (["997", "998", "999"], []), (["P1", "P2", "9999"], []),
        (["100", "10", "1", "1001"], []), ([f"43788612345678{n}0" for n in range(10, 16)], []),
        ([f"437886{n}0000000000" for n in range(6)], [f"437886{n}0000000000" for n in range(6)]),
        ([f"43788612345{n:02}0010" for n in range(6)], []), ([f"437886123456{n:03}00" for n in range(6)], "all"),
    ],
)  # fmt: skip
def test_ids_are_judged_beside_those_of_their_column(ids: list[str], bad: list[str] | str) -> None:
    assert set(cells.suspicious(ids)) == set(ids if bad == "all" else bad)


@pytest.mark.parametrize(
    ("cell", "value"),
    [("3", 3), ("3.0", 3), ("3.", 3), (".5", 0.5), ("-2", -2), ("\u22122", -2), ("+4", 4), ("1e1", 10), (" 7 ", 7)],
)  # fmt: skip
def test_a_number_is_read(cell: str, value: float) -> None:
    assert cells.number(cell, "days", 99) == value


@pytest.mark.parametrize("cell", ["inf", "-inf", "Infinity", "\u221e", "NaN", "#VALUE!", ""])
def test_infinity_and_words_are_no_number(cell: str) -> None:
    assert cells.number(cell, "days", 99) is None


@pytest.mark.parametrize(
    "cell",
    ["soon", "3,5", "1 000", "1_000", "2020-01-02", "3 days", "~3", "3-5", "0x10", "TRUE", "1e999", "43852", "--3"],
)
def test_what_is_no_number_of_the_unit_is_bad(cell: str) -> None:
    with pytest.raises(BadCell, match="days"):
        cells.number(cell, "days", 36_525)


@given(st.floats(-36_000, 36_000))
def test_any_number_survives_being_written(value: float) -> None:
    assert cells.number(repr(value), "days", 36_525) == value


@pytest.mark.parametrize("cell", ["1", "0.0", "TRUE", "no", "2020-01-02", "3/4/2020", "1,5", "!!"])
def test_a_number_a_date_and_a_truth_value_are_no_label(cell: str) -> None:
    with pytest.raises(BadCell, match="number, a date or a truth value"):
        cells.label(cell)


def people(*rows: tuple[str, str, str, float | None]) -> list[Person]:
    return [Person("7", sex, age, birth, days) for sex, age, birth, days in rows]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (people(("M", "", "", 0), ("F", "", "", 3)), "two sexes"),
        (people(("male", "", "", 0), ("W", "", "", 3)), "two sexes"),
        (people(("1", "", "", 0), ("2.0", "", "", 3)), "two sexes"),
        (people(("H", "", "", 0), ("F", "", "", 3)), "two sexes"),
        (people(("M", "", "", 0), ("Frau", "", "", 3)), "two sexes"),
        (people(("Mr.", "", "", 0), ("Mrs.", "", "", 3)), "two sexes"),
        (people(("\u041c", "", "", 0), ("\u0416", "", "", 3)), "two sexes"),
        (people(("\u7537", "", "", 0), ("F*", "", "", 3)), "two sexes"),
        (people(("M", "", "", 0), ("m\u00e4nnlich", "", "", 3), ("Mann", "", "", 4), ("m.", "", "", 5)), ""),
        (people(("F", "", "", 0), ("weiblich", "", "", 3), ("k.A.", "", "", 4), ("M?", "", "", 4)), ""),
        (people(("", "40", "", 0), ("", "22", "", 3)), "two ages"),
        (people(("", "40", "", None), ("", "22.0", "", None)), "two ages"),
        (people(("", "040Y", "", 0), ("", "45", "", 30)), "two ages"),
        (people(("", "6M", "", 0), ("", "40", "", 30)), "two ages"),
        (people(("", "018M", "", None), ("", "20", "", None)), "two ages"),
        (people(("", "3 weeks", "", 0), ("", "4", "", 30)), "two ages"),
        (people(("", "40-49", "", 0), ("", "10\u201319", "", 30)), "two ages"),
        (people(("", "40-49", "", None), ("", "27", "", None)), "two ages"),
        (people(("", "90+", "", 0), ("", "80", "", 30)), "two ages"),
        (people(("", "40-49", "", 0), ("", "50-59", "", 30), ("", "49", "", 60)), ""),
        (people(("", "40M", "", 0), ("", "40", "", 30), ("", "040Y", "", 60)), ""),
        (people(("", "6M", "", 0), ("", "9 months", "", 90), ("", "1", "", 180)), ""),
        (people(("", "89+", "", 0), ("", "94 years", "", 30), ("", "49-40", "", 30), ("", "7X", "", 3)), ""),
        (people(("", "", "1980", 0), ("", "", "1998-03-01", 3)), "two years of birth"),
        (people(("M", "", "", 0), ("Male", "", "", 3), ("m", "", "", None), ("NaN", "", "", 3)), ""),
        (people(("1", "", "", 0), ("1.0", "", "", 3)), ""),
        (people(("M", "40", "", 0), ("M", "41", "", 3)), ""),
        (people(("M", "40", "", 0), ("M", "46", "", 6 * 365)), ""),
        (people(("M", "40", "", None), ("M", "48", "", 3)), ""),
        (people(("M", "40s", "", 0), ("M", "70+", "", 3)), ""),
        (people(("M", "", "1980-01-01", 0), ("M", "", "01/01/1980", 3)), ""),
    ],
)
def test_an_id_of_two_people_is_noticed(rows: list[Person], words: str) -> None:
    others = [Person("8", "F", "1", "2001", 0), Person("9", "M", "99", "1901", 0)]
    found = cells.shared_ids([*rows, *others])
    assert list(found) == (["7"] if words else [])
    assert not words or re.search(words, found["7"])


@pytest.mark.parametrize("high", [10, 19, 40, 129])
def test_a_span_of_ages_contradicts_when_every_age_in_it_does(high: int) -> None:
    for age in range(0, 130, 3):
        for days in (None, 0, 900):
            span = people(("", f"10-{high}", "", 30), ("", str(age), "", days))
            each = [people(("", str(one), "", 30), ("", str(age), "", days)) for one in range(10, high + 1)]
            assert bool(cells.shared_ids(span)) == all(cells.shared_ids(pair) for pair in each)


def contradict(rows: list[tuple[int, int | None]]) -> bool:
    """As the rules say it, row by row: (age, days)."""
    return any(
        abs(age - other) > (10 if days is None or later is None else abs(days - later) / 365) + 2
        for age, days in rows
        for other, later in rows
    )


@settings(max_examples=400)
@given(
    st.lists(
        st.tuples(st.integers(0, 30), st.none() | st.integers(0, 9000) | st.integers(0, 20).map(lambda n: 365 * n)),
        min_size=1,
        max_size=8,
    )
)
def test_ages_contradict_as_each_pair_of_rows_does(rows: list[tuple[int, int | None]]) -> None:
    own = people(*(("", str(age), "", days) for age, days in rows))
    assert bool(cells.shared_ids(own)) == contradict(rows)


class Counted(float):
    """A number that counts how often it is used in arithmetic."""

    used = 0

    def __rsub__(self, other: float) -> float:
        Counted.used += 1
        return other - float(self)

    def __radd__(self, other: float) -> float:
        Counted.used += 1
        return other + float(self)


def test_the_rows_of_one_id_are_not_compared_pair_by_pair() -> None:
    count = 3000
    own = [Person("7", "", str(40 + i // 1000), "", Counted(i)) for i in range(count)]
    assert not cells.shared_ids(own)
    assert count <= Counted.used <= 10 * count
