r"""What a reply says, without its form: thinking removed, then markup, tokens and invisible characters.

Servers and models wrap the same answer in many ways (`<answer>B</answer>`, `\boxed{B}`, `**B**`, `B</s>`, full-width
letters). All of them are undone here, so that the rules in `extract` see plain lines in one case and one alphabet.
"""

import re
import unicodedata
from collections.abc import Sequence

from medmim.bench.reader.words import UNSPACED, words

_RARE = re.compile(r"[^\n -~]")
_LONGEST = 20_000  # characters: a longer reply is read from its beginning and its end, half of it each
# A tag of any other name holds no answer. `summary` and `details` are HTML too, but models think in them.
_ANSWER = re.compile(
    r"(?:\w+ )?"
    + words("ans", "answer", "box", "choice", "conclusion", "final", "letter", "option", "output",
            "prediction", "response", "result", "selection", "solution", "verdict", "答案", "回答")
)  # fmt: skip
_FORMAT = re.compile(
    "[a-z]|h[1-6]|"
    + words("blockquote", "body", "br", "center", "code", "div", "em", "font", "html", "ins", "li", "mark", "ol",
            "pre", "small", "span", "strong", "sub", "sup", "table", "tbody", "td", "th", "tr", "ul")
)  # fmt: skip
# Stands alone: `<pad>`, `<image>`, `<start_of_turn>`.
_PLACE = re.compile(words("bos", "eos", "image", "img", "pad", "sep", "turn", "unk", "video") + r"\d*|unused\d+")
# Names that say so are thoughts in brackets of any kind, as a heading, and where only the end is marked.
_THINKING = words("think(?:ing)?", "thoughts?", "reason(?:ing)?", "reflect(?:ion)?", "analy(?:ze|sis)", "monologue",
                  "scratch ?pad", "chain of thought", "cot", "rationale", "plan(?:ning)?", "思考", "推理",
                  "分析")  # fmt: skip
_THOUGHT = re.compile(rf"(?:\w+[ :-])?{_THINKING}(?: \w+)?")
_MARK = re.compile(
    r"""
    (?P<open>[<\[◁]{1,2})\s*(?P<bar>\|?)\s*(?P<slash>/?)\s*
    (?:(?P<edge>begin|start|end)(?:[_▁ -]of)?[_▁ -])?
    (?P<name>[^\W\d_][^\W_]*(?:[:_▁ -]+[^\W\d_][^\W_]*)*?)
    (?:\s+[a-z-]+\s*=[^<>]*)?                                   # attributes
    \s*(?P<empty>/?)\s*\|?\s*[>\]▷]{1,2}
    """,
    re.VERBOSE,
)
_SPACES = re.compile(r"[_▁\s-]+")
# How some models write it: Harmony's channels (also with its tokens left out), MedGemma's reserved tokens.
_ALIASES = (
    (re.compile(r"<\|channel\|>\s*(?:analysis|commentary)\b[^<]*(?:<\|message\|>)?"), "<think>"),
    (re.compile(r"<\|channel\|>\s*final\b[^<]*(?:<\|message\|>)?"), "</think>"),
    (re.compile(r"<\|im_start\|>\s*think\b"), "<think>"),
    (re.compile(r"<\|im_start\|>\s*answer\b"), "</think>"),
    (re.compile(r"<details[^<>]*>"), "<think>"),
    (re.compile(r"</details>"), "</think>"),
    (re.compile(r"<unused94>(?:thought\b)?"), "<think>"),
    (re.compile(r"<unused95>"), "</think>"),
    (re.compile(r"^\s*analysis(?=[^\W_])"), "<think>"),
    (re.compile(r"^\s*thinking\.\.\.\s*\n"), "<think>"),
    (re.compile(r"\.\.\.done thinking\.?"), "</think>"),
    (re.compile(rf"[(\[]\s*{_THINKING}\s*:[^()\[\]]*[)\]]"), " "),
    (re.compile(r"assistantfinal"), "</think>"),
)
_HEADING = r"(?m)^[ \t#*>(\[]*(?:{names})[ \t]*[*]*[ \t]*(?::[ \t*]*|$)"
_THOUGHT_HEADING = re.compile(
    _HEADING.format(names="thinking(?: process)?|thoughts?(?: process)?|(?:here is )?my thought process")
)
# Such a section is no thinking where it stands alone: `Explanation: ...` may hold the answer.
_REASONING_HEADING = re.compile(
    _HEADING.format(names="(?:step[- ]by[- ]step )?(?:reasoning|analysis|explanation|rationale)|observations?|findings")
)
_ANSWER_HEADING = re.compile(
    _HEADING.format(names="(?:the )?(?:final )?(?:answer|response)|conclusion|here is my (?:response|answer)")
)

_END = re.compile(
    r"<\|?\s*(?:eot_id|eom_id|im_end|end|eos|eod|return|endoftext|assistant_end|end[_▁]of[_▁](?:text|turn|sentence"
    r"|message))\s*\|?>|</s>|\[eos\]"
)
_BLOCK_TAG = re.compile(r"<br\s*/?>|</?(?:p|div|li|ul|ol|tr|h\d)(?:\s[^<>]*)?>")
_TOKEN = re.compile(r"<\|[^<>|\n]{1,40}\|>|\[/?(?:inst|sys|bos|pad|unk|sep|cls)\]")
_TAG = re.compile(r"</?[a-z!][^<>\n]{0,80}>")
_CUT_TAG = re.compile(r"<[/|]?[a-z_|]*\s*$")
_LETTER_TAG = re.compile(r"<\s*([a-h])\s*>")
_CLOSED_LETTER = re.compile(r"</\s*([a-h])\s*>")
_STRUCK = re.compile(r"~~[^~\n]*~~")
_LATEX = re.compile(r"\\(?:text\w*|math\w+|mbox|rm|bf|displaystyle|large|quad|left|right|[,;!()\[\]])\s?|(?<!\\)\$")
_BOXED = re.compile(
    r"(?:\\|\b)(?:boxed|fbox)\s*(?:\{+([^{}\n]*)\}+|([a-h])\b)|\[\[\s*([a-h])\s*\]\]|\{\{\s*([a-h])\s*\}\}|<<\s*([a-h])\s*>>"
)
_ROLE = re.compile(r"^(?:assistant|model|ai|bot|gpt|response|output)\s*(?::\s*|$)")
_NEXT_TURN = re.compile(r"^(?:user|human|instruction|question|q)\s*\d*\s*:")
_TICKED = re.compile(r"^\[x\]\s*")
_BULLET = re.compile(r"^[-*•>|#=~:.+\s]+|[|*#\s]+$")

_CHARACTERS = str.maketrans(
    {
        **dict.fromkeys("。｡۔।॥", ". "), **dict.fromkeys("、،", ","), "؛": ";", "؟": "?", "：": ":",
        **dict.fromkeys("“”„‟«»「」『』《》〝〞", '"'), **dict.fromkeys("‘‚‛‹›`´", "'"), "’": "'", "ʼ": "'",
        **dict.fromkeys("【〖", "["), **dict.fromkeys("】〗", "]"), **dict.fromkeys("☑☒", "[x] "), "☐": "[ ] ",
        **dict.fromkeys("‐‑‒–—―−", "-"), **dict.fromkeys("→⇒➔➡➜⟹👉", ":"), **dict.fromkeys("〈⟨", "<"),
        **dict.fromkeys("〉⟩", ">"), **dict.fromkeys("〔", "("), **dict.fromkeys("〕", ")"),
        **dict.fromkeys("❌✗✘✖", " (wrong) "), **dict.fromkeys("\u2028\u2029\x85\x0b\x0c\r", "\n"), "\t": " ",
        **{chr(first + i): letter for first in (0x1F150, 0x1F170) for i, letter in enumerate("abcdefgh")},
    }
)  # fmt: skip
_ENTITIES = {"&lt;": "<", "&gt;": ">", "&amp;": "&", "&quot;": '"', "&nbsp;": " ", "&#39;": "'", "&apos;": "'"}


def answers(text: str) -> Sequence[str]:
    """The parts of a reply that may hold its answer, folded; `lines` reads each.

    Returns:
        The content of the tags that mark an answer, or the reply without its thinking; empty where the thinking was
        not finished, as in a reply that was cut: what it mentions is no answer.
    """
    folded = fold(text)
    for pattern, mark in _ALIASES:
        folded = pattern.sub(mark, folded)
    kept = _without_thinking(folded)
    return () if kept is None else _answer_blocks(kept) or (kept,)


def lines(part: str) -> list[str]:
    """The lines of a part, without markup, bullets, quotes and emphasis; none is empty."""
    head, *rest = _END.split(part, maxsplit=1)
    if rest and _plain(head).strip():  # what a model writes past its end of turn is another conversation
        part = head
    found = [_BULLET.sub("", " ".join(line.split())) for line in _plain(part).split("\n")]
    found = [_ROLE.sub("", _TICKED.sub("", line)).strip() for line in found]
    return [line for line in found if line]


def first_turn(found: Sequence[str]) -> Sequence[str]:
    """The lines before a base model goes on with a next question of its own."""
    for at, line in enumerate(found):
        if at and _NEXT_TURN.match(line):
            return found[:at]
    return found


def fold(text: str) -> str:
    """Normalise case, alphabet, quotes and dashes; remove what is not seen. Equal for any case of the same text."""
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST // 2]}\n{text[-_LONGEST // 2 :]}"
    text = text.replace("\x08oxed", "\\boxed")  # a server that takes `\b` for a backspace
    text = text.translate(_CHARACTERS)
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).upper().casefold())
    text = _RARE.sub(lambda m: "" if _is_invisible(m[0]) else " " if _is_ornament(m[0]) else m[0], text)
    for entity, character in _ENTITIES.items():
        text = text.replace(entity, character)
    return text.replace("\\<", "<").replace("\\>", ">")


def plain(text: str) -> str:
    """A text in one line as `lines` would show it: for option texts, which are compared with replies."""
    return " ".join(_plain(fold(text)).split())


def _without_thinking(text: str) -> str | None:
    """The text outside of thoughts; None where a thought is not closed.

    A closing tag alone ends a thought that the chat template opened, so all before it is dropped. A tag that marks an
    answer ends a thought too, if the reply ends with that answer.
    """
    kept: list[str] = []
    at, implied = 0, False
    inside: str | None = None  # the name of the tag in which thoughts stand
    for mark in _MARK.finditer(text):
        name, closes = _name(mark), _closes(mark)
        thought = bool(_THOUGHT.fullmatch(name))
        if inside and not closes and _ANSWER.fullmatch(name):
            inside, implied, at = None, not mark["bar"], mark.start()  # `<|answer|>` is never closed
        elif inside and closes and (thought or name == inside):
            inside, at = None, mark.end()
        elif inside or mark["empty"]:
            continue
        elif closes and thought:
            kept.clear()
            implied, at = False, mark.end()
        elif not closes and (thought or _holds_no_answer(mark, name)):
            kept.append(text[at : mark.start()])
            inside, at = name, mark.end()
    if inside and (_THOUGHT.fullmatch(inside) or _plain(text[at:]).strip()):
        return None
    rest = "".join((*kept, "" if inside else text[at:]))
    if implied and not _ends_with_answer(rest):
        return None
    return _without_headed_thinking(rest)


def _holds_no_answer(mark: re.Match[str], name: str) -> bool:
    """Whether a tag of no known name begins what is no answer; tokens (`<|user|>`) and brackets do not."""
    known = _ANSWER.fullmatch(name) or _FORMAT.fullmatch(name) or _PLACE.fullmatch(name)
    return mark["open"] == "<" and not mark["bar"] and mark[0].endswith(">") and not known


def _ends_with_answer(text: str) -> bool:
    marks = [mark for mark in _MARK.finditer(text) if _ANSWER.fullmatch(_name(mark))]
    return bool(marks and _closes(marks[-1]) and not _plain(text[marks[-1].end() :]).strip())


def _without_headed_thinking(text: str) -> str | None:
    """The text without a thought under a heading (`## Thinking`), which the heading of the answer ends."""
    thought = _THOUGHT_HEADING.search(text)
    heading = thought or _REASONING_HEADING.search(text)
    if heading is None:
        return text
    answer = [*_ANSWER_HEADING.finditer(text, heading.end())]
    if not answer:
        return None if thought else text
    return text[: heading.start()] + text[answer[-1].start() :]


def _answer_blocks(text: str) -> list[str]:
    blocks: list[str] = []
    begin: int | None = None
    for mark in _MARK.finditer(text):
        if not _ANSWER.fullmatch(_name(mark)):
            continue
        if begin is not None:
            blocks.append(text[begin : mark.start()])
        begin = None if _closes(mark) else mark.end()
    if begin is not None:
        blocks.append(text[begin:])
    return [block for block in blocks if _plain(block).strip()]


def _name(mark: re.Match[str]) -> str:
    return _SPACES.sub(" ", mark["name"].removeprefix("seed:").removeprefix("antml:")).strip()


def _closes(mark: re.Match[str]) -> bool:
    return bool(mark["slash"]) or mark["edge"] == "end"


def _plain(text: str) -> str:
    text = _STRUCK.sub(" ", text)
    text = _LATEX.sub("", text)
    text = _BOXED.sub(lambda m: f"\nfinal answer: {next(group for group in m.groups() if group is not None)}\n", text)
    text = _BLOCK_TAG.sub("\n", text)
    closed = set(_CLOSED_LETTER.findall(text))  # `<b>text</b>` is bold, `<b>` alone an answer
    text = _LETTER_TAG.sub(lambda m: m[0] if m[1] in closed else f"({m[1]})", text)
    text = _TOKEN.sub(" ", _END.sub(" ", text))
    text = _CUT_TAG.sub("", _TAG.sub(" ", text))
    text = re.sub(r"```\w*", "\n", text)
    text = re.sub(r"\*\*|(?<!\w)\*|\*(?!\w)|[\"`~\\]|(?<![^\W_])'|'(?![^\W_])", "", text)
    return re.sub(rf"(?<=[{UNSPACED}])(?=[a-z])|(?<=[a-z])(?=[{UNSPACED}])", " ", text.replace("_", " "))


def _is_invisible(character: str) -> bool:
    return unicodedata.category(character) in ("Cf", "Cc", "Me") or "\ufe00" <= character <= "\ufe0f"


def _is_ornament(character: str) -> bool:
    """Emoji, and what stands for text that could not be decoded."""
    return unicodedata.category(character) in ("So", "Cs", "Co", "Cn")
