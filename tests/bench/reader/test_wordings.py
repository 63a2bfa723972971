"""Every rule and every word of the reader's patterns is needed by an example or a case."""

import re
from pathlib import Path

import pytest

from medmim.bench.reader import extract, reply_text, wordings, words
from tests.support.wordings import FIXED, READ, READ_WITH, UNREAD, UNREAD_WITH, fill, with_words

NEVER = re.compile("(?!)")
READ = (*READ, *with_words(READ_WITH), *(text for rule in wordings.RULES for text in rule.read))
UNREAD = (*UNREAD, *with_words(UNREAD_WITH), *(text for rule in wordings.RULES for text in rule.unread))


def wrong(read, unread):
    """The replies that are not read as they should, with what is read, for two letters and three sets of options."""
    for templates, meant in ((read, True), (unread, False)):
        for template in templates:
            for options in FIXED:
                for index in (0, len(options) - 1):
                    text = fill(template, options, index)
                    found = extract.extract(text, options, 2)
                    if found != (index if meant else None):
                        yield text, found


def test_every_word_is_read_in_its_wordings():
    assert list(wrong(READ, UNREAD)) == []


@pytest.mark.parametrize("rule", wordings.RULES, ids=lambda rule: (rule.read + rule.unread)[0])
def test_a_rule_is_read_as_its_examples_say_and_needed(rule):
    assert list(wrong(rule.read, rule.unread)) == []
    pattern = rule.pattern
    object.__setattr__(rule, "pattern", NEVER)
    try:
        assert next(wrong(rule.read, rule.unread), None) or next(wrong(READ, UNREAD), None), "nothing needs the rule"
    finally:
        object.__setattr__(rule, "pattern", pattern)


def test_every_rule_is_listed():
    kept = [value for value in vars(wordings).values() if isinstance(value, wordings.Rule)]
    assert {id(rule) for rule in kept} <= {id(rule) for rule in wordings.RULES}


def load(build):
    """Run the modules of the reader again, with another way to make patterns of words."""
    kept, words.words = words.words, build
    try:
        for module in (reply_text, wordings, extract):
            exec(compile(Path(module.__file__).read_text("utf-8"), module.__file__, "exec"), vars(module))  # noqa: S102
    finally:
        words.words = kept


@pytest.mark.long
def test_every_word_is_needed_by_a_case():
    used = []
    original = words.words
    load(lambda *alternatives: used.append(alternatives) or original(*alternatives))
    folded = {text: reply_text.fold(text).replace("_", " ") for text in (*READ, *UNREAD)}
    needless = []
    try:
        for call, alternatives in enumerate(used):
            for word in alternatives:
                load(without(call, word))
                stem = re.split(r".\?|[^\w' ]", word)[0].strip()
                read, unread = ([text for text in table if stem in folded[text]] for table in (READ, UNREAD))
                if next(wrong(read, unread), None) is None:
                    needless.append((call, word))
    finally:
        load(original)
    assert needless == []


def without(call, word):
    """`words.words`, which leaves out a word of one call."""
    calls = iter(range(10_000))
    original = words.words

    def build(*alternatives):
        drop = next(calls) == call
        return original(*(one for one in alternatives if not (drop and one == word)))

    return build
