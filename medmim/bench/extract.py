"""Extracts the chosen option from the free text of an answer; what is ambiguous is None, never guessed.

The rules, in order; the first that finds an option decides, and a rule that finds two leaves the answer unread:

1. The form of the prompt (`B: text`), because an option may hold any text, also what later rules would remove.
2. Thinking is removed and is never the answer; of what is left, the content of answer tags, where there are any
   (`reply_text`), because the model itself marked it.
3. The options repeated in order are removed: an echo of the question is no choice.
4. The text of an option and nothing else (`option_text`).
5. What is stated: a line that is a letter, the letter that leads the first line, and claims (`the answer is B`). They
   must agree; only a final answer, or a claim after a word of correction, replaces an earlier one.
6. A letter in a weaker place (`(B)`, `option B`), if it is the only one and no other option's text contradicts it.
7. The only option whose text is named.

What marks a letter stands in `wordings`.
"""

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from medmim.bench import option_text, reply_text, wordings
from medmim.bench.option_text import Options
from medmim.sample import LETTERS

_NEAR = 120  # characters beside a letter in which it may be negated
_BOTH = -1  # two options are stated, or a letter and another option's text


def extract(text: str, options: Sequence[str], images: int = 0) -> int | None:
    """The chosen option of an answer.

    Args:
        text: The generated text.
        options: Option texts in order A, B, ...; equal texts count as one, the first.
        images: Images shown, so that "the last image" has a number; 0 where unknown.

    Returns:
        Index of the option, or None where the text names none or several, or contradicts itself.
    """
    said = " ".join(reply_text.fold(text).split())
    for i, option in enumerate(options):
        written = " ".join(f"{LETTERS[i].lower()}: {reply_text.fold(option)}".split())
        if said and _prompt_form(said) == _prompt_form(written):
            return i
    known = Options(tuple(options), images)
    found = {_read(known, reply_text.lines(part)) for part in reply_text.answers(text)} - {None}
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


def _read(options: Options, lines: Sequence[str]) -> int | None:
    turn = reply_text.first_turn(lines)
    following = list(lines[len(turn) :])
    if following == _without_echo(options, following):  # another question: its options are not these
        lines = turn
    lines = _without_echo(options, lines)
    whole = " | ".join(lines)  # a mark, so that an `a` that ends a line is no article
    exact = options.exactly(whole)
    if exact is not None and not re.fullmatch(wordings.LETTER, whole):
        return exact
    stated = _decided(list(_statements(options, lines)), "\n".join(lines))
    if stated is not None:
        return _valid(stated, options)
    letters, texts = _letters(whole), options.named(whole)
    if not letters:
        return _only(texts, options)
    choice = _only(letters, options)
    contradicted = choice is not None and len(texts) == 1 and options.tokens[choice] != options.tokens[min(texts)]
    return None if contradicted else choice


@dataclass(frozen=True)
class _Statement:
    """An option that is stated: its index or `_BOTH`, where in the text, and whether it is called final."""

    choice: int
    at: int
    final: bool = False


def _statements(options: Options, lines: Sequence[str]) -> Iterator[_Statement]:
    items = {found[1] for line in lines if (found := wordings.ITEM.match(line))}
    headings = {options.exactly(line) for line in lines} - {None}
    begin = 0
    for number, line in enumerate(lines):
        alone = whole = _short(options, line)
        if whole is None and number in (0, len(lines) - 1) and len(headings) < 2 and not line.endswith(":"):
            whole = options.exactly(line) if len(lines) > 1 else None
            whole = options.shortened(line) if whole is None and number == 0 else whole
        if whole is None and number == 0 and len(items) < 2:  # several lines with letters list the options
            whole = _lead(options, line)
        if whole is not None:
            yield _Statement(whole, begin)
        following = lines[number + 1] if number + 1 < len(lines) else ""
        for unit in wordings.SENTENCE.finditer(line):
            short = _short(options, unit[0], letter_only=True) if alone is None else None
            if short is not None:
                several = wordings.OR_ANOTHER.match(line, unit.end())
                yield _Statement(_BOTH if several else short, begin + unit.start())
            if not unit[0].endswith("?") or unit[0] == line:  # else a question to itself
                for choice, at, final in _claims(options, unit[0], following):
                    yield _Statement(choice, begin + unit.start() + at, final)
        begin += len(line) + 1


def _decided(found: list[_Statement], said: str) -> int | None:
    """The option that the statements agree on; `_BOTH` where they do not, None where there is none."""
    if not found:
        return None
    last = max(found, key=lambda one: one.at)
    others = [one for one in found if one.choice != last.choice]
    if not others:
        return last.choice
    corrected = wordings.CORRECTION.search(said, max(one.at for one in others), last.at)
    opening = any(one.at == 0 and not one.final for one in others)
    return last.choice if corrected or (last.final and not opening) else _BOTH


def _short(options: Options, line: str, letter_only: bool = False) -> int | None:
    """The option of a line that is nothing but a letter, or a letter and its own text, in either order."""
    bare = _unfilled(line)
    match = wordings.BRACKETED.match(bare)
    if match and not _wrong(bare[match.end(1) :]):
        index, rest = _index(match[1]), bare[match.end(1) :].strip(" .,:;!?()[]{}>|=-")
        if not rest or (not letter_only and _is_text(options, index, rest)):
            return index
    behind = None if letter_only else wordings.BEHIND_TEXT.search(bare)
    if behind:
        named, index = options.exactly(bare[: behind.start()].strip(" .,:;-(")), _index(behind[1])
        if named is not None and index < len(options.tokens):
            return index if options.tokens[index] == options.tokens[named] else _BOTH
    return None


def _lead(options: Options, line: str) -> int | None:
    """The option of a line that begins with a letter and a mark; `_BOTH` where the text behind is another option's."""
    bare = _unfilled(line)
    match = wordings.LEAD.match(bare)
    if not match or _wrong(bare[match.end(1) :]) or wordings.MORE.match(bare, match.end(1)):
        return None
    index, rest = _index(match[1]), bare[match.end(1) :]
    if wordings.BECAUSE.match(rest) or index >= len(options.tokens):
        return index
    sentence = wordings.SENTENCE.match(rest)
    others = {_short(options, clause, letter_only=True) for clause in re.split("[,;]", sentence[0] if sentence else "")}
    named = {tuple(options.tokens[i]) for i in options.named(rest)}
    differs = len(named) == 1 and tuple(options.tokens[index]) not in named
    return _BOTH if differs or others - {None, index} else index


def _claims(options: Options, unit: str, following: str) -> Iterator[tuple[int, int, bool]]:
    """(option or `_BOTH`, where, whether it is final) of each claim in a sentence.

    A claim without anything behind it is about the following line.
    """
    for start, begin, end in _cues(unit):
        part = unit[begin:end] if unit[begin:].strip(" :=-([") else following
        clause = re.split(r"[,;]|\bbut\b", unit[max(0, start - _NEAR) : start])[-1]
        refused = wordings.NOT_BEFORE.search(clause) or wordings.DOUBT_BEFORE.search(clause)
        choice = None if refused else _claimed(options, part)
        if choice is not None:
            yield choice, start, bool(wordings.FINAL.search(unit, max(0, start - _NEAR), begin))
    for match in wordings.CLAIM_BEHIND.finditer(unit):
        clause = _clause(unit[max(0, match.start(1) - _NEAR) : match.start(1)])
        if (
            not wordings.NOT_BEFORE.search(clause)
            and not wordings.DOUBT_BEFORE.search(clause)
            and not _wrong(unit[match.end(1) :][:_NEAR])
        ):
            at = match.start(1)
            yield _index(match[1]), at, bool(wordings.FINAL.search(unit, max(0, at - _NEAR), at))


def _cues(unit: str) -> Iterator[tuple[int, int, int]]:
    """Where each `the answer is` begins and ends, and where what it claims ends: at the next one."""
    spans = sorted(
        {match.span() for pattern in wordings.CLAIMS for match in pattern.finditer(unit)}, key=lambda s: (s[1], s)
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
    letter = wordings.BRACKETED.match(bare)
    after = bare[letter.end(1) :] if letter else ""
    if letter and (wordings.CLOSED.match(after) or _is_text(options, _index(letter[1]), after)):
        index, named = _index(letter[1]), options.exactly(after.strip(" .:)]}>-"))
        if _wrong(after):
            return None
        several = wordings.MORE.match(after) or (named is not None and not _is_text(options, index, after))
        return _BOTH if several else index
    short = options.shortened(said)
    return _maybe(options.named(said)) if short is None else short


def _is_text(options: Options, index: int, text: str) -> bool:
    """Whether a text is that of an option, and nothing else."""
    own = options.tokens[index] if index < len(options.tokens) else []
    return bool(own) and own == options.tokens_of(text)


def _letters(said: str) -> set[int]:
    """Letters in weaker places that are not negated and name no class."""
    found = set()
    for pattern in wordings.WEAKER:
        for match in pattern.finditer(said):
            before = said[max(0, match.start(1) - _NEAR) : match.start(1)]
            if (
                wordings.NOT_BEFORE.search(_clause(before))
                or wordings.CLASSIFIED.search(before)
                or _wrong(said[match.end(1) :][:_NEAR])
            ):
                continue
            found.add(_index(match[1]))
            end = match.end(1)
            while more := wordings.MORE.match(said, end):
                found.add(_index(more[1]))
                end = more.end(1)
    return found


def _without_echo(options: Options, lines: Sequence[str]) -> list[str]:
    """The lines without the first run of `A: text B: text ...`, which repeats the question."""
    said = "\n".join(lines)
    items = [rf"{LETTERS[i].lower()}\s*[:.)-]+\s*{re.escape(text)}" for i, text in enumerate(options.plain) if text]
    if len(items) < 2:
        return list(lines)
    run = re.compile(r"(?<![^\W_])[(\[]?" + r"[\s,;|*•.)-]+[(\[]?".join(items) + r"(?![^\W_])\W*?(?=\n|\s|$)")
    return [line for line in run.sub("\n", said, count=1).split("\n") if line.strip(" .,;:")]


def _clause(before: str) -> str:
    return re.split(r"[.,;:!?|]", before)[-1]


def _wrong(after: str) -> bool:
    return option_text.wrong(after) or bool(wordings.REJECTED.match(after))


def _unfilled(line: str) -> str:
    """A line without the words that may stand before a choice: `Sure, it's option B`."""
    while (match := wordings.FILLER.match(line)) and match.end() < len(line):
        line = line[match.end() :]
    return line


def _prompt_form(said: str) -> str:
    return re.sub(rf"^({wordings.LETTER})\s*[:.)]\s*", r"\1: ", said).rstrip(" .")


def _index(letter: str) -> int:
    return LETTERS.lower().index(letter)


def _maybe(found: set[int]) -> int | None:
    return found.pop() if len(found) == 1 else None


def _valid(choice: int, options: Options) -> int | None:
    return choice if 0 <= choice < len(options.texts) else None


def _only(found: set[int], options: Options) -> int | None:
    choice = _maybe(set(found))
    return None if choice is None else _valid(choice, options)
