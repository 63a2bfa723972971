"""How answers could be read: counts, and warnings that an operator sees."""

from medmim.bench import reading
from medmim.bench.reader.reply import read
from medmim.sample import Sample


def item(i, options=("stable", "worse", "improved")):
    gold = (i % 3,) if options else ()
    answer = options[i % 3] if options else "the mass grew"
    return Sample("temporal", "change", "s", "test", False, (f"p{i}",), (f"{i}",), (f"{i}",), f"What in {i}?", options,
                  answer, gold)  # fmt: skip


def summary(texts, cut=False, options=("stable", "worse", "improved")):
    samples = [item(i, options) for i in range(len(texts))]
    return reading.summary(samples, [read(s, "none", "k", t, None, cut) for s, t in zip(samples, texts, strict=True)])


def warnings(**row):
    return reading.warnings({"max_new_tokens": 32, "reading": [{"model": "tuned", **row}]})


def test_a_readable_model_gives_no_warning():
    found = summary(["A", "B", "C", "A", "B", "C"])
    assert (found["answers"], found["closed"], found["unread"], found["cut"], found["letter"]) == (6, 6, 0, 0, None)
    assert warnings(**found) == []


def test_unread_answers_that_hold_one_and_the_same_letter_are_reported():
    found = summary(["A", "B"] + ["perhaps it were A then", "what if A", "were it A", "lean A-wards: A A"])
    assert (found["unread"], found["single"], found["letter"], found["holding"]) == (4, 4, "A", 4)
    (warning,) = warnings(**found)
    assert "tuned: 4 of its 4 unread answers" in warning and "4 of them the letter A" in warning


def test_unread_answers_that_hold_other_letters_are_reported_too():
    found = summary([f"perhaps it were {letter} then" for letter in "ABCABC"])
    assert (found["unread"], found["single"], found["letter"], found["holding"]) == (6, 6, None, 0)
    (warning,) = warnings(**found)
    assert "6 of its 6" in warning and "of them" not in warning


def test_unread_answers_without_a_letter_or_with_all_of_them_are_not():
    assert warnings(**summary(["no idea"] * 6)) == []
    assert warnings(**summary(["perhaps A, perhaps B, perhaps C"] * 6)) == []
    assert warnings(**summary(["no idea"] * 6 + ["perhaps it were A then"] * 3)) == []
    assert warnings(**summary(["perhaps it were A then"] * 3)) == []  # an accident


def test_cut_and_damaged_answers_are_counted_and_reported():
    found = summary(["A", "B \ufffd"], cut=True) | {"model": "m"}
    cut, damaged = reading.warnings({"max_new_tokens": 7, "reading": [found]})
    assert "2 of 2 answers were cut at 7 new tokens" in cut and "--max-new-tokens" in cut
    assert "1 answers hold characters" in damaged


def test_an_unread_answer_that_was_cut_is_counted_apart():
    samples = [item(i) for i in range(6)]
    given = [read(s, "none", "k", f"perhaps it were {letter} then", None, cut) for s, letter, cut in
             zip(samples, "AABAAA", (False, True, True, False, False, False), strict=True)]  # fmt: skip
    found = reading.summary(samples, given)
    assert (found["unread"], found["unread_cut"], found["finished"], found["single"]) == (6, 2, 4, 4)
    _, cut, letters = warnings(**found)
    assert "2 of its 6 unread answers were cut before they named an option" in cut
    assert "4 of its 4 unread answers hold one option's letter" in letters


def test_an_earlier_version_that_did_not_count_them_apart_is_warned_of_as_before():
    row = {
        "answers": 6,
        "cut": 0,
        "unread": 6,
        "unfinished": 0,
        "single": 6,
        "letter": "A",
        "holding": 6,
        "replaced": 0,
    }
    (warning,) = warnings(**row)
    assert "6 of its 6 unread answers" in warning


def test_refusals_are_counted():
    found = summary(["No images were provided.", "I cannot view images like A-B", "perhaps it were B then", "A", ""])
    assert (found["unread"], found["refused"]) == (4, 2)


def test_open_questions_are_cut_but_never_unread():
    found = summary(["A large mass", ""], cut=True, options=())
    assert (found["closed"], found["unread"], found["cut"]) == (0, 0, 2)


def test_errors_are_no_answers_that_were_not_read():
    broken = read(item(0), "none", "k", "", "the server hung up")
    assert reading.summary([item(0), item(1)], [broken, None])["unread"] == 0


def test_scores_of_an_earlier_version_give_no_warning():
    assert reading.warnings({"leaderboard": []}) == []


def test_unfinished_thinking_is_reported_as_that_and_not_as_a_wording():
    found = summary(
        ["<think>\nThe answer is A? Hmm", "<thinking>A", "[THINK] A", "◁think▷ A", "<think>A", ""], cut=True
    )
    assert (found["unread"], found["unfinished"], found["letter"], found["single"]) == (6, 5, None, 0)
    cut, unfinished, apart = warnings(**found)
    assert "1 of its 6 unread answers were cut" in apart
    assert "were cut" in cut and "5 answers end within the model's thinking" in unfinished
