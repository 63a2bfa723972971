"""Drawn records in the form in which the readers of the real sources deliver them.

What the values mean is typed here from the sources' own descriptions, not taken from the code under test.
"""

import random
from collections.abc import Sequence

from medmim.data.breasts import Look, year_after
from medmim.sample import Change, Finding, Pair, Study

RATINGS = (
    "negative", "benign", "probably benign", "additional evaluation needed", "suspicious",
    "highly suggestive of malignancy", "known malignancy",
)  # fmt: skip
OUTCOMES = (None, "malignant", "high-risk", "benign", "negative", "unclear")
WEIGHTS = (20, 4, 4, 4, 4, 1)
RANO = {
    "complete response": "improved", "partial response": "improved", "stable disease": "stable",
    "progressive disease": "worse",
}  # fmt: skip
KEYWORDS = (
    "moderate nonproliferative retinopathy", "mild non-proliferative retinopathy", "proliferative diabetic retinopathy",
    "drusen", "dry age-related macular degeneration", "cataract", "lens opacity", "glaucoma", "suspected glaucoma",
    "epiretinal membrane", "epiretinal membrane over the macula", "pathological myopia", "vitreous degeneration",
    "hypertensive retinopathy", "myelinated nerve fibers", "laser spot",
)  # fmt: skip
CAPTIONS = (
    "Axial contrast-enhanced CT of the abdomen with a cyst in the left kidney",
    "Chest radiograph with a large right pleural effusion",
    "Chest X-ray without pleural effusion, but with cardiomegaly and sternal wires",
    "Sagittal T2-weighted MRI of the lumbar spine with a fracture of L1",
    "CT scan of the head showing hemorrhage in the basal ganglia",
    "Photomicrograph of the tumor with hematoxylin and eosin, nests of carcinoma in fibrous stroma",
    "Gross specimen of the resected colon with a polypoid mass near the cecum",
    "Coronary angiogram with stenosis of the left anterior descending artery",
    "Abdominal ultrasound with hydronephrosis and stones in the ureter",
    "CT of the thorax: consolidation in both lower lobes, no pneumothorax",
    "Lateral view of the elbow with dislocation of the radial head",
    "MRI of the brain, FLAIR sequence, hydrocephalus with dilated ventricles",
    "Computed tomography of the pelvis with an abscess beside the rectum",
    "Immunohistochemical staining of lymphoma cells for CD20",
)
ASKED = (
    (
        ("What do the arrows point to?", "what do the arrows point to"),
        ("They point to the wall of a vessel", "A bright spot near the bladder", "Gas within soft tissue"),
    ),
    (
        ("What type of imaging is this?", "Which imaging modality was used?"),
        ("It is a CT scan", "It is an MRI"),
    ),
    (("Is it big?",), ("yes", "no")),
)
MODALITIES = ("X-ray", "CT", "MRI", "histology", "")
SHOWN_BY = {  # start of a caption -> the modality that a source would give its figure
    "Axial": "CT", "Chest": "X-ray", "Sagittal": "MRI", "CT": "CT", "Photomicrograph": "histology",
    "Gross": "gross pathology", "Lateral": "X-ray", "MRI": "MRI", "Computed": "CT", "Immunohistochemical": "histology",
}  # fmt: skip


def embed(rng: random.Random, patients: int) -> list[Study]:
    """Exams of both breasts in several views, some without date, age or biopsy."""
    found = []
    for number in range(patients):
        day, age = 0.0, rng.uniform(40, 80)
        own: list[Study] = []
        for exam in range(rng.randint(1, 6)):
            dated = rng.random() < 0.95
            for side in ("left", "right"):
                rating, outcome = rng.choices(RATINGS, (5, 5, 1, 1, 1, 1, 1))[0], rng.choices(OUTCOMES, WEIGHTS)[0]
                for view in rng.sample(("CC", "MLO", "ML"), rng.choice((2, 2, 2, 3, 1))):
                    path = f"images/{number}/{exam}/{side}-{view}.dcm"
                    study = Study("embed", f"{number}", path, "mammography", day if dated else None, view, side)
                    own.append(_with(study, rating=rating, outcome=outcome, exam=f"{exam}", age=age + day / 365))
            day += rng.choice((0, 120, 300, 365, 365, 365, 400, 730))
        looks = [Look(study.laterality, study.time, study.rating, study.outcome) for study in own]
        found += [_with(study, year_after=year_after(look, looks)) for study, look in zip(own, looks, strict=True)]
    return found


def _with(study: Study, **values: object) -> Study:
    from dataclasses import replace

    return replace(study, **values)  # type: ignore[arg-type]


def lumiere(rng: random.Random, patients: int) -> list[Study]:
    """Weeks with some of the sequences on two slices; surgery in between."""
    found = []
    for number in range(patients):
        weeks = sorted(rng.sample(range(60), rng.randint(2, 6)))
        labels = [rng.choice((*RANO, "pre-operative", "post-operative")) for _ in weeks]
        for place in (61, 87):
            for sequence in ("CT1", "T1", "T2", "FLAIR"):
                last = None
                for week, label in zip(weeks, labels, strict=True):
                    if rng.random() < 0.2:
                        continue
                    path = f"Patient-{number:03d}/week-{week:03d}/{sequence}.nii.gz#coronal={place}"
                    changes: tuple[Change, ...] = ()
                    if last is not None and label in RANO:
                        changes = (Change("tumor", RANO[label], last),)
                    elif last is not None and label == "post-operative":
                        changes = (Change("resection", rng.choice(("complete", "partial")), last),)
                    study = Study("lumiere", f"Patient-{number:03d}", path, "MRI", 7.0 * week, "coronal", rating=label)
                    exam = f"week-{week:03d}"
                    found.append(_with(study, exam=exam, sequence=sequence, slice=place, changes=changes))
                    last = path
    return found


def ms_cxr_t(rng: random.Random, patients: int) -> list[Study]:
    """Chains of two to four images, each with changes since the one before."""
    found = []
    for number in range(patients):
        for visit in range(rng.randint(2, 4)):
            names = rng.sample(("consolidation", "edema", "pleural effusion", "pneumonia", "pneumothorax"), 2)
            since = f"p{number}/{visit - 1}.jpg"
            states = [rng.choice(("improved", "stable", "worse")) for _ in names]
            changes = tuple(Change(name, state, since) for name, state in zip(names, states, strict=True))
            study = Study("ms-cxr-t", f"{number}", f"p{number}/{visit}.jpg", "X-ray", float(visit), "AP")
            found.append(_with(study, exam=f"{visit}", changes=changes if visit else ()))
    return found


def odir(rng: random.Random, patients: int) -> list[Study]:
    """Eyes with one or two keywords or none; one patient in ten has one eye only."""
    found = []
    for number in range(patients):
        alike = rng.random() < 0.3
        words = rng.sample(KEYWORDS, rng.choice((1, 1, 2)))
        for side in ("left", "right") if rng.random() < 0.9 else ("right",):
            own = words if alike else rng.sample(KEYWORDS, rng.choice((0, 1, 1, 2)))
            path = f"Training Images/{number}_{side}.jpg"
            study = Study("odir", f"{number}", path, "fundus", None, None, side, tuple(map(Finding, own)))
            found.append(_with(study, held_out=True, exam=f"{number}"))
    return found


def vqa_rad(rng: random.Random, images: int) -> list[Study]:
    """Images with closed and open questions."""
    found = []
    for number in range(images):
        pairs = [Pair(f"Is finding {rng.randrange(30)} present?", rng.choice(("yes", "no", "Yes", "No")), "closed")
                 for _ in range(rng.randint(0, 6))]  # fmt: skip
        pairs += [Pair(f"What is in region {rng.randrange(9)}?", rng.choice(("liver", "lung", "4"))) for _ in range(2)]
        study = Study("vqa-rad", f"synpic{number}.jpg", f"VQA_RAD Image Folder/synpic{number}.jpg", "")
        found.append(_with(study, held_out=True, pairs=tuple(pairs)))
    return found


def pmc(rng: random.Random, articles: int, captions: Sequence[str] = CAPTIONS) -> list[Study]:
    """One or two figures an article, some without caption, some with pairs."""
    found = []
    for number in range(articles):
        for figure in range(rng.randint(1, 2)):
            caption = None if rng.random() < 0.05 else f"{rng.choice(captions)}."
            pairs = tuple(Pair(rng.choice(asked), rng.choice(told)) for asked, told in rng.sample(ASKED, 2))
            path = f"images/{number}_F{figure}.jpg"
            fitting = SHOWN_BY.get((caption or "").split(" ")[0], "")
            modality = fitting if rng.random() < 0.5 else rng.choice(MODALITIES)
            found.append(Study("pmc", f"{number}", path, modality, caption=caption, pairs=pairs))
    return found
