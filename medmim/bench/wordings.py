"""The wordings in which replies name an option by its letter, as patterns over folded text (`reply_text`).

A letter is one by the marks and words around it, and these are the same for every letter: relabelling the options never
changes what is read. `A` is no special case, though it is also an article: what does not mark an `a` as a letter does
not mark a `b`.

Repetitions are bounded, so that long replies are read in linear time.
"""

import re

from medmim.bench.reply_text import UNSPACED
from medmim.sample import LETTERS

LETTER = f"[{LETTERS[0].lower()}-{LETTERS[-1].lower()}]"
# Not letters of options: `e.g.`, `a.m.` (full stop inside), `d-dimer` (dash inside), `b's`.
_ONE = rf"(?<![^\W_])(?<![^\W_][-'.&])({LETTER})(?![^\W_]|[-'&][^\W_]|\.[^\W\d_]\b)"
_OPEN = rf"[(\[{{<]{{0,3}}\s*{_ONE}"
_CLOSE = r"[)\]}>]{0,3}"
_REASON = r"(?:because|since|as|due to)\b"
# What ends a letter: a mark; behind a cue also a word that no article stands before.
_MARK = rf"$|[:,;!?)\]}}|=/.&]|-(?:\s|$)|\(|{_REASON}"
_VERB = (
    r"(?:is|was|are|were|be|has|had|seems?|appears?|looks?|shows?|showed|fits?|matches|describes?|represents?|would|"
    r"indicates?|corresponds?|makes?|could|should|must|can|will|may|might|and|or|but|so|with|for|in|on|at|by|from|of|"
    r"than|which|that|who|where|when|while|if|unless|therefore|it|this|it's|these|the|here|there|also|i|we|you|my|best)"
    r"\b"
)
_MARK_END = rf"(?=\s*(?:{_MARK}))"
_WORD_END = rf"(?=\s*(?:{_MARK}|{_VERB}|[{UNSPACED}]))"

_NOUN = r"(?:answer|ans|option|choice|letter|response|selection|pick|alternative|guess)"
_IS = r"(?:is|was|would be|should be|must be|will be|has to be)\b(?:\s+(?:as follows|given as))?\s*:?|[:=]|-(?=\s)"
_IT_IS = r"(?:(?:it|this|that) (?:is|would be|should be|must be|has to be)|it's|that's)"
# "answer" in other languages, and how a sentence goes on behind it
_ANSWER = (
    "(?:答案|答え|答|选项|選項|選択肢|回答|解答|正解|选择|選擇|应选|故选|选|정답|답|보기|الإجابة|الاجابة|الجواب|الخيار|ответ|вариант|"
    "réponse|reponse|respuesta|opción|opcion|risposta|resposta|opção|opcao|antwort|antwoord|variante|svar|vastaus|"
    "odpowiedź|odpověď|cevap|yanıt|seçenek|jawaban|opsi|đáp án|उत्तर|विकल्प|απάντηση)"
)
_COPULA = (
    "(?:(?:是|为|為|は|은|는|है|هي|هو|est|es|è|é|ist|lautet|is|är|jest|[:=,-])"
    rf"(?:\s+(?:la|le|el|die|o|a)\b)?(?:\s+{_ANSWER})?)"
)

CLAIMS = (
    # the answer is, the correct option to this is, Answer:, ANSWER -
    re.compile(
        rf"\b{_NOUN}\b(?:\s+(?:to|for|of|that|which|among|here|number|{_NOUN})\b[^.;:!?=]{{0,60}}?)?{_CLOSE}\s*(?:{_IS})"
    ),
    re.compile(rf"\b{_NOUN}\s+(?={_OPEN}\W{{0,5}}$)"),  # final answer (B)
    re.compile(r"\b(?:correct|right|best)\s*[:=]"),
    # I choose B; only with a letter, since much is chosen and thought that is no option
    re.compile(
        r"\b(?:choose|chose|choosing|select|selected|selecting|pick|picked|picking|go with|going with|went with|"
        r"opt for|opted for|settle on|lean towards?|leaning towards?|vote for|say|think|believe|guess|conclude)\b"
        rf"(?:\s+(?:that|{_IT_IS}|the\s+{_NOUN}\s+is))*\s*:?(?=\s*(?:{_NOUN}\s+)?{_OPEN}{_CLOSE}{_WORD_END})"
    ),
    # so B, therefore: (B), verdict: B
    re.compile(
        r"\b(?:so|thus|therefore|hence|overall|finally|ultimately|conclusion|in summary|verdict|result|diagnosis|"
        rf"decision)\b\s*[,:]?(?:\s+{_IT_IS})?\s*(?=(?:{_NOUN}\s+)?{_OPEN}{_CLOSE}{_MARK_END})"
    ),
    re.compile(rf"\b(?:{_IT_IS}|not\s[^.;]{{0,40}}\sbut)\s+(?=(?:{_NOUN}\s+)?{_OPEN}{_CLOSE}{_MARK_END})"),
    re.compile(
        rf"{_ANSWER}(?:\s+\w+){{0,2}}?\s*{_COPULA}?\s*:?\s*(?={_OPEN}(?:\W{{0,5}}(?:$|[{UNSPACED}])|{_MARK_END}))"
    ),
)
# B is correct, B is the most likely answer
CLAIM_BEHIND = re.compile(
    rf"{_OPEN}{_CLOSE}\s*,?\s*(?:which\s+)?(?:is|seems|appears|would be|must be|should be|was)\s+(?:to be\s+)?"
    r"(?:(?:the|my|most|best|only|clearly|definitely|probably|likely|therefore|thus|also|indeed|more|single|overall|"
    rf"final)\s+)*(?:{_NOUN}\b|(?:correct|right|best|accurate|appropriate|true|likely)\b(?=\s*(?:$|[.,;:!)]|{_REASON}"
    rf"|(?:{_NOUN}|one|match|fit|description|diagnosis|than|here)\b)))"
)
FINAL = re.compile(r"\b(?:final|finally|therefore|thus|hence|ultimately|conclusion)\b")
CORRECTION = re.compile(
    r"\b(?:wait|actually|correction|scratch that|on second thoughts?|i mean|let me (?:re|correct)\w*|sorry|apologies|"
    r"no,|hmm|rather)(?!\w)"
)

# What may stand before a choice without changing it: `Sure, it's option`.
FILLER = re.compile(
    r"(?:(?:sure|certainly|of course|okay|ok|well|hmm|alright|great|so|thus|therefore|hence)\s*[,.!:]|"
    rf"(?:{_IT_IS}|i think|i believe|i guess|i'd say|probably|(?:most )?likely|definitely|clearly|maybe|perhaps|simply|"
    rf"just|the|my|final|correct|best|right|{_NOUN})\b|\d[.)]\s|[\s:=,.>-])\s*"
)
LEAD = re.compile(rf"^{_OPEN}{_MARK_END}")
BRACKETED = re.compile(_OPEN)
CLOSED = re.compile(rf"{_CLOSE}{_WORD_END}")
BECAUSE = re.compile(rf"\W{{0,5}}{_REASON}")
ITEM = re.compile(rf"{_OPEN}\s*{_CLOSE}\s*[:.)-]")
BEHIND_TEXT = re.compile(rf"[\s,:(\[-]{{1,4}}(?:{_NOUN}\s+)?{_OPEN}{_CLOSE}\W{{0,3}}$")
MORE = re.compile(
    rf"{_CLOSE}\s*(?:[,/&=<>+]|[.?]{{0,3}}\s*(?:or|and|vs|versus)\b\.?)\s*(?:option\s+)?{_OPEN}(?:{_MARK_END}|(?=\s*(?:or|and)\b))"
)
OR_ANOTHER = re.compile(rf"\s*(?:or|and|vs|versus)\b\.?\s+(?:option\s+)?{_OPEN}{_MARK_END}")
WEAKER = (
    LEAD,
    re.compile(rf"\b(?:options?|choice|letter|select|choose|chose|pick|go with)\s*[:=]?\s*{_OPEN}{_WORD_END}"),
    re.compile(rf"[(\[]\s*{_ONE}\s*[)\]]"),
    re.compile(rf"{_ONE}\s*[:)](?!\w:)"),
)
# A letter behind one of these names a class or a part, not an option: `Stanford type (A)`, `hepatitis B`.
CLASSIFIED = re.compile(
    r"\b(?:type|class|grade|stage|category|group|level|segment|zone|phase|density|panel|hepatitis|vitamin|influenza|lead|"
    r"column|row|part|image|figure|picture|scan|film|view|patient|lesion|case|point|region|label|arrow|slice)\s*[(\[{]*$"
)
NOT_BEFORE = re.compile(
    r"(?:\b(?:not|no|never|neither|nor|except|excluding|cannot|rather than|instead of)|n't)\s+(?:[\w']+\s+){0,4}"
    r"[(\[{]*$"
)
DOUBT_BEFORE = re.compile(
    r"\b(?:if|whether|unless)\s+(?:[\w']+\s+){0,4}$|\b(?:wrong|incorrect|false|worst|least \w+|unlikely)\s+$"
)
# Behind a letter only: behind the text of an option such words may begin another sentence.
REJECTED = re.compile(
    r"[)\]}]*\s*(?:(?:does|do|did|can|could|would|is|was|has)(?:\s+not|not|n't)\b|"
    r"(?:is|seems|looks)\s+(?:unlikely|less|im)"
    r"|(?:can|could|should|must)\s+be\s+(?:eliminated|excluded|rejected|discarded|ruled out)\b"
    r"|is\s+(?:eliminated|rejected)\b)"
)
SENTENCE = re.compile(r"\S.*?(?:(?<!\bvs)[.!?;](?=\s)|$)")
