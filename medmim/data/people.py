"""Who a patient is, for splits, audits, intervals and erasures: data sets of one hospital share their patients.

A patient is a population and an identifier in it. Everything derived from MIMIC-CXR names patients by `subject_id`, so
what was tuned on one of those sets must not be asked about the same patient of another.
"""

import re
from functools import cache

from medmim.sample import Sample, Study

Identity = tuple[str, str]

# Names of data sets, in lower case with dashes, -> population. The published Med-MIM JSON says MS_CXR_T, EMBED.
_POPULATIONS = {
    **dict.fromkeys(
        (
            "mimic", "ms-cxr", "mi-cxr", "mmxu", "medical-diff-vqa", "diff-vqa", "chest-imagenome", "imagenome",
            "ehrxqa", "reflacx", "radgraph",
        ),
        "mimic",
    ),
    "embed": "embed",
    "lumiere": "lumiere",
    "odir": "odir",
    "vqa-rad": "vqa_rad",
    "pmc": "pmc",
    "llava-med": "pmc",
}  # fmt: skip
_SUBJECT = re.compile(r"p(\d{8})")  # the folder of a MIMIC patient


@cache
def population_of(source: str) -> str:
    """The population of a data set: a known one, else the source up to its first dash (`phantom-chest`: `phantom`)."""
    name = re.sub(r"[^a-z0-9]+", "-", source.lower()).strip("-")
    known = next((known for known in _POPULATIONS if f"{name}-".startswith(f"{known}-")), None)
    return source.split("-")[0] if known is None else _POPULATIONS[known]


def identity(source: str, patient: str) -> Identity:
    """A patient as (population, identifier), equal for all data sets that hold them."""
    population = population_of(source)
    subject = _SUBJECT.fullmatch(patient) if population == "mimic" else None
    return population, subject[1] if subject else patient


def of(study: Study) -> Identity:
    """The patient of a study."""
    return identity(study.source, study.patient)


def of_sample(sample: Sample) -> list[Identity]:
    """The patients of a question."""
    return [identity(sample.source, patient) for patient in sample.patients]


def key(source: str, patient: str) -> str:
    """A patient as one text, `POPULATION/IDENTIFIER`."""
    return "/".join(identity(source, patient))
