"""What each family of questions says: what must stand in a text that asks it, and what may.

A text is held against this closed vocabulary, so that it can say nothing which its facts do not: whatever word is in
neither of a family's lists, in its facts, nor among the `PLAIN` words that state nothing of a patient, is rejected.
"""

from dataclasses import dataclass
from pathlib import Path

NOUN = r"(?:image|picture|scan|photo|photograph|one|exam|examination|visit|figure|mammogram|eye|acquisition)"


@dataclass(frozen=True)
class Kind:
    """A family of questions, as the check sees it. All texts are patterns of lower-case text.

    Attributes:
        images: How the images are named. `ordered`: the first and the second, in this order of time; `which`: none of
            them alone; `one`: the one asked about; `all`; `as_first`: the first, and of the others all or none;
            `quoted`: as the quoted questions do.
        needs: Each must match somewhere.
        may: What else the text may say, since it holds for every question of the family.
        choices: Alternatives of which the text names all or none.
        sides: What holds of image 1 and image 2: a left and a right eye, say.
        asked: What may stand in a question, and not in a statement beside it.
        free: Whether it may be asked by `how`, too, where it is about one image.
        context: What holds for every question of the family, in words, for who rewords it.
    """

    images: str
    needs: tuple[str, ...] = ()
    may: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    sides: tuple[str, str] | None = None
    asked: str = ""
    free: bool = False
    context: str = ""


_ASKED = (
    r"\bwhich\b|\bwhere\b|\bwhose\b|\bwhat (?:image|picture|scan)\b|"
    r"\b(?:identify|select|choose|find|pick|name|point|indicate|spot|locate|determine|tell|state|mark|decide)\b"
)
WHICH = rf"{_ASKED}|@\d,? (?:(?:or|in|on|and) )+@\d"
_PATIENT = r"(?:the |a |one |this |that |their |one and the )?(?:same |single )?patient(?:'s)?\b"
_OTHERS = r"(?:different|unrelated|separate|other|distinct) (?:patients?|cases?|people)\b|unrelated\b"
_CHANGE = (
    r"\b(?:chang\w*|became|becomes?|become of|evol\w*|develop\w*|happen\w*|differs?|cours\w*|behav\w*|progression)\b"
)
_BETTER = r"\b(?:improv\w*|better|regress\w*|decreas\w*|shr[aiu]nk\w*)\b"
_STABLE = r"\b(?:stable|unchanged|the same)\b"
_WORSE = r"\b(?:worse\w*|progressed|deteriorat\w*|increas\w*|grown)\b"
_SURGERY = (
    r"\b(?:surgical (?:procedure|intervention)|surgery|operation|surgical|procedure|intervention|post-?surgery)\b"
)
_TUMOR = r"\btumou?r\b"
_EXTENT = r"\b(?:extent|resect\w*|remov\w*|taken out|how much)\b"
_REMOVED = r"\b(?:resect\w*|remov\w*|taken out)\b"
_BREAST = r"(?:the |one |a |this |that )?(?:same |single )?\bbreast\b"
_BIRADS = r"\bbi-?rads\b"
_VIEWS = r"\bviews?\b"
_EYES = r"\beyes?\b|\bfund(?:us|i)\b"
SAME = r"\b(?:same|identical|different|differs?|differ|agree)\b"
_JUDGED = r"\b(?:assessment|assess|category)\b"
_MODALITY = r"\b(?:modality|modalities|technique|techniques|method|methods)\b"
_CAPTION = r"\b(?:captions?|descriptions?|describes?|described|text)\b"
_SHOWS = (
    r"\b(?:shows?|shown|showing|seen|see|finding|findings|visible|depicts?|depicted|present|image|suggests?|describe)\b"
)
_MADE = r"\b(?:made|acquired|obtained|produced|taken|created|used|using|with|by|from)\b"
_GLIOMA = r"\b(?:mri|mr imaging|brain|magnetic resonance)\b"
_ENHANCING = rf"(?:contrast-)?enhancing {_TUMOR[2:]}"

KINDS: dict[str, Kind] = {
    "change": Kind(
        "ordered",
        (_CHANGE + "|" + _BETTER,),
        (_PATIENT,),
        (_BETTER, _STABLE, _WORSE),
        context="Image 2 was taken after image 1, of the same patient.",
    ),
    "order": Kind("which", (WHICH,), (_PATIENT, r"\b(?:in time|of time|acquisition)\b"), context="One patient."),
    "assessment": Kind(
        "all", (_JUDGED,), (_BREAST, _VIEWS, r"\bassessed\b"), context="All images are views of one breast in one exam."
    ),
    "diagnosis": Kind(
        "all", (_SHOWS + r"|\bdiagnosis\b",), (_PATIENT, _VIEWS), context="All images are views of one patient."
    ),
    "same_patient": Kind(
        "as_first",
        (r"\bsame patient\b|\bpatient (?:of|in|from) @1 (?:\w+ ){0,2}again\b", WHICH),
        (_PATIENT, r"\bagain\b"),
        asked=r"\bsame patient\b",
    ),
    "resection": Kind(
        "ordered",
        (_EXTENT + r"|\bresult\b", _REMOVED),
        (_TUMOR, _SURGERY, _PATIENT, r"\bresult\b"),
        (r"\bpartial\w*|\bpartly\b", r"\bcomplete\w*", r"\bunchanged\b"),
        context="Image 1 was taken before surgery of the tumor, image 2 after it.",
    ),
    "larger": Kind(
        "which",
        (r"\b(?:larger|bigger|largest|biggest)\b", WHICH + r"|\bcompar\w*"),
        (r"\bcompar\w*", r"\bthe size of\b",
         r"\b(?:are |is )?(?:they |both )?(?:of |have )?(?:the )?(?:same|equal) size\b", _PATIENT),
        asked=r"\b(?:larger|bigger|largest|biggest)\b",
    ),
    "same_finding": Kind("all", (SAME + r"|\balso\b", r"\bfindings?\b"), (r"\bsame\b", r"\balso\b"), asked=SAME),
    "describe": Kind("one", (_SHOWS + "|" + _CAPTION,), (_CAPTION, r"\bshort\b|\bbriefly\b|\bbrief\b")),
    "which_finding": Kind("which", (WHICH,)),
    "which_size": Kind("which", (WHICH, r"\bfindings?\b")),
    "which_modality": Kind("which", (WHICH,), (_MODALITY,)),
    "which_view": Kind("which", (WHICH, _VIEWS + r"|\bprojection\b"), (r"\bprojection\b",)),
    "which_side": Kind("which", (WHICH, r"\bfindings?\b"), (r"\bsides?\b|\bsided\b",)),
    "which_margin": Kind("which", (WHICH, r"\bmargins?\b")),
    "which_caption": Kind("which", (WHICH, _CAPTION)),
    "what_finding": Kind("one", (_SHOWS,)),
    "what_size": Kind("one", (r"\bsize\b|\bhow (?:large|big)\b", r"\bfinding\b"), free=True),
    "what_modality": Kind("one", (_MODALITY + r"|\bhow (?:was|were|is|has)\b",), (_MADE, r"\bimaging\b"), free=True),
    "what_view": Kind("one", (_VIEWS + r"|\bprojection\b",), (_PATIENT,)),
    "what_side": Kind(
        "one",
        (r"\bsides?\b|\bleft or (?:the |on the )?right\b", r"\bfinding\b"),
        (r"\b(?:the )?left (?:side )?or (?:on )?(?:the )?right\b(?: side)?",),
    ),
    "what_margin": Kind("one", (r"\bmargins?\b", r"\bmass\b"), (r"\bkind\b|\btype\b",), free=True),
    "what_caption": Kind("one", (_CAPTION,)),
    "which_diseased": Kind(
        "which",
        (WHICH, r"\bcancer\b", r"\bsuspected\b|\bsuspicious\b|\bsuspicion\b", r"\bproven\b"),
        (_BREAST, _PATIENT, r"\b(?:at |of |from )?(?:different|several|these|successive) exam(?:ination)?s\b"),
        asked=r"\bcancer\b",
        context="The images show one breast at different exams; one of them shows suspected or proven cancer.",
    ),
    "forecast": Kind(
        "all",
        (
            r"\b(?:next|following|coming|subsequent|upcoming|one|a|the|that) (?:one )?(?:year|12 months)\b",
            r"(?<!before )\b(?:after|follow\w*|next|coming|upcoming|subsequent|beyond|from) ?(?:the |this )?"
            r"(?:last|year|final)|\byear (?:that )?(?:after|follow\w*)",
        ),
        (
            r"\bcancer\b[^.?]{0,60}\bor not\b", r"\bwhether (?:or not )?cancer\b",
            _BREAST, _PATIENT, r"\bmammograms?\b", r"\bages?\b|\baged\b|\byears?\b(?= old)|\bold\b", r"\bafter\b",
            r"\bwithin\b", r"\b(?:last|final)\b(?: (?:image|one|exam|mammogram|of these|of them))?",
            r"\b(?:in |the )?(?:this |chronological )?order(?: of time)?\b", r"\b(?:next|following|follows|coming)\b",
            r"\b(?:condition|health|status|outlook|outcomes?|prognosis|predict\w*|forecast\w*|anticipat\w*)\b",
        ),
        context="The images show one breast, in the order of time. Asked is whether cancer is found in it within one "
        "year after the last image.",
    ),
    "which_craniocaudal": Kind(
        "which",
        (WHICH, r"\bcraniocaudal\b|\bcc\b"),
        (r"\bviews?\b", _BREAST, r"\(cc\)", r"\bcc\b", r"\bseen from above\b",
         r"\bthe others?(?: images?)? (?:is|are|being) (?:the )?mediolateral oblique(?: views?)?\b"),
        context="One image is the craniocaudal view, the others are mediolateral oblique.",
    ),
    "birads": Kind(
        "all",
        (_BIRADS,),
        (_BREAST, _VIEWS, _JUDGED),
        sides=("cc", "mlo"),
        context="Image 1 is the CC view and image 2 the MLO view of one breast.",
    ),
    "which_sequence": Kind(
        "which",
        (WHICH,),
        (r"(?:the |one |a |same |this |single )*\b(?:brain )?slice\b(?: of (?:a |the |one |this )?(?:same )?brain)?",
         r"(?:a |the |one |same )*\bbrain\b", _PATIENT, r"\bsequence\b", _GLIOMA),
        context="All images show the same slice of one brain.",
    ),
    "extent_of_resection": Kind(
        "ordered",
        (_EXTENT, _TUMOR, _REMOVED),
        (_ENHANCING, r"\benhancing\b", r"\bresult\b", _SURGERY, _PATIENT, _GLIOMA),
        (r"\bcomplete(?:ly)?\b", r"\bpartial(?:ly)?\b"),
        context="Image 1 was taken before surgery of the enhancing tumor, image 2 after it.",
    ),
    "tumor_course": Kind(
        "ordered",
        (r"\brano\b",),
        (_TUMOR, _PATIENT, r"\bcategor(?:y|ies)\b|\bresponse\b", r"\bcourse\b", r"\bglioblastoma\b",
         r"\bvisits?\b|\blast\b", _GLIOMA),
        context="Image 2 was taken after image 1, of a patient with glioblastoma.",
    ),
    "progression": Kind(
        "ordered",
        (_CHANGE + "|" + _BETTER + r"|\bhow is\b|\bcompar\w*",),
        (_PATIENT,),
        (_BETTER, _STABLE, _WORSE),
        context="Image 2 was taken after image 1, of the same patient.",
    ),
    "eye_diagnosis": Kind(
        "one",
        (r"\bdiagnos[ie]s\b|" + _SHOWS,),
        (_EYES, _PATIENT, r"\bdiagnosis\b"),
        sides=("left", "right"),
        context="Image 1 is the left and image 2 the right eye of one patient.",
    ),
    "which_eye": Kind(
        "which",
        (WHICH,),
        (_EYES, _PATIENT),
        sides=("left", "right"),
        context="Image 1 is the left and image 2 the right eye of one patient.",
    ),
    "both_eyes": Kind(
        "all", (r"\bdiagnos[ie]s\b",), (_EYES, _PATIENT), context="The two images are the eyes of one patient."
    ),
    "shared_diagnosis": Kind(
        "all",
        (r"\bdiagnosis\b|" + _SHOWS,),
        (_EYES, _PATIENT, r"\b(?:have )?in common\b|\bshared?\b|\bshares\b|\bthe same\b"),
        context="Both eyes of one patient have the same diagnosis.",
    ),
    "same_diagnosis": Kind(
        "all", (SAME, r"\bdiagnos[ie]s\b"), (_EYES, _PATIENT), asked=SAME, context="Both eyes are of one patient."
    ),
    "joined": Kind("quoted", (), (_OTHERS,), context="The images are of unrelated cases."),
    "joined_figures": Kind("quoted", (), (_OTHERS,), context="The images are of different patients."),
    "which_figure": Kind("which", (WHICH,)),
    "match_figure": Kind("which", (WHICH, _CAPTION)),
    "match_caption": Kind("one", (_CAPTION,)),
    "same_modality": Kind("all", (SAME, _MODALITY), (_MADE, r"\bimaging\b"), asked=SAME),
}  # fmt: skip

PLAIN = frozenset(Path(__file__).with_name("plain.txt").read_text(encoding="utf-8").split())
"""Words that state nothing of a patient or a picture."""
