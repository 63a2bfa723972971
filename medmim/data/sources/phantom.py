"""The source `phantom`: a licence-free data set drawn from a seed, with the structure and tasks of the real ones.

Chest films over several visits, mammography exams of CC and MLO views, brain MRI before and after resection, single
captioned figures; held out: left and right fundus, and mixed radiology (ultrasound, CT). Patient N is the same for any
number of patients, and each image can be drawn by itself, in any process.
"""

import random
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace

from medmim import terms
from medmim.data import wording
from medmim.data.seeds import pixels, stream
from medmim.data.sources.phantom_draw import CLASSES, FINDINGS, NORMAL, SIDES, SIZES, Scene, draw, png
from medmim.data.sources.source import Entry, Source
from medmim.recipe.sources import Phantom
from medmim.sample import Finding, Study

__all__ = ["CLASSES", "FAMILIES", "TERMS", "Scene", "draw", "inputs", "load", "patients", "scene_of"]

TERMS = terms.APACHE

FAMILIES = (
    "change", "assessment", "resection", "larger", "same_finding", "describe",
    "which_finding", "which_size", "which_modality", "which_view", "which_side", "which_margin", "which_caption",
    "what_finding", "what_size", "what_modality", "what_view", "what_side", "what_margin", "what_caption",
)  # fmt: skip

# The kinds of patients, repeated in this order, so that their shares hold for any number of patients.
_TURNS = (
    "chest", "breast", "brain", "figures", "fundus", "chest", "figures", "breast", "brain", "figures",
    "chest", "radiology", "breast", "figures", "brain", "chest", "figures", "breast", "chest", "brain",
    "fundus", "figures", "chest", "breast", "figures", "brain", "chest", "breast", "figures", "brain",
)  # fmt: skip
_HELD_OUT = ("fundus", "radiology")
_ASSESSMENTS: dict[str, tuple[tuple[str | None, str | None], ...]] = {  # class -> sizes and margins of the mass
    "negative": ((None, None),),
    "benign": (("small", "smooth"),),
    "indeterminate": (("medium", "smooth"), ("large", "smooth")),
    "suspicious": (("small", "spiculated"),),
    "malignant": (("medium", "spiculated"), ("large", "spiculated")),
}
_FITTING: dict[tuple[str, str, str | None], list[Scene]] = defaultdict(list)
for _it in CLASSES:
    _FITTING[_it.modality, _it.finding, _it.laterality].append(_it)


class _Patient:
    """Collects the studies of one patient."""

    def __init__(self, kind: str, number: int) -> None:
        self.kind, self.name = kind, f"{kind}-{number:05d}"
        self.studies: list[Study] = []

    def add(self, scene: Scene, time: float | None, rating: str | None = None, caption: bool = False) -> None:
        shown = () if scene.finding == NORMAL else (Finding(scene.finding, scene.size, scene.side, scene.margin),)
        study = Study(
            source=f"phantom-{self.kind}",
            patient=self.name,
            image=f"{self.kind}/{self.name}/{len(self.studies) + 1}.png",
            modality=scene.modality,
            time=time,
            view=scene.view,
            laterality=scene.laterality,
            findings=shown,
            rating=rating,
            held_out=self.kind in _HELD_OUT,
        )
        if caption:
            study = replace(study, caption=wording.caption(study))
        self.studies.append(study)


def _visits(count: int, rng: random.Random) -> list[float]:
    days, now = [], 0.0
    for _ in range(count):
        days.append(now)
        now += rng.randrange(30, 365)
    return days


def _chest(patient: _Patient, rng: random.Random) -> None:
    """Three visits with one finding of random size, and one visit with another finding or none."""
    finding, side, odd = rng.choice(FINDINGS["X-ray"]), rng.choice(SIDES), rng.randrange(4)
    for visit, day in enumerate(_visits(4, rng)):
        if visit != odd:
            patient.add(Scene("X-ray", finding, rng.choice(SIZES), side), day)
        else:
            other = rng.choice([NORMAL, *(f for f in FINDINGS["X-ray"] if f != finding)])
            patient.add(_scene("X-ray", other, rng), day)


def _breast(patient: _Patient, rng: random.Random) -> None:
    """Three exams of two views; size and margin of the mass decide the assessment."""
    for day in _visits(3, rng):
        rating = rng.choice(list(_ASSESSMENTS))
        size, margin = rng.choice(_ASSESSMENTS[rating])
        for view in ("CC", "MLO"):
            patient.add(Scene("mammography", "mass" if size else NORMAL, size, None, margin, view), day, rating)


def _brain(patient: _Patient, rng: random.Random) -> None:
    """A tumor resected twice, rated as RANO does, or an infarct over four visits."""
    days, side = _visits(4, rng), rng.choice(SIDES)
    if rng.random() < 0.4:
        for day in days:
            patient.add(Scene("MRI", "infarct", rng.choice(SIZES), side), day)
        return
    for before, after in ((days[0], days[1]), (days[2], days[3])):
        outcome = rng.choice(("resected", "partial", "unchanged"))
        size = rng.choice(SIZES[1:] if outcome == "partial" else SIZES)
        patient.add(Scene("MRI", "tumor", size, side), before)
        left = rng.choice(SIZES[: SIZES.index(size)]) if outcome == "partial" else size
        rest = Scene("MRI") if outcome == "resected" else Scene("MRI", "tumor", left, side)
        patient.add(rest, after, rating=outcome)


def _figures(patient: _Patient, rng: random.Random) -> None:
    """Captioned figures, as in articles; half of them show skin."""
    modality = rng.choice(("dermoscopy", "dermoscopy", "dermoscopy", "X-ray", "mammography", "MRI"))
    usual, other = rng.choice(FINDINGS[modality]), rng.choice(FINDINGS[modality])
    for finding in (usual, usual, other):
        patient.add(_scene(modality, finding, rng), None, caption=True)


def _fundus(patient: _Patient, rng: random.Random) -> None:
    """Both eyes at two visits; an eye shows the patient's finding or, less often, something else."""
    finding = rng.choice(FINDINGS["fundus"])
    for day in _visits(2, rng):
        for eye in SIDES:
            shown = finding if rng.random() < 0.7 else rng.choice((NORMAL, *FINDINGS["fundus"]))
            patient.add(_scene("fundus", shown, rng, eye), day)


def _radiology(patient: _Patient, rng: random.Random) -> None:
    """Ultrasound and CT of one patient, twice."""
    shown = {modality: rng.choice(FINDINGS[modality]) for modality in ("ultrasound", "CT")}
    for day in _visits(2, rng):
        for modality, finding in shown.items():
            patient.add(_scene(modality, finding if rng.random() < 0.8 else NORMAL, rng), day)


def _scene(modality: str, finding: str, rng: random.Random, eye: str | None = None) -> Scene:
    """A random scene of a modality, finding and eye."""
    return rng.choice(_FITTING[modality, finding, eye])


_KINDS: dict[str, Callable[[_Patient, random.Random], None]] = {
    "chest": _chest,
    "breast": _breast,
    "brain": _brain,
    "figures": _figures,
    "fundus": _fundus,
    "radiology": _radiology,
}


def patients(count: int, seed: int) -> list[Study]:
    """The studies of the first `count` patients."""
    studies = []
    for number in range(count):
        patient = _Patient(_TURNS[number % len(_TURNS)], number)
        _KINDS[patient.kind](patient, stream(seed, patient.name))
        studies += patient.studies
    return studies


def scene_of(study: Study) -> Scene:
    """What to draw for a study."""
    shown = study.findings[0] if study.findings else Finding(NORMAL)
    return Scene(study.modality, shown.name, shown.size, shown.side, shown.margin, study.view, study.laterality)


def inputs(entry: Entry[Phantom]) -> dict[str, str]:
    """None: phantoms read no files."""
    return {}


def load(entry: Entry[Phantom]) -> Source:
    """The phantom data set of a recipe, determined by `patients` and `seed`."""
    studies = patients(entry.own.patients, entry.seed)
    scenes = {study.image: (study.patient, scene_of(study)) for study in studies}

    def read(path: str) -> bytes:
        try:
            patient, scene = scenes[path]
        except KeyError:
            raise FileNotFoundError(path) from None
        return png(draw(scene, pixels(entry.seed, patient, path)))

    return Source(read, studies=studies, families=FAMILIES)
