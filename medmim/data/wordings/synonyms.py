"""Which texts mean the same, or one a kind of the other: such texts are never right and wrong answer of a question.

The tables are by hand, from the keywords of ODIR and the words of figure captions; what they do not know is compared by
its words.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

# Diseases of the eye: a stage or a sign counts as the disease that it is one of.
_EYES = {
    "diabetic retinopathy": r"proliferative|diabetic|\bn?pdr\b|laser|photocoagulation",
    "hypertensive retinopathy": r"hypertensive",
    "macular degeneration": r"macular degeneration|drusen|\bamd\b|maculopathy",
    "epiretinal membrane": r"epiretinal",
    "glaucoma": r"glaucom|optic (?:nerve )?atrophy|optic nerve atrophy",
    "cataract": r"cataract|lens|media opacity|pseudophak|intraocular",
    "myopia": r"myop|tessellated|tigroid|posterior staphyloma",
    "vitreous": r"vitreous|asteroid",
    "vein occlusion": r"vein occlusion",
    "macular edema": r"macular (?:o?edema|hole)",
    "retinal detachment": r"detachment|retinal? (?:tear|fold|break)",
    "optic disc edema": r"dis[ck] (?:o?edema|swelling)|papill(?:o?edema|itis)",
    "normal fundus": r"\bnormal",
}
_EYE = {name: re.compile(pattern) for name, pattern in _EYES.items()}


@dataclass(frozen=True)
class Term:
    """Something that a figure shows.

    Attributes:
        name: As a question says it.
        shown: The words for it in a caption.
        related: Those words, and all for what is of its kind or what it is a kind of: a caption with one of them may
            describe a figure that shows it, too.
    """

    name: str
    shown: re.Pattern[str]
    related: re.Pattern[str]


def _term(name: str, shown: str, related: str = "") -> Term:
    return Term(name, re.compile(shown), re.compile(f"{shown}|{related}" if related else shown))


_TUMOR = (
    r"tumou?r|mass(?:es)?\b|neoplas|carcinom|cancer|malign|metasta|lymphom|adenom|sarcom|gliom|blastom|melanom|"
    r"lesion|nodul|cyst"
)
_AIRSPACE = r"pneumonia|pneumonitis|consolidat|opaci|infiltrat|ground.glass|covid|atelecta|pulmonary o?edema"
_VESSEL = r"steno(?:sis|ses|tic)|narrow|occlu|strictur|obstruct|thromb|embol|infarct|isch(?:a)?emi|stroke"
TERMS = (
    _term("carcinoma", r"carcinom", _TUMOR),
    _term("metastases", r"metasta(?:sis|ses|tic)", _TUMOR),
    _term("lymphoma", r"lymphoma", _TUMOR),
    _term("a cyst", r"\bcysts?\b", rf"{_TUMOR}|abscess|pseudocyst"),
    _term("a nodule", r"\bnodules?\b", rf"{_TUMOR}|granulom|opaci"),
    _term("pleural effusion", r"pleural effusions?", r"effusion|pleural fluid|hydrothorax|empyema|h(?:a)?emothorax"),
    _term("pericardial effusion", r"pericardial effusion", r"effusion|tamponade|pericardial fluid"),
    _term("ascites", r"ascit(?:es|ic)", r"free fluid|peritoneal fluid|intraperitoneal fluid"),
    _term("pneumothorax", r"pneumothora(?:x|ces)"),
    _term("pneumonia", r"pneumonia", _AIRSPACE),
    _term("consolidation", r"consolidations?", _AIRSPACE),
    _term("atelectasis", r"atelecta(?:sis|tic)", rf"{_AIRSPACE}|collaps"),
    _term("cardiomegaly", r"cardiomegaly", r"enlarged heart|enlarged cardiac|cardiac enlargement|heart size"),
    _term("a fracture", r"fractures?\b", r"fractur|broken"),
    _term("a dislocation", r"dislocat(?:ion|ed)", r"dislocat|sublux"),
    _term("hemorrhage", r"h(?:a)?emorrhag(?:e|es|ic)", r"bleed|h(?:a)?ematoma|h(?:a)?emorrhag"),
    _term("an infarction", r"infarct(?:ion|ions|s)?\b", rf"{_VESSEL}|necro"),
    _term("edema", r"\bo?edema\b", r"swelling|o?edemat|pap?illo?edema"),
    _term("stenosis", r"\bstenos[ie]s\b", _VESSEL),
    _term("a thrombus", r"thromb(?:us|osis|i)\b", _VESSEL),
    _term("an aneurysm", r"\baneurysms?\b", r"aneurysm|dilat|dissection|ectasia"),
    _term("calcification", r"calcifications?\b", r"calcif|calcul|stone|lith"),
    _term("an abscess", r"abscess(?:es)?", r"abscess|collection|empyema|cyst"),
    _term("fibrosis", r"fibrosis", r"fibro|scar|cirrho|honeycomb"),
    _term("a hernia", r"hernias?\b", r"herniat|hernia|prolaps"),
    _term("hydronephrosis", r"hydronephrosis", r"hydro(?:uretero)?nephro|hydroureter|pelvicaly"),
    _term("hydrocephalus", r"hydrocephalus", r"hydroceph|ventriculomegal|dilated ventric"),
    _term("free air in the abdomen", r"pneumoperitoneum|free (?:intraperitoneal )?air", r"pneumoperiton|free gas"),
)  # fmt: skip
MODALITIES = {
    "X-ray": r"radiograph|x-?ray|roentgen",
    "CT": r"\bct\b|\bcts\b|comput(?:ed|eri[sz]ed) tomogra|\bpet/ct\b",
    "MRI": r"\bmri?\b|magnetic resonance|t[12][- ]weighted|\bflair\b",
    "histology": r"histolog|histopatholog|h(?:a)?ematoxylin|h ?& ?e\b|immunohisto|microscop|micrograph|stain",
    "gross pathology": r"\bgross\b|specimen|intraoperative|macroscopic",
    "ultrasound": r"ultraso|sonogra|echocardio|doppler",
    "angiography": r"angiogra",
    "PET": r"\bpet\b|positron|scintigra",
    "endoscopy": r"endoscop|colonoscop|bronchoscop",
}
_MODALITIES = {name: re.compile(pattern) for name, pattern in MODALITIES.items()}
_DENIED = re.compile(
    r"(?:\b(?:no|not|without|nor|never|absence|absent|negative|exclude[ds]?|excluding|rule[ds]?|free|resol\w+|before|"
    r"possible|possibly|suspected|suspicious|versus|or|vs)\b)[^.;:]{0,50}$"
)
_STOP = frozenset((
    "the", "and", "with", "for", "from", "this", "that", "these", "those", "was", "were", "are", "has", "have",
    "had", "been", "show", "shows", "showing", "shown", "demonstrate", "demonstrates", "demonstrating",
    "demonstrated", "image", "images", "figure", "picture", "patient", "case", "seen", "view", "views", "which",
    "after", "reveal", "reveals", "revealed", "revealing", "its", "into", "over", "under", "left", "right", "upper",
    "lower", "large", "small", "white", "black", "arrow", "arrows", "arrowhead", "arrowheads", "there",
))  # fmt: skip
_SAME_WORD = {
    "radiograph": "xray", "radiographs": "xray", "radiography": "xray", "ray": "xray", "rays": "xray",
    "roentgenogram": "xray", "computed": "ct", "tomography": "ct", "tomographic": "ct", "scan": "ct", "mri": "mr",
    "magnetic": "mr", "resonance": "mr", "tumour": "tumor", "tumors": "tumor", "tumours": "tumor", "mass": "tumor",
    "masses": "tumor", "oedema": "edema", "haemorrhage": "hemorrhage", "thoracic": "chest", "cerebral": "brain",
    "hepatic": "liver", "renal": "kidney", "pulmonary": "lung",
}  # fmt: skip
_SUFFIX = re.compile(r"(?<=\w{4})(?:es|s)$")
_FEWEST_WORDS = 3  # what says less than this could be said of any figure
_SHARED = 0.5


@lru_cache(maxsize=4096)
def _eye_groups(text: str) -> frozenset[str]:
    plain = re.sub(r"non[- ]?proliferative", "nonproliferative", text.lower())
    found = {name for name, pattern in _EYE.items() if pattern.search(plain)}
    return frozenset(found or {plain.strip()})


def alike_eyes(first: str, second: str) -> bool:
    """Whether two diagnoses of an eye (keywords with commas) name a disease in common, in any stage or spelling."""
    return any(
        _eye_groups(a) & _eye_groups(b) or _words(a) <= _words(b) or _words(b) <= _words(a)
        for a in first.split(",")
        for b in second.split(",")
    )


@lru_cache(maxsize=65_536)
def _words(text: str) -> frozenset[str]:
    words = (_SUFFIX.sub("", _SAME_WORD.get(word, word)) for word in re.findall(r"[^\W_]+", text.lower()))
    return frozenset(word for word in words if len(word) > 1 and word not in _STOP)


def could_be_said_of(claim: str, *known: str) -> bool:
    """Whether a text may be true of a figure of which other texts are known to be true.

    It may, where it says too little, or half of what it says is said there, too.
    """
    said = _words(claim)
    there = _words(known[0]) if len(known) == 1 else frozenset().union(*map(_words, known))
    return len(said) < _FEWEST_WORDS or len(said & there) >= _SHARED * min(len(said), len(there))


@lru_cache(maxsize=65_536)
def _in_caption(caption: str) -> tuple[frozenset[str], frozenset[str]]:
    text = caption.lower()
    shown, related = set(), set()
    for term in TERMS:
        if term.related.search(text):
            related.add(term.name)
            if any(not _DENIED.search(text[: match.start()]) for match in term.shown.finditer(text)):
                shown.add(term.name)
    return frozenset(shown), frozenset(related)


def shown(caption: str) -> frozenset[str]:
    """Names of the `TERMS` that a caption says are in the figure: neither denied nor doubted."""
    return _in_caption(caption)[0]


def related(caption: str) -> frozenset[str]:
    """Names of the `TERMS` that may be in the figure for all that a caption says: it names something of their kind."""
    return _in_caption(caption)[1]


@lru_cache(maxsize=65_536)
def modalities(caption: str) -> frozenset[str]:
    """The ways of imaging that a caption names."""
    text = caption.lower()
    return frozenset(name for name, pattern in _MODALITIES.items() if pattern.search(text))


def apart(texts: Iterable[str], *known: str) -> bool:
    """Whether none of the texts could be said of a figure of which others are known to be true."""
    return not any(could_be_said_of(text, *known) for text in texts)
