"""The wordings in which replies name an option by its letter: rules over folded text (`reply_text`), with examples.

Letters are known by the marks and words around them, and these are the same for every letter: relabelling the options
never changes what is read. `A` is no special case, though it is also an article: what does not mark an `a` as a letter
does not mark a `b`.

Repetitions are bounded, so that long replies are read in linear time. `tests/bench/reader/test_wordings.py` reads the
examples, and takes out each word and each rule in turn: one that no example and no case needs must go.
"""

import re
from dataclasses import dataclass

from medmim.bench.reader.words import UNSPACED, words
from medmim.sample import LETTERS


@dataclass(frozen=True)
class Rule:
    """A pattern, and whole replies that show it.

    Attributes:
        read: Replies that are read as `{l}`; `{t}` is its option's text, `{o}` and `{p}` are other letters, `{u}` is
            the text of `{o}`.
        unread: Replies that are not read.
    """

    pattern: re.Pattern[str]
    read: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()


def _rule(pattern: str, read: tuple[str, ...] = (), unread: tuple[str, ...] = ()) -> Rule:
    return Rule(re.compile(pattern, re.VERBOSE), read, unread)


SEVERAL = "\0"  # stands in a reply for a list of letters, which names none of them
LETTER = f"[{LETTERS[0].lower()}-{LETTERS[-1].lower()}]"
# Not letters of options: `e.g.`, `a.m.` (full stop inside), `d-dimer` (dash inside), `b's`.
_ALONE = r"(?<![^\W_])(?<![^\W_][-'.&])({})(?![^\W_]|[-'&][^\W_]|\.[^\W\d_]\b)"
ONE = _ALONE.format(LETTER)
_OPEN = rf"(?:[(\[{{<]{{1,3}}\s*)?{ONE}"
_OTHER = _OPEN.replace(f"({LETTER})", LETTER)  # a further one, whose place no rule asks for
_CLOSE = r"[)\]}>]{0,3}"
_NOUN = words("answer", "ans", "option", "opt", "choice", "letter", "response", "selection", "pick", "alternative",
              "guess", "statement", "description", "match", "prediction", "solution")  # fmt: skip
_REASON = words("because", "since", "as", "due to") + r"\b"
_INSTEAD = (
    words("over", "rather than", "instead of", "not") + rf"\s(?:{_NOUN}\s)?(?:{_OTHER}|{SEVERAL})(?=\W{{0,9}}$|[.,;:])"
)
_TAIL = words("it is", "i think", "i believe", "for sure", "of course", "probably", "most likely") + r"\W{0,9}$"
# What ends a letter: a mark; behind a cue also a word that no article stands before.
_MARK = rf"$|[:,;!?)\]}}|=/.&]|-(?:\s|$)|\(|{_REASON}|{_INSTEAD}|{_TAIL}"
_VERB = words("is", "was", "are", "has", "seems", "appears", "looks", "shows", "fits", "matches", "describes", "would",
              "represents", "indicates", "makes", "could", "should", "must", "can", "will", "may", "might", "and", "or",
              "but", "so", "with", "for", "in", "on", "at", "by", "from", "which", "that", "it",
              "when", "while", "therefore", "this", "the", "here", "also", "i", "we", "correct") + r"\b"  # fmt: skip
_MARK_END = rf"(?=\s*(?:{_MARK}))"
_WORD_END = rf"(?=\s*(?:{_MARK}|{_VERB}|[{UNSPACED}]))"
_NAMED = rf"(?:{_NOUN}\s+)?{_OPEN}{_CLOSE}"  # option (B)

_BE = words("is", "was", "would be", "will be", "appears to be", "seems to be")
_IS = rf"(?:{_BE}\b(?:\s+{words('as follows', 'given as')})?\s*:?|[:=]|-(?=\s))"
_IT_IS = "(?:" + words("it", "this", "that") + rf"\s{_BE}|" + words("must be", "should be", "has to be", "it's",
                                                                    "that's") + ")"  # fmt: skip
_ASKED_FOR = words("to", "for", "of", "that", "which", "among", "here", "number")
_CHOOSE = words("choose", "chose", "chosen", "choosing", "select", "selected", "selecting", "pick", "picked", "picking",
                "go with", "going with", "went with", "go for", "opt for", "settle on", "lean", "lean towards",
                "leaning towards", "vote for", "say", "think", "believe", "guess", "conclude", "corresponds to",
                "matches", "consistent with", "points to", "suggests", "indicates", "means", "leaves", "leaving",
                "leads to", "we get")  # fmt: skip
_SO = words("so", "thus", "therefore", "hence", "overall", "finally", "ultimately", "conclusion", "in summary",
            "verdict", "result", "diagnosis", "decision", "elimination")  # fmt: skip
_NO_WAIT = words("wait", "no", "actually", "sorry", "correction", "rather")
_PRAISED = words("correct", "right", "best", "accurate", "appropriate", "true", "likely")
_PRAISED_ONE = words("one", "fit", "diagnosis", "than", "here")
_SURELY = words("the", "my", "most", "only", "clearly", "definitely", "probably", "therefore", "also",
                "indeed", "more", "single", "final")  # fmt: skip
_FITS = words("fits", "matches", "describes", "represents", "explains")

# "answer" in other languages
_ANSWER = r"(?<![不非]\s)(?<![不非])" + words(
    "答", "選項", "選択肢", "正解", "選擇", "选", "답", "보기", "الإجابة", "الاجابة", "الجواب", "الخيار", "ответ",
    "вариант", "réponse", "reponse", "respuesta", "opción", "opcion", "risposta", "resposta", "opção", "opcao",
    "alternativa", "letra", "antwort", "richtig", "antwoord", "svar", "vastaus", "odpowiedź", "odpověď", "cevap",
    "yanit", "seçenek", "jawaban", "opsi", "đáp án", "उत्तर", "विकल्प", "απάντηση",
)  # fmt: skip
_NOT_ABROAD = words("nicht", "kein", "no", "non", "pas", "не", "não")

CLAIMS = (
    _rule(
        rf"\b{_NOUN}\b(?:\s+(?:{_ASKED_FOR}|{_NOUN})\b[^.;:!?=]{{0,60}}?)?{_CLOSE}\s*\d{{0,2}}\s*{_IS}",
        read=("The answer to question 1 is {l}.", "Answer 1: {l}"),
        unread=("The answer is {l} large mass", "The answer is not {l}."),
    ),
    _rule(
        rf"{SEVERAL}[)\]]?\s*:(?=\s*{_NAMED}{_MARK_END})",
        read=("Answer ({l}/{o}): {l}", "Answer with {l} or {o}: {l}", "Select one ({o}, {l}): {l}"),
    ),
    _rule(
        rf"\bone\s+{_BE}\s*:?(?=\s*{_NAMED}{_MARK_END})",
        read=("The most suitable one would be {l}, as the size differs.",),
        unread=("The one would be {l} large mass",),
    ),
    _rule(rf"\b{_NOUN}\s+(?={_OPEN}\W{{0,5}}$)", read=("Final answer ({l})",), unread=("not option {l}",)),
    _rule(  # only with a letter, since much is chosen and thought that is no option
        rf"\b{_CHOOSE}\b(?:\s+(?:that|{_IT_IS}|the\s+{_NOUN}\s+is))*\s*:?(?=\s*{_NAMED}{_WORD_END})",
        read=("I would choose {l} over {o}.", "I choose option {l} over option {o}.", "This corresponds to {l}."),
        unread=("It is tempting to choose {l}.", "I think {l} large mass"),
    ),
    _rule(
        rf"\b{_SO}\b\s*[,:]?(?:\s+{_IT_IS})?\s*(?={_NAMED}{_MARK_END})",
        read=("The mass grew; so {l}.", "{o} is excluded. By elimination, {l}."),
    ),
    _rule(
        rf"""\b(?:{_IT_IS}|not\s[^.;]{{0,40}}\sbut|(?<=,\s)but\s(?:(?!not\b|never\b|n't)[\w']+\s){{0,4}}?)\s*
        (?={_NAMED}{_MARK_END})""",
        read=("Not {o} but {l}.", "At first glance {o}, but on closer inspection {l}."),
        unread=("Everything but {l}", "Perhaps, but not {l}."),
    ),
    _rule(
        rf"(?<!:\s)\b{_NO_WAIT}\b\s*[,:.-]+\s*(?={_OPEN}{_CLOSE}{_MARK_END})",
        read=("Let me think. The answer is {o}... wait, {l}.", "The answer is {o}? No, {l}."),
    ),
    _rule(
        rf"\bmak(?:es|ing)\s+(?={_NAMED}\s+(?:the\s+)?{_PRAISED}\b)",
        read=("The mass grew, making {l} the correct answer.",),
    ),
    _rule(
        rf"""{_ANSWER}(?:(?!\b{_NOT_ABROAD}\b|不|ない)[\w\s]){{0,24}}?[\s:=,-]*
        (?={_OPEN}(?:\W{{0,5}}(?:$|[{UNSPACED}])|{_MARK_END}))""",
        read=("正解は{l}です", "A resposta correta é a letra {l}.", "选{l}，不选{o}"),
        unread=("Die Antwort ist nicht {l}.", "不选{l}", "选項{l}錯誤", "答えは{l}ではない"),
    ),
)
CLAIM_BEHIND = _rule(
    rf"""{_OPEN}{_CLOSE}\s*,?\s*(?:which\s+)?(?:
        {words("is", "seems", "appears", "would be", "must be", "should be", "was")}\s+(?:to\sbe\s+)?(?:{_SURELY}\s+)*
        (?:{_NOUN}\b|{_PRAISED}\b(?=\s*(?:$|[.,;:!)]|{_REASON}|(?:{_NOUN}|{_PRAISED_ONE})\b)))
        |{_FITS}\sbest\b|best\s{_FITS}\b|applies\b|选项正确|是正确)""",
    read=("{l} is the most likely answer.", "Option {l} fits best.", "{l} best describes the change."),
    unread=("hepatitis {l} is likely", "{l} is likely a mass"),
)
FINAL = _rule(
    rf"\b{words('final', 'finally', 'therefore', 'thus', 'hence', 'ultimately', 'conclusion')}\b",
    read=("I would say {o} at first. The final answer is {l}.",),
)
CORRECTION = _rule(
    r"\b" + words("wait", "actually", "correction", "scratch that", "on second thought", "i mean", "let me re", "no,",
                  "sorry", "rather"),
    read=("The answer is {o}. Wait, the answer is {l}.",),
)  # fmt: skip
RETRACTED = _rule(
    rf"\b{words('this', 'that', 'my')}\s{words('answer', 'choice')}\s(?:is|was)\s"
    rf"{words('wrong', 'incorrect', 'false')}\b",
    read=("{o}. This answer is wrong. The answer is {l}.",),
    unread=("{l}: {t}\nThis answer is incorrect.",),
)

_HEDGE = words("probably", "most likely", "likely",
               "definitely", "clearly", "obviously", "surely", "indeed", "maybe", "perhaps", "simply", "just", "the",
               "my", "final", "correct", "best", "right")  # fmt: skip
_SURE = words("sure", "certainly", "of course", "okay", "ok", "well", "hmm", "alright", "great", "yes",
              "no wait", "if i had to choose", "if i had to guess")  # fmt: skip
FILLER = _rule(  # what may stand before a choice without changing it
    rf"""(?:{_SURE}\s*[,.!:]|(?:{_IT_IS}|{_NOUN}|{_HEDGE})(?!\w)|q\d*:|(?:number|no\.)(?=\s{LETTER}\W*$)
    |\(?\d{{1,2}}[.):]\s|[\s:=,.>/~∴-])\s*""",
    read=("Sure, it's option {l}.", "1. {l}", "{o}. Wait, {l}.", "{o}. No wait, {l}."),
)
LEAD = _rule(rf"^{_OPEN}{_MARK_END}", read=("{l}. The mass grew.", "{l} over {o}."), unread=("{l} large mass",))
BRACKETED = _rule(_OPEN, read=("({l})", "[[{l}]]"))
CLOSED = _rule(rf"{_CLOSE}{_WORD_END}", read=("The answer is ({l}) since the mass grew.",))
BECAUSE = _rule(rf"\W{{0,5}}{_REASON}", read=("{l} because {u} looks different.",))
BEHIND_TEXT = _rule(
    rf"[\s,:(\[-]{{1,4}}{_NAMED}\W{{0,3}}$",
    read=("{t} (option {l})",),
    unread=("{u} - {l}",),
)

# Letters that stand together name none of them.
_AND = words("or", "and", "或", "和", "或者", "と") + r"\b\.?"
_JOIN = (
    rf"{_CLOSE}(?:\s*[,;]?[.?]{{0,3}}\s*\(?{_AND}|\s*[,/&=<>+|]|[)\]}}>]\ ?(?=[(\[{{<]))\s*"
    rf"(?:{words('maybe', 'perhaps')}\s+)?"
)
LIST = _rule(
    rf"""(?m)^{_OTHER}:\s?{_OTHER}$
    |{_OTHER}(?:{_JOIN}{_OTHER}){{0,12}}
    (?:{_JOIN}{_OTHER}{_MARK_END}|{_CLOSE}\s*,?\s*{_AND}\s+(?:options?\s+)?{_OTHER}{_WORD_END})""",
    read=("Between {l} and {o}, I choose {l}.", "Both {o} and {p} can be excluded; {l}."),
    unread=("{l} or {o}", "({l}) ({o}) ({p})", "None of the above ({l}, {o}, {p})", "Answer: {l} (or {o})", "{l}: {o}"),
)
# Letters with a mark and a text each are a list of the options.
ITEM = _rule(
    rf"(?m)(?:^|[\s,;|({{\[])(?:options?\s+)?{_ALONE.format('[a-z]')}(?:\ ?([:.)\]=|]|\((?=[\d.]))|\s(-))(?=\s*\S)",
    unread=("{l}: 5%, {o}: 90%", '{"{l}": 0.1, "{o}": 0.8}', "{l} (0.1), {o} (0.8)", "{l} - rare. {o} - common."),
)
# What a list says of an option
RIGHT = _rule(
    rf"\W*(?:is\s)?{words('yes', 'true', 'correct', 'right', 'likely')}\b", read=("({o}) no ({l}) yes ({p}) no",)
)
WRONG = _rule(
    rf"\W*(?:is\s)?{words('no', 'false', 'incorrect', 'wrong', 'unlikely', 'not')}\b",
    read=('{"{o}": false, "{l}": true}', "Option {o}: incorrect. Option {l}: correct.", "{o}: not seen\n{l}: yes"),
    unread=("{o}: yes\n{l}: true", "{o}: no, {l}: no"),
)
# A letter in a weaker place: it counts if nothing is stated and it is the only one.
WEAKER = (
    _rule(rf"(?:^|\|\s)\W{{0,3}}{_OPEN}{_MARK_END}", read=("Both scans were compared.\n{l}. The mass grew.",)),
    _rule(
        rf"\b{words('option', 'choice', 'letter')}\s*[:=]?\s*{_OPEN}{_WORD_END}",
        read=("They fit option {l} in size.",),
        unread=("Avoid option {l}.",),
    ),
    _rule(rf"[(\[]\s*{ONE}\s*[)\]]{_WORD_END}", read=("It has grown ({l}), yes.",), unread=("Kerley ({l}) lines",)),
)
# A letter behind one of these names a class or a part, not an option.
CLASSIFIED = _rule(
    r"\b" + words("type", "class", "grade", "stage", "category", "group", "level", "segment", "lobe", "zone", "phase",
                  "density", "panel", "hepatitis", "vitamin", "influenza", "kerley", "lead", "column", "row", "part",
                  "image", "figure", "picture", "scan", "film", "view", "lesion", "case", "point", "region",
                  "label", "arrow", "slice") + r"\s*\#?\d?\s*[(\[{]*$",
    unread=("Panel ({l}) shows a mass.", "Image 1 ({l}) shows a mass, image 2 ({o}) does not."),
)  # fmt: skip
_NEVER = words("not", "no", "never", "neither", "nor", "except", "excluding", "cannot", "rather than", "instead of",
               "avoid", "exclude", "eliminate", "reject", "rule out")  # fmt: skip
NOT_BEFORE = _rule(
    rf"(?:\b{_NEVER}|n't)\s+(?:[\w']+\s+){{0,4}}[(\[{{]*$|\bover\s+(?:{_NOUN}\s)?[(\[{{]*$",
    read=("Not option {o}; option {l}.",),
    unread=("It is not the case that ({l})", "Avoid option {l}."),
)
_BAD = words("wrong", "incorrect", "false", "worst", "least likely", "unlikely", "initial")
_MIGHT = words("tempting", "might", "may", "could", "user", "someone", "people", "others", "patient",
               "initially")  # fmt: skip
DOUBT_BEFORE = _rule(
    rf"\bwhether\s+(?:[\w']+\s+){{0,4}}$|\b(?:{_BAD}|first)\s+$|\b{_MIGHT}\b[^.;]{{0,40}}$",
    unread=(
        "I am not sure whether the answer is {l}.",
        "You might think it's {l}.",
        "My initial guess was {l}.",
    ),
)
_GIVEN = rf"\s(?!{words('i', 'we', 'you', 'forced', 'asked')}\b)"  # `if I had to guess` is no condition
CONDITION = _rule(
    rf"\b{words('if', 'unless', 'assuming', 'provided')}{_GIVEN}|^should\s",
    read=("If I had to guess, the answer is {l}.",),
    unread=("If the mass had grown, the answer would be {l}.", "Should the mass grow, the answer is {l}."),
)
_EXCLUDED = words("eliminated", "rejected", "discarded")
REJECTED = _rule(  # behind a letter only: behind the text of an option such words may begin another sentence
    rf"""[)\]}}]*\s*(?:\?\s*no\b
    |{words("does", "do", "did", "can", "could", "would", "is", "was", "has")}(?:\s+not|not|n't)\b
    |{words("is", "seems", "looks")}\s+{words("unlikely", "less", "im", "false", "possible")}
    |(?:{words("can", "could", "should", "must")}\s+be|is)\s+{_EXCLUDED}\b
    |,?\s*{words("if", "unless")}{_GIVEN}
    |{words("错误", "錯誤", "不正确", "不對", "不对", "ではない")})""",
    read=("{o}? No. {l}.",),
    unread=("Option {l} does not fit.", "Option {l} is possible.", "The answer would be {l} if the mass had grown."),
)
ASKED = _rule(  # a question to itself, even where the reply has nothing else
    rf"^{words('is', 'are', 'was', 'would', 'can', 'does', 'do', 'which', 'what')}\b",
    unread=("Is the answer {l}?",),
)
_CANNOT = words("can't", "cannot", "can not", "couldn't", "could not", "unable to", "not able to")
_ANSWER_IT = words("help", "assist", "answer", "provide", "determine", "determined", "tell", "say", "view", "access",
                   "interpret", "diagnose", "identify")  # fmt: skip
_PICTURES = words("images?", "pictures?", "photos?", "scans?")
REFUSED = _rule(  # no answer, whatever words of options it holds
    rf"""\b(?:{_CANNOT}\s+(?:\w+\s)?(?:be\s)?(?:{_ANSWER_IT}|see\s(?:any\s|the\s)?{_PICTURES})\b
    |as\san\sai\b
    |no\s(?:\w+\s)?{words("access", "ability", "way", "idea", "answer")}\b
    |no\s(?:\w+\s)?{_PICTURES}\s?(?:{words("was", "were", "is", "are", "in", "have")}\b|$|[.,])
    |don't\s{words("know", "have")}\b
    |none\sof\sthe\b)""",
    unread=("No images were provided; {t}?",),
)
SENTENCE = _rule(r"\S.*?(?:(?<!\bvs)[.!?;](?=\s)|$)", read=("{l}! The mass grew.",))

RULES = (
    *CLAIMS, CLAIM_BEHIND, FINAL, CORRECTION, RETRACTED, FILLER, LEAD, BRACKETED, CLOSED, BECAUSE, BEHIND_TEXT, LIST,
    ITEM, RIGHT, WRONG, *WEAKER, CLASSIFIED, NOT_BEFORE, DOUBT_BEFORE, CONDITION, REJECTED, ASKED, REFUSED, SENTENCE,
)  # fmt: skip
