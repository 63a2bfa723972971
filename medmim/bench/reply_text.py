r"""What a reply says, without its form: thinking removed, then markup, tokens and invisible characters.

Servers and models wrap the same answer in many ways (`<answer>B</answer>`, `\boxed{B}`, `**B**`, `B</s>`, full-width
letters). All of them are undone here, so that the rules in `extract` see plain lines in one case and one alphabet.
"""

import re
import unicodedata
from collections.abc import Sequence

_THOUGHT = re.compile(
    r"(?:deep|inner|internal|my|self)?[ -]?(?:think(?:ing)?|thoughts?|reason(?:ing)?|reflect(?:ion)?|analy[sz](?:e|is)|"
    r"monologue?|deliberation|scratch ?pad|brainstorm(?:ing)?|chain of thought|cot|rationale|plan(?:ning)?)"
    r"(?: (?:process|content|steps?))?|思考|思考过程|推理|分析"
)
_ANSWER = {
    "ans", "answer", "box", "choice", "conclusion", "final", "final answer", "final response", "output", "response",
    "result", "solution", "答案", "回答",
}  # fmt: skip
_MARK = re.compile(
    r"(?P<open>[<\[◁]{1,2})\s*(?P<bar>\|?)\s*\\?(?P<slash>/?)\s*"
    r"(?:(?P<edge>begin|start|end)(?:[_▁ -]of)?[_▁ -])?(?P<name>[^\W\d_][^\W\d_]*(?:[:_▁ -]+[^\W\d_]+)*?)"
    r"(?:\s+[a-z-]+\s*=[^<>]*)?\s*(?P<empty>/?)\s*\|?\s*[>\]▷]{1,2}"
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
    (re.compile(r"assistantfinal"), "</think>"),
)
_HEADING = r"(?m)^[ \t#*>]*(?:{names})[ \t]*[*]*[ \t]*(?::[ \t*]*|$)"
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
_CUT_TAG = re.compile(r"<[/|]?[a-z_|]*$")
_LETTER_TAG = re.compile(r"<\s*([a-h])\s*>(?![\s\S]*</\s*\1\s*>)")
_STRUCK = re.compile(r"~~[^~\n]*~~|<(del|strike)>[\s\S]*?</\1>")
_LATEX = re.compile(r"\\(?:text\w*|math\w+|mbox|rm|bf|displaystyle|large|quad|left|right|[,;!()\[\]])\s?|(?<!\\)\$")
_BOXED = re.compile(
    r"\\(?:boxed|fbox)\s*(?:\{+([^{}\n]*)\}+|([a-h])\b)|\[\[\s*([a-h])\s*\]\]|\{\{\s*([a-h])\s*\}\}|<<\s*([a-h])\s*>>"
)
_ROLE = re.compile(r"^(?:assistant|model|ai|bot|gpt|response|output)\s*(?::\s*|$)")
_NEXT_TURN = re.compile(r"^(?:user|human|instruction|question|q)\s*\d*\s*:")
_BULLET = re.compile(r"^[-*•>|#=~:.+\s]+|[|*#\s]+$")

_CHARACTERS = str.maketrans(
    {
        **dict.fromkeys("。｡۔।॥", "."), **dict.fromkeys("、،", ","), "؛": ";", "؟": "?", "：": ":",
        **dict.fromkeys("“”„‟«»「」『』《》【】〖〗〝〞", '"'), **dict.fromkeys("‘‚‛‹›`´", "'"), "’": "'", "ʼ": "'",
        **dict.fromkeys("‐‑‒–—―−", "-"), **dict.fromkeys("→⇒➔➡➜⟹👉", ":"), **dict.fromkeys("〈⟨", "<"),
        **dict.fromkeys("〉⟩", ">"), **dict.fromkeys("〔", "("), **dict.fromkeys("〕", ")"),
        **dict.fromkeys("❌✗✘✖", " (wrong) "), **dict.fromkeys("\u2028\u2029\x85\x0b\x0c\r", "\n"), "\t": " ",
        **{chr(first + i): letter for first in (0x1F150, 0x1F170) for i, letter in enumerate("abcdefgh")},
    }
)  # fmt: skip
_ENTITIES = {"&lt;": "<", "&gt;": ">", "&amp;": "&", "&quot;": '"', "&nbsp;": " ", "&#39;": "'", "&apos;": "'"}
UNSPACED = r"\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3"  # scripts whose words touch a Latin letter beside them


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
    found = [_ROLE.sub("", line).strip() for line in found]
    return [line for line in found if line]


def first_turn(found: Sequence[str]) -> Sequence[str]:
    """The lines before a base model goes on with a next question of its own."""
    for at, line in enumerate(found):
        if at and _NEXT_TURN.match(line):
            return found[:at]
    return found


def fold(text: str) -> str:
    """Normalise case, alphabet, quotes and dashes; remove what is not seen. Equal for any case of the same text."""
    text = text.replace("\x08oxed", "\\boxed")  # a server that takes `\b` for a backspace
    text = text.translate(_CHARACTERS)
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).upper().casefold())
    text = "".join(" " if _is_ornament(c) else c for c in text if c == "\n" or not _is_invisible(c))
    for entity, character in _ENTITIES.items():
        text = text.replace(entity, character)
    return text


def plain(text: str) -> str:
    """A text in one line as `lines` would show it: for option texts, which are compared with replies."""
    return " ".join(_plain(fold(text)).split())


def _without_thinking(text: str) -> str | None:
    """The text outside of thoughts; None where a thought is not closed.

    A closing tag alone ends a thought that the chat template opened, so all before it is dropped. A tag that marks an
    answer ends a thought too, if the reply ends with that answer.
    """
    kept: list[str] = []
    at, thinking, implied = 0, False, False
    for mark in _MARK.finditer(text):
        name, closes = _name(mark), _closes(mark)
        if thinking and name in _ANSWER and not closes:
            thinking, implied, at = False, not mark["bar"], mark.start()  # `<|answer|>` is never closed
        if not _THOUGHT.fullmatch(name) or mark["empty"]:
            continue
        if not thinking:
            kept.append(text[at : mark.start()])
        if closes and not thinking:
            kept.clear()
            implied = False
        thinking, at = not closes, mark.end()
    if thinking:
        return None
    rest = "".join((*kept, text[at:]))
    if implied and not _ends_with_answer(rest):
        return None
    return _without_headed_thinking(rest)


def _ends_with_answer(text: str) -> bool:
    marks = [mark for mark in _MARK.finditer(text) if _name(mark) in _ANSWER]
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
        if _name(mark) not in _ANSWER:
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
    text = _LETTER_TAG.sub(r"(\1)", text)
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
