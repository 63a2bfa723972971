"""Terms combine to what all of them allow; what is unknown allows nothing."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medmim import terms
from medmim.errors import UserError
from medmim.terms import APACHE, FLAGS, PUBLISHED, UNKNOWN, Terms, combine, parse, reasons

any_terms = st.builds(Terms, **dict.fromkeys(FLAGS, st.booleans()), text=st.lists(st.text(), max_size=3).map(tuple))


@given(st.lists(any_terms, min_size=1, max_size=4))
def test_a_combination_allows_what_all_allow_and_keeps_every_line(several):
    together = combine(several)
    for flag in FLAGS:
        assert getattr(together, flag) == all(getattr(one, flag) for one in several)
    assert set(together.text) == {line for one in several for line in one.text}
    assert combine([together, *several]) == together


@given(st.lists(any_terms, min_size=1, max_size=4))
def test_a_combination_names_who_refuses_a_use(several):
    named = [replace(one, text=(f"{'abcd'[at]}: its terms",)) for at, one in enumerate(several)]
    for flag in FLAGS:
        refusing = [name for name, one in zip("abcd", named, strict=False) if not getattr(one, flag)]
        assert reasons(combine(named), [flag]) == (
            [f"{flag}: not allowed by {', '.join(refusing)}"] if refusing else []
        )


@given(any_terms)
def test_unknown_terms_allow_nothing(one):
    assert combine([]) == UNKNOWN
    assert combine([one, UNKNOWN]).refused == FLAGS == UNKNOWN.refused


@given(any_terms)
def test_terms_are_read_as_written(one):
    assert parse(one.dump(), "file") == one


def test_a_flag_that_is_not_there_is_false_and_a_newer_one_is_ignored():
    assert parse('{"serve": true, "fly": true, "text": ["a"]}', "file") == Terms(serve=True, text=("a",))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"serve": "yes"}', '{"serve": 1}', '{"text": "a"}', '{"text": [1]}'])
def test_what_is_no_record_of_terms_is_refused(text):
    with pytest.raises(UserError, match="x/terms.json is not a record of terms"):
        parse(text, "x/terms.json")


def test_published_bases_have_their_terms():
    assert not APACHE.refused
    assert PUBLISHED["llava-med"].refused == FLAGS
    assert not PUBLISHED["llama3"].refused and "Built with Meta Llama 3" in PUBLISHED["llama3"].text[0]
    assert "Health AI Developer Foundations" in PUBLISHED["medgemma"].text[0]
    assert terms.FILE == "terms.json"


@pytest.mark.parametrize(
    ("given", "word"),
    [
        *((one, name) for name, one in PUBLISHED.items()),
        (APACHE, "apache-2.0"),
        (terms.UNKNOWN, "unknown"),
        (terms.Terms(serve=True), "own"),
        (terms.combine([PUBLISHED["llama3"], PUBLISHED["llava-med"]]), "own"),
    ],
)
def test_terms_have_a_name_of_one_word(given, word):
    assert terms.name_of(given) == word


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "terms.json is a Git LFS pointer"),
        (b"<!DOCTYPE html><title>Sign in</title>", "terms.json is a web page"),
        ('{"text": ["f\u00fcr"]}'.encode("cp1252"), "terms.json is probably text in WINDOWS-1252"),
        (b"", r"terms.json is empty \(0 bytes\)"),
        (b"\x1f\x8b\x08\0....", "terms.json is a gzip file"),
    ],
)
def test_bytes_that_are_something_else_are_named(data, words):
    with pytest.raises(UserError, match=words) as caught:
        parse(data, "x/terms.json")
    assert caught.value.fix
