"""Which options a text names, whatever its case, punctuation, endings and way to name an image (`options`).

An option that is negated, qualified or supposed (`not resected`, `nearly resected`, `may be resected`) is not named.
"""

import itertools
import re
from collections import Counter
from dataclasses import dataclass

from medmim.bench.reader import comparative, mentions, presence, reply_text
from medmim.bench.reader.options import GENERAL, NO, TOGETHER, WEAK, Options, within
from medmim.bench.reader.said import LINKS, Said, is_image, stem

_CLASS = {"category", "class", "grade", "score", "stage", "level", "assessment"}
_COUNTED = {"is", "are", "of", "shows", "see", "count", "total", "number", "answer", "exactly"}
_ANSWERS = {"answer", "option", "choice", "correct"}
_TELLS = {"show", "shows", "showing", "has", "seen", "appears", "contains", "displays", "depicts", "located"}
_CLEAR = {"normal", "clear", "healthy", "unremarkable"}  # such an image is not the one that shows a finding
_LEFT_OVER = {"unclear", "open", "out", "behind", "undetermined", "unanswered", "over", "blank"}
_FEW = 2  # words that an option has more than, to be known by them in another order
_RIGHT_AS_CORRECT = (["is"], ["are"], ["that's"], ["all"])
_NOT_ALL = {"of", "except", "besides", "completely", "fully", "entirely", "totally"}
# What may follow a `no` that is an answer: of others it denies one.
_SUBJECTS = {"there", "it", "they", "this", "that", "these", "those", "i", "we", "both", "neither", "he", "she", "as",
             "because", "since", "only", "not", "in", "on", "is", "for", "from", "and", "or", "was", "are"}  # fmt: skip
_EACH = {"each", "per", "every", "apiece"}
_IN = {"in", "for", "on"}
_NOT_EXCLUDED = re.compile(r"\b(?:cannot|\w+n't|not)(?: be)? (?:rule[sd]? |exclude)")  # `no, I cannot rule it out`
_ALSO = {"also", "too", "likewise", "similarly"}
_MANY = 100  # times that an option is named, at the beginning and at the end: more of them tell nothing new
_PROBABLY = {
    "probab",
    "probably",
    "like",
    "likely",
    "presumab",
}  # stems that make `benign` as good as `probably benign`
_RANGE = re.compile(r"(?<![#\d])\d (?:to )?\d\b|\bup to \d")
_ALIKE = {"same", "different"}
# What may stand between a number and what is counted.
_SEEN_AS = {"distinct", "separate", "discrete", "visible", "pulmonary", "lung", "small", "round"}
# What begins the conclusion of a reply, and what is then not concluded but advised.
_CONCLUSION = re.compile(
    r"\b(?:therefore|thus|hence|consequently|in conclusion|in summary)\b"
    r"|(?:^|[.;|!?] |, )(?:and )?(?:so|overall|conclusion|taken together)\b(?! (?:that|called|far|much|many|as)\b)"
)
_ADVICE = {stem(word) for word in ("recommended", "recommendation", "should", "need", "require", "follow", "exclude",
                                   "rule", "biopsy", "treatment", "consult", "surgery", "advise",
                                   "consider")}  # fmt: skip


@dataclass(frozen=True)
class _Mention:
    """An option where it is named: its first place among the words, its last one and whether in its own words."""

    option: int
    begin: int
    end: int
    exact: bool


def named(options: Options, text: str) -> set[int]:
    """Options that a text names, not negated, qualified or supposed; a longer one hides those within it."""
    found = options.split(text)
    length = Counter(found.clauses)
    alone = {word for word, clause in zip(found.words, found.clauses, strict=True) if length[clause] == 1}
    said_alone = {options.tokens.index([word]) for word in alone & {"yes", "no"} if [word] in options.tokens}
    if said_alone and (_of_one_image(options, found) or _NOT_EXCLUDED.search(text)):
        return set()
    present: set[int] = set()
    if ["yes"] in options.tokens and ["no"] in options.tokens:
        words = presence.said(reply_text.plain(options.question), options.asked.words, found)
        present = {options.tokens.index([word]) for word in words}
    if said_alone:  # `No, there is no mass`, and not `No, there is a mass`
        return said_alone | (present if len(present) == 1 else set())
    if present:
        return present
    images = [own[0] for own in options.tokens if len(own) == 1 and is_image(own[0])]
    compared = comparative.meant(text, options.asked, sorted(set(images)), options.images)
    if compared:
        return {options.tokens.index([image]) for image in compared if [image] in options.tokens}
    chosen = _chosen(options, found, _mentions(options, found))
    if len(chosen) > 1:
        concluded = _concluded(options, text)
        return concluded if concluded and concluded < chosen else chosen
    return chosen or _reworded(options, found)


def _concluded(options: Options, text: str) -> set[int]:
    """The option that the conclusion of a text names, or none: what stands before led there."""
    cues = [*_CONCLUSION.finditer(text)]
    rest = options.split(text[cues[-1].end() :]) if cues else None
    if rest is None or not (_ADVICE - options.topics).isdisjoint(map(stem, rest.words)):
        return set()
    chosen = _chosen(options, rest, _mentions(options, rest))
    before = options.split(text[: cues[-1].start()])
    contradicts = len(_chosen(options, before, _mentions(options, before)) - chosen) == 1
    return chosen if len(chosen) == 1 and not contradicts else set()


def _reworded(options: Options, text: Said) -> set[int]:
    """The options whose words a sentence holds in another order: `the condition is likely to improve`.

    Three and more, no image and no number, and the sentence denies and supposes nothing.
    """
    names = [(i, {word for word in options.stems(own) if word not in WEAK}) for i, own in enumerate(options.tokens)]
    names = [(i, name) for i, name in names if len(name) > _FEW and all(map(str.isalpha, name))]
    sentences: dict[int, set[str]] = {}
    for word, sentence in zip(text.words if names else (), text.sentences, strict=False):
        sentences.setdefault(sentence, set()).add(word)
    found = set()
    for sentence, words in sentences.items():
        stems = set(map(stem, words)) if sentence not in text.asked else set()
        held = [(i, name) for i, name in names if name <= stems]
        found |= {i for i, name in held if not mentions.open_or_denied({w for w in words if stem(w) not in name})}
    return found


def _of_one_image(options: Options, text: Said) -> bool:
    """Whether a `yes` or `no` is said of one image that is not the only one asked about: `yes, in image 1`."""
    images = {(word, sentence) for word, sentence in zip(text.words, text.sentences, strict=True) if is_image(word)}
    if "both" in options.asked.words and len(dict(images)) == len(images) == len({where for _, where in images}) > 1:
        return True  # a sentence for each image
    where = {word for word in options.asked.words if is_image(word)}
    for at, word in enumerate(text.words):
        if word not in ("yes", "no"):
            continue
        for near in (text.words[max(0, at - 2) : at], text.words[at + 1 : at + 3]):
            if len(near) > 1 and near[0] in _IN and is_image(near[1]) and {near[1]} != where:
                return True
    return False


def _mentions(options: Options, text: Said) -> list[_Mention]:
    """Where options are named; those negated, qualified, supposed or asked for are left out."""
    places = [at for at, word in enumerate(text.words) if word not in LINKS] or list(range(len(text.words)))
    stems = options.stems([text.words[at] for at in places])
    starts: dict[str, list[int]] = {}
    for at, word in enumerate(stems):
        starts.setdefault(word, []).append(at)
    free = [True] * len(stems)
    found = []
    for option, name in options.names:
        places_of = starts.get(name[0], [])
        for at in (*places_of[:_MANY], *places_of[_MANY:][-_MANY:]):
            end = at + len(name)
            if stems[at:end] != name or not all(free[at:end]):
                continue
            free[at:end] = [False] * len(name)
            begin, last = places[at], places[end - 1]
            exact = [word for word in text.words[begin : last + 1]] == options.tokens[option]
            mention = _Mention(option, begin, last, exact)
            if _counts_as_named(options, text, mention):
                found.append(mention)
    return found


def _counts_as_named(options: Options, text: Said, mention: _Mention) -> bool:
    begin, end = mention.begin, mention.end + 1
    if not mentions.counts(text, begin, end, set(options.asked.words)):
        return False
    own = text.words[begin:end]
    next_word = text.words[end] if end < len(text.words) and text.clauses[end] == text.clauses[begin] else ""
    if len(own) == 1 and own[0].isdigit():
        return _is_number_named(options, text, begin)
    if own == ["right"] and (next_word in _ANSWERS or text.words[begin - 1 : begin] in _RIGHT_AS_CORRECT):
        return False
    if own == ["left"] and (next_word in _LEFT_OVER or text.words[begin - 1 : begin] == ["nothing"]):
        return False
    if own[0] in {*NO, "nothing"} and next_word in _NOT_ALL:
        return False  # `no findings of atelectasis`
    if own == ["no"] and next_word and next_word not in _SUBJECTS and not is_image(next_word):
        denied = {stem(word) for word in text.words[end : end + 4]}  # `no difference` is about something else
        about_it = not options.question or not denied.isdisjoint(options.topics)
        return about_it and not presence.asks(reply_text.plain(options.question))
    if own in (["left"], ["right"]):
        return not options.is_place(mention.option) or _is_place_named(options, text, mention)
    plain = not next_word or next_word in WEAK or next_word[:3] == next_word or stem(next_word) in options.topics
    if len(own) == 1 and own[0] in _ALIKE and not plain:
        return False  # `the same patient`
    if options.cores.get(mention.option) == options.stems(own) and not options.all_share:
        subject = [
            word for word in mentions.near(text, begin, end)[0] if word not in LINKS | WEAK and word[-2:] != "ly"
        ]
        of_it = {*options.stems(options.tokens[mention.option]), *options.topics}
        if subject and of_it.isdisjoint(map(stem, subject)):
            return False  # `the mass increased` is not `the effusion increased`
        return plain or stem(next_word) in options.shared_by_half  # `completely resected` is no `complete response`
    return not options.is_place(mention.option) or _is_place_named(options, text, mention)


def _is_place_named(options: Options, text: Said, mention: _Mention) -> bool:
    """Whether an image is chosen: not where it is called normal, or described where a comparison is asked for."""
    words = _clause(text, mention)
    if words & (_CLEAR - set(options.asked.words)):
        return False
    if not comparative.asked(options.asked)[0] or not words.isdisjoint(_ANSWERS):
        return True
    return words.isdisjoint(_TELLS) and words.isdisjoint(comparative.SIGN)


def _is_number_named(options: Options, text: Said, at: int) -> bool:
    """Whether a number is what the options count or grade: `two nodules`, `category 4`."""
    words, clauses = text.words, text.clauses
    if len(words) == 1:
        return True
    before = {words[i] for i in range(max(0, at - 4), at) if clauses[i] == clauses[at]}
    if [words[at]] not in options.tokens:
        return bool({stem(word) for word in before} & options.shared_by_half or before & _CLASS)
    beside = (*words[max(0, at - 1) : at], *words[at + 1 : at + 2])
    if not {"least", "most", "than", "over", "or", "fewer"}.isdisjoint(beside) or any(
        word.isdigit() for word in beside
    ):
        return False
    if words[at - 1 : at] == ["of"] and _COUNTED.isdisjoint(words[max(0, at - 2) : at - 1]):
        return False  # `none of the three images`
    if _RANGE.search(" ".join(words[max(0, at - 2) : at + 3])):
        return False
    clause = set(words[slice(*text.bounds[clauses[at]])])
    if not clause.isdisjoint(_EACH) or ("total" in options.asked.words and any(map(is_image, clause))):
        return False
    behind = at + 2 if "".join(words[at + 1 : at + 2]) in _SEEN_AS else at + 1
    after = words[behind] if behind < len(words) and clauses[behind] == clauses[at] else ""
    part = after == "of" and "of" in options.asked.words  # `two of the images`, where it is asked how many of them
    return stem(after) in options.topics or part or (not after and bool(before & _COUNTED))


def _chosen(options: Options, text: Said, found: list[_Mention]) -> set[int]:
    """The options of the mentions that answer the question."""
    found = _focused(options, text, _without_reasons(text, _without_asked(options, text, found)))
    found = _without_asides(options, text, found)
    found = [m for m in found if not _describes_both(options, text, m)]
    together = {m.option for m in found if not TOGETHER.isdisjoint(options.tokens[m.option])}
    joined = _joined(options, text, found)
    single = {m.option for m in found if m not in joined} - together
    if together and (not single or (len(single) > 1 and all(map(options.is_place, single)))):
        return together
    if not single and len({m.option for m in joined}) == 2 == options.images:
        if any(not (_clause(text, m) - {"nor"}).isdisjoint(NO) for m in joined):
            return set()
        return {i for i, own in enumerate(options.tokens) if own == ["both"] or own[:2] == ["both", "images"]}
    if joined:
        return {m.option for m in found}
    if len(single) > 1 and all(is_image("".join(options.tokens[i])) for i in single):
        found = [m for m in found if _on_topic(options, text, m)] or found
    named = {m.option for m in found}
    if len(named) == 1 and any(own and own[0] in TOGETHER for own in options.tokens):
        named |= _also(options, text)
    return named | (_longer(options, text, found[0].option) if len(named) == 1 else set())


def _without_asides(options: Options, text: Said, found: list[_Mention]) -> list[_Mention]:
    """Without `both` where something else is said of both images: `both show the wrist; no fracture is seen`."""
    spoken = not options.topical.isdisjoint(map(stem, text.words))
    return [m for m in found if not spoken or options.tokens[m.option][0] != "both" or _on_topic(options, text, m)
            or _clause(text, m) <= WEAK | {"images", "eyes"}]  # fmt: skip


def _also(options: Options, text: Said) -> set[int]:
    """Images of which more of the same is said: `image 2 also shows one`."""
    found = {word for at, word in enumerate(text.words) if is_image(word) and _alongside(text, at)}
    return {options.tokens.index([word]) for word in found if [word] in options.tokens}


def _alongside(text: Said, at: int) -> bool:
    before, behind = mentions.near(text, at, at + 1)
    return not _ALSO.isdisjoint((*before, *behind))


def _describes_both(options: Options, text: Said, mention: _Mention) -> bool:
    """Whether `both` is said of something that is not asked about: `both images are frontal radiographs`."""
    if not options.question or options.tokens[mention.option][0] != "both" or _on_topic(options, text, mention):
        return False
    rest = {word for word in _clause(text, mention) if not is_image(word)}
    return len(rest - WEAK - GENERAL - LINKS) > 1


def _joined(options: Options, text: Said, found: list[_Mention]) -> set[_Mention]:
    """Mentions that `and` joins, or `nor`, where an option stands for both; of images, if it is about the topic."""
    if not any(own and own[0] in TOGETHER for own in options.tokens):
        return set()
    joined: set[_Mention] = set()
    for a, b in itertools.pairwise(sorted(found, key=lambda m: m.begin)):
        if text.words[a.end + 1 : b.begin] in (["and"], ["nor"], ["as", "well", "as"], ["and", "in"]):
            joined |= {a, b}
    return {m for m in joined if _on_topic(options, text, m) or not options.is_place(m.option)}


def _without_asked(options: Options, text: Said, found: list[_Mention]) -> list[_Mention]:
    """Without words that the question asks about: `the extent of resection` does not name `resected`."""
    asked = {i for i, name in options.names if set(name) <= options.topics}
    words = set(options.asked.words)
    return [m for m in found if len(asked) != 1 or m.exact or m.option not in asked
            or not words.issuperset(text.words[m.begin : m.end + 1])]  # fmt: skip


def _focused(options: Options, text: Said, found: list[_Mention]) -> list[_Mention]:
    """Without what is said of another image than that asked about; all of them where a clause names both."""
    asked = {word for word in options.asked.words if is_image(word)}
    if len(asked) != 1 or any(is_image(word) for own in options.tokens for word in own):
        return found
    about: dict[int, set[str]] = {}
    for word, clause in zip(text.words, text.clauses, strict=True):
        if is_image(word):
            about.setdefault(clause, set()).add(word)
    return [m for m in found if asked <= about.get(text.clauses[m.begin], asked)
            and asked >= mentions.subject(text, m.begin, asked)]  # fmt: skip


def _on_topic(options: Options, text: Said, mention: _Mention) -> bool:
    """Whether a clause speaks of what the question asks for, in its words."""
    words = _clause(text, mention)
    return bool(words & _ANSWERS) or not options.topical.isdisjoint(map(stem, words))


def _longer(options: Options, text: Said, option: int) -> set[int]:
    """Options that hold the one that is named, if another word of them is said: `effusion, probably pleural`."""
    own, said_stems = options.stems(options.tokens[option]), set(options.stems(text.words))
    if not said_stems.isdisjoint(_PROBABLY):
        said_stems |= _PROBABLY
    longer = [(i, options.stems(words)) for i, words in enumerate(options.tokens)]
    return {i for i, words in longer if within(own, words) and (set(words) - set(own) - WEAK) & said_stems}


def _clause(text: Said, mention: _Mention) -> set[str]:
    """The other words of a mention's clause."""
    before, behind = mentions.near(text, mention.begin, mention.end + 1)
    return {*before, *behind}


def _without_reasons(text: Said, found: list[_Mention]) -> list[_Mention]:
    """The mentions without those that explain an earlier one of their sentence: `worse, since image 1 was stable`."""
    plain = {text.sentences[m.begin] for m in found if text.clauses[m.begin] not in text.explains}
    return [m for m in found if text.clauses[m.begin] not in text.explains or text.sentences[m.begin] not in plain]
