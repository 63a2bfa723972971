"""Checks that a text of a language model is a wording: that it is of a form that is true of its whole family.

A wording has slots, `Which image shows {value}?`: a build fills them, so no text of a model holds a value, and nothing
of a data set is needed to make or to check one. What stands beside the slots must be of a form of `forms.ini`, word for
word: whatever may be said can be read there, and nothing else can be said.
"""

from medmim.data.words import forms, slots
from medmim.data.words.forms import Part
from medmim.data.words.lie import Lie

_FOLLOWING = 30  # words that are named
_LONGEST = 60  # words; the longest template has 27
_TYPOGRAPHY = str.maketrans("\u2018\u2019\u2010\u2011\u00a0", "''-- ")


def wording(text: str, family: str, part: Part) -> str:
    """A wording as it is written: its own spaces, capitals and signs do not matter, and do not stay.

    Args:
        text: Of a model.
        family: Of the question.
        part: What of it is worded.

    Raises:
        Lie: It is none.
    """
    said = placed(text, family, part)
    if len(said) > _LONGEST:
        raise Lie("has another form", f"it has {len(said)} words and signs")
    form = forms.of(family, part)
    other = forms.unmatched(said, form)
    if other is None:
        return forms.written(said)
    until, following = other
    strange = [word for word in said if word not in forms.vocabulary(family, part)]
    kind = "says something of its own" if strange else "has another form"
    what = f"'{strange[0]}' is in no form of this question" if strange else "no form goes on like this"
    place = f"after '{forms.written(said[:until])}'" if until else "at the beginning"
    named = sorted(following)[:_FOLLOWING] + ["..."] * (len(following) > _FOLLOWING)
    # So that its writer knows what else to write.
    raise Lie(kind, f"{what}; {place} " + (f"may stand: {' '.join(named)}" if named else "it ends"))


def placed(text: str, family: str, part: Part) -> list[str]:
    """The words, signs and slots of a text which has the slots that it must have; its words may be any.

    Raises:
        Lie: It has others, or is no text of one line.
    """
    text = text.translate(_TYPOGRAPHY).strip()
    if not text or "\n" in text or not text.isprintable():
        raise Lie("has another form", "it is empty" if not text else "it has several lines, or signs that none can see")
    said = forms.tokens(text)
    needed, known = slots.of(family, part)
    here = [word for word in said if word.startswith("{")]
    if "{" in said or "}" in said:
        raise Lie("has another form", "it has a brace beside its slots")
    if unknown := [slot for slot in here if slot not in known]:
        raise Lie("has a slot that is not there", unknown[0])
    if missing := [slot for slot in needed if slot not in here]:
        raise Lie("leaves a slot out", missing[0])
    return said
