"""Extracts the chosen option from the free text of an answer; what is ambiguous is None, never guessed.

The rules, in order; the first that finds an option decides, and a rule that finds two leaves the answer unread:

1. The form of the prompt (`B: text`), because an option may hold any text, also what later rules would remove.
2. Thinking is removed and is never the answer; of what is left, the content of answer tags, where there are any
   (`reply_text`), because the model itself marked it.
3. The options repeated in order are removed: an echo of the question is no choice.
4. The text of an option and nothing else (`option_text`).
5. Letters in a list (`A, B or C`, `A: 5%; B: 90%`) name none of them, unless the list calls one right and the others
   wrong (`A: no, B: yes`).
6. What is stated: claims (`the answer is B`), or else a line that is a letter and the letter that leads the first line.
   They must agree; only a final answer, or a claim after a word of correction, replaces an earlier one. A letter that
   leads a later line with words behind it is about that option, and states nothing.
7. A refusal (`no images were provided`) names none; what a reply says all the same, behind `however`, counts.
8. A letter in a weaker place (`(B)`, `option B`), if it is the only one and no other option's text contradicts it.
9. The only option whose text is named, or the image that a comparison names in the light of the question.

What marks a letter stands in `wordings`.
"""

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from medmim.bench.reader import mentions, reply_text, wordings
from medmim.bench.reader.option_text import named as named_options
from medmim.bench.reader.options import Options, known_options, prompt_form
from medmim.sample import LETTERS

_NEAR = 120  # characters beside a letter in which it may be negated
_CUT_ARTICLE = re.compile(r"(?<=[a-z] )a\s*$")  # `It is a` of a text that was cut
_INFORMS = re.compile(r"\b(?:general|information|consult|describe|explain|help|professional|radiologist)")
_BOTH = -1  # two options are stated, or a letter and another option's text


def extract(text: str, options: Sequence[str], images: int = 0, question: str = "", cut: bool = False) -> int | None:
    """The chosen option of an answer.

    Args:
        text: The generated text.
        options: Option texts in order A, B, ...; equal texts count as one, the first.
        images: Images shown, so that "the last image" has a number; 0 where unknown.
        question: The question, which says what a comparison of images is about; empty where unknown.
        cut: Whether the limit of tokens ended the text: then options that it was repeating are no choice.

    Returns:
        Index of the option, or None where the text names none or several, or contradicts itself.
    """
    if cut:
        text = _CUT_ARTICLE.sub("", text)
    known = known_options(tuple(options), images, question)
    said = prompt_form(" ".join(reply_text.fold(text).split()))
    if said and said in known.written:
        return known.written.index(said)
    found = {_read(known, reply_text.lines(part), cut) for part in reply_text.answers(text)} - {None}
    return found.pop() if len(found) == 1 else None


def letters_in(text: str) -> set[str]:
    """The capital letters of options that stand alone in a reply, read or not; no `A` that begins a sentence."""
    letters = set()
    for found in re.finditer(rf"(?<![\w'-])[{LETTERS}](?![\w'-])", text):
        before, after = text[: found.start()].rstrip(" *_(\"'"), text[found.end() :]
        begins = not before or before[-1] in ".!?:\n"
        if not begins or not re.match(r"\s+[a-z]", after):
            letters.add(found[0])
    return letters


def refuses(said: str) -> bool:
    """Whether a reply says that it gives no answer: `I cannot view images`, `No image was provided`."""
    return bool(wordings.REFUSED.pattern.search(reply_text.fold(said)))


def _read(options: Options, lines: Sequence[str], cut: bool) -> int | None:
    if cut and _listing(options, lines):
        return None
    turn = reply_text.first_turn(lines)
    following = list(lines[len(turn) :])
    if following == _without_echo(options, following):  # another question: its options are not these
        lines = turn
    lines = _without_echo(options, lines)
    if len(set(lines)) > 1 and all(prompt_form(line) in options.written for line in lines):
        return None  # a part of the options, repeated
    whole = " | ".join(lines)  # a mark, so that an `a` that ends a line is no article
    exact = options.exactly(whole)
    if exact is not None and not re.fullmatch(wordings.LETTER, whole):
        return exact
    judged = _judged(options, "\n".join(lines))
    if judged is not None:
        lines = [line for line in lines if not wordings.ITEM.pattern.match(line)]
    lines = _without_lists(options, lines)
    judgement = [] if judged is None else [_Statement(judged, 0, 0)]
    stated = _decided([*judgement, *_statements(options, lines)], "\n".join(lines))
    if stated is not None:
        return _valid(stated, options)
    own_refusal = any(refuses(option) or option.startswith("none") for option in options.plain)
    if refuses(whole) and not own_refusal:
        whole = _all_the_same(whole)
        if not whole or refuses(whole):
            return None
        lines = [whole]
    letters, texts = _letters(" | ".join(lines)), named_options(options, whole)
    if not letters:
        brackets = re.finditer(rf"[(\[]\s*{wordings.ONE}\s*[)\]]", whole)
        beside = {_index(m[1]) for m in brackets if not wordings.CLASSIFIED.pattern.search(whole[: m.start()][-_NEAR:])}
        return None if beside and not beside & texts else _only(texts, options)
    choice = _only(letters, options)
    contradicted = choice is not None and len(texts) == 1 and options.tokens[choice] != options.tokens[min(texts)]
    return None if contradicted else choice


@dataclass(frozen=True)
class _Statement:
    """An option that is stated: its index or `_BOTH`, from and until where, whether it is called final, and a claim."""

    choice: int
    at: int
    until: int
    final: bool = False
    claim: bool = False


def _statements(options: Options, lines: Sequence[str]) -> Iterator[_Statement]:
    items = {found[1] for line in lines if (found := wordings.ITEM.pattern.match(line))}
    headings = {options.exactly(line) for line in lines} - {None}
    begin = 0
    for number, line in enumerate(lines):
        listed = len(items) > 1 and bool(wordings.ITEM.pattern.match(line))  # `A: worse`, then `B: stable`
        alone = whole = None if listed else _short(options, line)
        if whole is None and number in (0, len(lines) - 1) and len(headings | items) < 2 and line[-1] != ":":
            whole = options.exactly(line) if len(lines) > 1 else None
        if whole is None and number == 0:
            whole = _lead(options, line) if len(items) < 2 else None  # several lines with letters list the options
            whole = options.shortened(line) if whole is None and len(headings) < 2 and line[-1] != ":" else whole
        if whole is not None:
            yield _Statement(whole, begin, begin)
        following = lines[number + 1] if number + 1 < len(lines) else ""
        for unit in wordings.SENTENCE.pattern.finditer(line):
            item = number > 0 and unit.end() < len(line) and not line[: unit.start()].strip(" .)0123456789")
            question = unit[0].endswith("?") and unit.end() < len(line)  # to itself
            short = None if alone is not None or item or question else _short(options, unit[0], letter_only=True)
            if short is not None:
                yield _Statement(short, begin + unit.start(), begin + unit.end())
            asked = unit[0].endswith("?") and (unit[0] != line or wordings.ASKED.pattern.match(line))
            if not asked:  # by the reply of itself
                for choice, at, until, final in _claims(options, unit[0], following):
                    yield _Statement(choice, begin + unit.start() + at, begin + unit.start() + until, final, claim=True)
        begin += len(line) + 1


def _decided(found: list[_Statement], said: str) -> int | None:
    """The option that the statements agree on; `_BOTH` where they do not, None where there is none."""
    taken_back = max((match.end() for match in wordings.RETRACTED.pattern.finditer(said)), default=0)
    if taken_back and found and not (found := [one for one in found if one.at >= taken_back]):
        return _BOTH
    found = [one for one in found if one.claim] or found
    if not found:
        return None
    last = max(found, key=lambda one: one.at)
    others = [one for one in found if one.choice != last.choice]
    if not others:
        return last.choice
    corrected = wordings.CORRECTION.pattern.search(said, max(one.at for one in others), last.until)
    opening = any(one.at == 0 and not one.final for one in others)
    return last.choice if corrected or (last.final and not opening) else _BOTH


def _short(options: Options, line: str, letter_only: bool = False) -> int | None:
    """The option of a line that is nothing but a letter, or a letter and its own text, in either order."""
    bare = _unfilled(line)
    match = wordings.BRACKETED.pattern.match(bare)
    if match and not _wrong(bare[match.end(1) :]):
        index, rest = _index(match[1]), bare[match.end(1) :].strip(" .,:;!?()[]{}>|=-")
        if not rest or (not letter_only and _is_text(options, index, rest)):
            return index
    for said in () if letter_only else (line, bare):
        behind = wordings.BEHIND_TEXT.pattern.search(said)
        named = options.exactly(said[: behind.start()].strip(" .,:;-(")) if behind else None
        index = _index(behind[1]) if behind else _BOTH
        if named is not None and index < len(options.tokens):
            return index if options.tokens[index] == options.tokens[named] else _BOTH
    return None


def _lead(options: Options, line: str) -> int | None:
    """The option of a line that begins with a letter and a mark; `_BOTH` where the text behind is another option's."""
    bare = _unfilled(line)
    match = wordings.LEAD.pattern.match(bare)
    if not match or _wrong(bare[match.end(1) :]):
        return None
    index, rest = _index(match[1]), bare[match.end(1) :]
    if wordings.BECAUSE.pattern.match(rest) or index >= len(options.tokens):
        return index
    named = {tuple(options.tokens[i]) for i in named_options(options, rest)}
    differs = len(named) == 1 and tuple(options.tokens[index]) not in named
    return _BOTH if differs else index


def _claims(options: Options, unit: str, following: str) -> Iterator[tuple[int, int, int, bool]]:
    """(option or `_BOTH`, from and until where, whether it is final) of each claim in a sentence.

    A claim without anything behind it is about the following line.
    """
    for start, begin, end in _cues(unit):
        part = unit[begin:end] if unit[begin:].strip(" :=-([") else following
        before = unit[max(0, start - _NEAR) : start]
        choice = None if _doubted(before) or re.search(r"\bbecause\b", before) else _claimed(options, part)
        if choice is not None:
            yield choice, start, begin, bool(wordings.FINAL.pattern.search(unit, max(0, start - _NEAR), begin))
    for match in wordings.CLAIM_BEHIND.pattern.finditer(unit):
        before = unit[max(0, match.start(1) - _NEAR) : match.start(1)]
        classified = wordings.CLASSIFIED.pattern.search(before)
        if not classified and not _doubted(before) and not _wrong(unit[match.end(1) :][:_NEAR]):
            at = match.start(1)
            yield _index(match[1]), at, at, bool(wordings.FINAL.pattern.search(unit, max(0, at - _NEAR), at))


def _cues(unit: str) -> Iterator[tuple[int, int, int]]:
    """Where each `the answer is` begins and ends, and where what it claims ends: at the next one."""
    spans = sorted(
        {match.span() for rule in wordings.CLAIMS for match in rule.pattern.finditer(unit)}, key=lambda s: (s[1], s)
    )
    last = {end: (start, end) for start, end in reversed(spans)}  # of those with one end, the longest
    cues = [last[end] for end in sorted(last)]
    for (start, end), (following, _) in itertools.pairwise([*cues, (len(unit), 0)]):
        if following >= end:  # else it is the beginning of a longer cue
            yield start, end, following


def _claimed(options: Options, part: str) -> int | None:
    """The option named right behind `the answer is`: by a letter, or by its text; `_BOTH` where they differ."""
    said = part.strip(" .:")
    exact = options.exactly(said)
    if exact is not None and not re.fullmatch(wordings.LETTER, said):
        return exact
    bare = _unfilled(part)
    if re.match(r"(?:not|neither|never)\b", bare):
        return None
    if bare.lstrip(" ([{<").startswith(wordings.SEVERAL):
        return _BOTH
    letter = wordings.BRACKETED.pattern.match(bare)
    after = bare[letter.end(1) :] if letter else ""
    if letter and (wordings.CLOSED.pattern.match(after) or _is_text(options, _index(letter[1]), after)):
        index, named = _index(letter[1]), options.exactly(after.strip(" .:)]}>-"))
        judged = re.match(r"[)\]]?\s*[:=-]\s*(no|false|wrong|incorrect)\b", after)
        if _wrong(after) or (judged and index < len(options.plain) and not options.plain[index].startswith(judged[1])):
            return None
        return _BOTH if named is not None and not _is_text(options, index, after) else index
    short = options.shortened(said)
    return _maybe(named_options(options, said)) if short is None else short


def _is_text(options: Options, index: int, text: str) -> bool:
    """Whether a text is that of an option, and nothing else."""
    own = options.tokens[index] if index < len(options.tokens) else []
    return bool(own) and own == options.tokens_of(text)


def _letters(said: str) -> set[int]:
    """Letters in weaker places that are not negated and name no class."""
    found = set()
    for rule in wordings.WEAKER:
        for match in rule.pattern.finditer(said):
            before = said[max(0, match.start(1) - _NEAR) : match.start(1)]
            if wordings.CLASSIFIED.pattern.search(before) or _doubted(before) or _wrong(said[match.end(1) :][:_NEAR]):
                continue
            found.add(_index(match[1]))
    return found


def _without_echo(options: Options, lines: Sequence[str]) -> list[str]:
    """The lines without the first run of `A: text B: text ...`, which repeats the question."""
    said = "\n".join(lines)
    items = [rf"{LETTERS[i].lower()}\s*[:.)-]+\s*{re.escape(text)}" for i, text in enumerate(options.plain) if text]
    if len(items) < 2:
        return list(lines)
    run = re.compile(r"(?<![^\W_])[(\[]?" + r"[\s,;|*•.)-]+[(\[]?".join(items) + r"(?![^\W_])\W*?(?=\n|\s|$)")
    return [line for line in run.sub("\n", said, count=1).split("\n") if line.strip(" .,;:")]


def _listing(options: Options, lines: Sequence[str]) -> bool:
    """Whether the end of a text repeats options from the first one on, behind a question or behind all of them."""
    at = next((i for i in reversed(range(len(lines))) if re.match(r"a\s*[:.)]", lines[i])), len(lines))
    items = [rf"{letter.lower()}\s*[:.)]\s*" for letter in LETTERS]
    run = [re.sub(items[i], "", line, count=1) for i, line in enumerate(lines[at : at + len(items)])]
    repeats = bool(run) and all(text.startswith(line) for text, line in zip(options.plain, run, strict=False))
    return (
        repeats
        and at > 0
        and len(run) == len(lines) - at <= len(options.plain)
        and (lines[at - 1].endswith("?") or len(_without_echo(options, lines[:at])) < at)
    )


def _judged(options: Options, said: str) -> int | None:
    """The one option that a list calls right, if it judges each that it holds: `A: no, B: yes`."""
    items = [*wordings.ITEM.pattern.finditer(said)]
    ends = [*(item.start() for item in items), len(said)][1:]
    right, wrong = set(), set()
    for item, end in zip(items, ends, strict=True):
        index = LETTERS.lower().find(item[1])
        if not 0 <= index < len(options.texts) or ["no"] in options.tokens:
            return None
        text = said[item.end() : end].split("\n")[0].strip().removeprefix(options.plain[index])
        if wordings.WRONG.pattern.match(text):
            wrong.add(index)
        elif wordings.RIGHT.pattern.match(text):
            right.add(index)
        else:
            return None
    return _maybe(right) if wrong - right else None


def _without_lists(options: Options, lines: Sequence[str]) -> list[str]:
    """The lines with a mark for each list of letters, which names none of them."""
    if any(wordings.LIST.pattern.search(text) for text in options.plain):
        return list(lines)  # such an option is known by its text alone
    lines = wordings.LIST.pattern.sub(_several, "\n".join(lines)).split("\n")
    return [_without_items(line) for line in lines if line]


def _several(match: re.Match[str]) -> str:
    return wordings.SEVERAL if len(set(re.findall(wordings.ONE, match[0]))) > 1 else match[0]


def _without_items(line: str) -> str:
    """A line without the letters of a list (`A: 5%; B: 90%`): two letters and more, with the same mark."""
    items = [*wordings.ITEM.pattern.finditer(line)]
    marks = {item[2] or item[3] for item in items}
    if len({item[1] for item in items}) < 2 or len(marks) > 1 or _unfilled(line[: items[0].start(1)]).strip(" ([{<"):
        return line
    return wordings.ITEM.pattern.sub(wordings.SEVERAL, line)


def _doubted(before: str) -> bool:
    """Whether the clause before a claim takes it back, or makes it depend on a condition."""
    sentence = re.split(r"[.!?;|](?=\s)", before)[-1]
    clause = re.split(r"[,:]|\bbut\b", sentence)[-1]
    return bool(
        wordings.NOT_BEFORE.pattern.search(clause)
        or wordings.DOUBT_BEFORE.pattern.search(clause)
        or wordings.CONDITION.pattern.search(sentence)
    )


def _all_the_same(whole: str) -> str:
    """What follows a refusal all the same, behind `however`; empty where there is nothing, or general information."""
    _, however, rest = whole.rpartition("however,")
    return rest.strip() if however and not _INFORMS.search(rest) else ""


def _clause(before: str) -> str:
    return re.split(r"[.,;:!?|]", before)[-1]


def _wrong(after: str) -> bool:
    return mentions.wrong(after) or bool(wordings.REJECTED.pattern.match(after))


def _unfilled(line: str) -> str:
    """A line without the words that may stand before a choice: `Sure, it's option B`."""
    at = 0
    while (match := wordings.FILLER.pattern.match(line, at)) and match.end() < len(line):
        at = match.end()
    return line[at:]


def _index(letter: str) -> int:
    return LETTERS.lower().index(letter)


def _maybe(found: set[int]) -> int | None:
    return found.pop() if len(found) == 1 else None


def _valid(choice: int, options: Options) -> int | None:
    return choice if 0 <= choice < len(options.texts) else None


def _only(found: set[int], options: Options) -> int | None:
    choice = _maybe(set(found))
    return None if choice is None else _valid(choice, options)
