"""How long the plan of a data set of Med-MIM's size takes: no table is read and no picture opened, all questions made.

    .venv/bin/python benchmarks/data_plan.py               about 83.2K train questions, in the published form
    .venv/bin/python benchmarks/data_plan.py --small       a tenth of the patients

The records are drawn with the counts of the real sources (EMBED 23,250 patients, LUMIERE 91, MS-CXR-T 800, PMC 60,000
figures, ODIR 3,500, VQA-RAD 315): reading their tables is measured elsewhere.
"""

import argparse
import random
import time
from collections.abc import Iterator

from medmim.data import build, people, quotas
from medmim.data.sources.source import Source
from medmim.recipe.schema import Data
from medmim.sample import Change, Finding, Pair, Study

BIRADS = (
    ("negative", 0.55), ("benign", 0.25), ("additional evaluation needed", 0.1), ("probably benign", 0.05),
    ("suspicious", 0.03), ("highly suggestive of malignancy", 0.005), ("known malignancy", 0.015),
)  # fmt: skip
RANO = (
    ("progressive disease", "worse", 253), ("stable disease", "stable", 97), ("complete response", "improved", 27),
    ("partial response", "improved", 20),
)  # fmt: skip
FINDINGS = ("consolidation", "edema", "pleural effusion", "pneumonia", "pneumothorax")
EYES = (
    "normal fundus", "cataract", "glaucoma", "drusen", "moderate nonproliferative retinopathy", "epiretinal membrane",
    "mild nonproliferative retinopathy", "dry age-related macular degeneration", "pathological myopia",
)  # fmt: skip
WORDS = (
    "axial", "coronal", "contrast", "enhanced", "large", "small", "enlarged", "heart", "liver", "kidney", "brain",
    "lobe", "node", "wall", "mass", "carcinoma", "cyst", "effusion", "fracture", "hemorrhage", "stenosis",
    "thrombus", "aneurysm", "calcification", "abscess", "fibrosis", "hernia", "edema", "metastases",
    "consolidation", "artery", "vein", "duct", "bone", "spine", "skull", "pelvis", "chest", "abdomen", "arrow",
    "section", "stained", "cells", "tissue", "margin",
)  # fmt: skip
FAMILIES = {
    "embed": ("which_diseased", "forecast", "which_craniocaudal", "birads"),
    "lumiere": ("which_sequence", "extent_of_resection", "tumor_course"),
    "ms-cxr-t": ("progression",),
    "pmc": ("which_figure", "match_figure", "match_caption", "same_modality", "joined_figures"),
    "odir": ("eye_diagnosis", "which_eye", "both_eyes", "shared_diagnosis", "same_diagnosis"),
    "vqa-rad": ("joined",),
}


def embed(patients: int, rng: random.Random) -> Iterator[Study]:
    """Three exams a patient on average, four views each."""
    ratings, weights = zip(*BIRADS, strict=True)
    for number in range(patients):
        day, age = 0.0, rng.uniform(40, 80)
        for exam in range(rng.randint(1, 5)):
            for side in ("left", "right"):
                rating = rng.choices(ratings, weights)[0]
                proven = rating == "known malignancy" or (rating in ratings[2:6] and rng.random() < 0.2)
                for view in ("CC", "MLO"):
                    yield Study(
                        "embed", f"{number}", f"{number}/{exam}/{side}/{view}", "mammography", day, view, side,
                        rating=rating, exam=f"{exam}", age=age + day / 365, outcome="malignant" if proven else None,
                    )  # fmt: skip
            day += rng.randint(200, 800)


def lumiere(patients: int, slices: int, rng: random.Random) -> Iterator[Study]:
    """Seven weeks a patient with four sequences; the second comes after surgery."""
    labels = [label[:2] for label in RANO]
    weights = [label[2] for label in RANO]
    for number in range(patients):
        for week in range(7):
            rating, state = rng.choices(labels, weights)[0]
            finding = "tumor"
            if week <= 1:
                rating, finding, state = ("pre-operative", "post-operative")[week], "resection", "complete"
                state = rng.choice(("complete", "complete", "complete", "partial"))
            for place in range(slices):
                for sequence in ("CT1", "T1", "T2", "FLAIR"):
                    start = f"{number}/{sequence}/{place}"
                    changes = (Change(finding, state, f"{start}/{week - 1}"),) if week else ()
                    yield Study(
                        "lumiere", f"Patient-{number:03d}", f"{start}/{week}", "MRI", week * 49.0, "coronal",
                        rating=rating, exam=f"week-{week:03d}", sequence=sequence, slice=place, changes=changes,
                    )  # fmt: skip


def ms_cxr_t(patients: int, rng: random.Random) -> Iterator[Study]:
    """A previous and a current image, with one or two labelled findings."""
    for number in range(patients):
        found = rng.sample(FINDINGS, rng.choice((1, 1, 2)))
        states = rng.choices(("improved", "stable", "worse"), (20, 38, 42), k=len(found))
        changes = tuple(Change(name, state, f"{number}/0") for name, state in zip(found, states, strict=True))
        yield Study("ms-cxr-t", f"{number}", f"{number}/0", "X-ray", 0.0, "AP", exam="0")
        yield Study("ms-cxr-t", f"{number}", f"{number}/1", "X-ray", 3.0, "AP", exam="1", changes=changes)


def pmc(articles: int, rng: random.Random) -> Iterator[Study]:
    """Two figures an article, with a caption of about 25 words and three pairs."""
    for number in range(articles):
        for figure in range(2):
            caption = " ".join(rng.choices(WORDS, k=rng.randint(10, 40))) + "."
            modality = rng.choice(("X-ray", "CT", "MRI", "histology", "gross pathology", ""))
            pairs = tuple(
                Pair(rng.choice(("Where is it?", "What type of image is it?", "What do the arrows show?")), answer)
                for answer in (" ".join(rng.sample(WORDS, 4)) for _ in range(3))
            )
            path = f"{number}_F{figure}"
            yield Study("pmc", f"{number}", path, modality, caption=f"{modality or 'Image'} {caption}", pairs=pairs)


def odir(patients: int, rng: random.Random) -> Iterator[Study]:
    """Both eyes of a patient."""
    for number in range(patients):
        for side in ("left", "right"):
            name = rng.choices(EYES, (8, *[1] * (len(EYES) - 1)))[0]
            findings = () if name == EYES[0] else (Finding(name),)
            yield Study(
                "odir", f"{number}", f"{number}_{side}", "fundus", None, None, side, findings, held_out=True,
                exam=f"{number}",
            )  # fmt: skip


def vqa_rad(images: int, rng: random.Random) -> Iterator[Study]:
    """Seven questions an image."""
    for number in range(images):
        pairs = tuple(
            Pair(f"Is there {rng.choice(FINDINGS)}?", rng.choice(("yes", "no")), "closed")
            if rng.random() < 0.6
            else Pair("Which organ is it?", rng.choice(("lung", "brain", "liver")))
            for _ in range(7)
        )
        yield Study("vqa-rad", f"{number}", f"{number}.jpg", "", held_out=True, pairs=pairs)


def sources(share: float, seed: int = 0) -> list[Source]:
    """The records of all sources, for a share of their patients."""
    rng = random.Random(seed)  # noqa: S311  drawn tables, no secret
    drawn = {
        "embed": embed(int(23_250 * share), rng),
        "lumiere": lumiere(int(91 * share), 20, rng),
        "ms-cxr-t": ms_cxr_t(int(800 * share), rng),
        "pmc": pmc(int(30_000 * share), rng),
        "odir": odir(int(3_500 * share), rng),
        "vqa-rad": vqa_rad(int(315 * share), rng),
    }
    return [Source(lambda _: b"", studies=list(studies), families=FAMILIES[name]) for name, studies in drawn.items()]


def main() -> None:
    """Make the questions, and print how many and how long it took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--small", action="store_true", help="a tenth of the patients")
    parser.add_argument("--form", choices=("strict", "published"), default="published", help="as data.form")
    given = parser.parse_args()
    share = 0.1 if given.small else 1.0
    limits = {"temporal": 9_000, "reasoning": 4_400, "comparison": 3_200, "coreference": 12_000}
    data = Data(
        source="phantom", form=given.form, total=int(83_200 * share),
        quotas={**{name: int(number * share) for name, number in limits.items()}, "composed": None},
    )  # fmt: skip
    read = sources(share)
    held_out = {people.of(study) for one in read for study in one.studies or () if study.held_out}
    begin, before = time.perf_counter(), time.process_time()
    made = []
    for one in read:
        start = time.perf_counter()
        asked, counts = build.ask_and_count(one.studies or (), one.families, data, held_out)
        made.append(asked)
        name = (one.studies or [])[0].source
        took = time.perf_counter() - start
        print(f"{name:10} {len(one.studies or []):9,} studies {len(asked):9,} questions {took:6.1f} s {counts}")
    left, over = quotas.apply(made, data)
    train = sum(sample.split == "train" for own in left for sample in own)
    took, busy = time.perf_counter() - begin, time.process_time() - before
    print(f"{sum(map(len, left)):,} questions, {train:,} of them for training; over quota: {dict(over)}")
    print(f"{took:.1f} s, of which one core was busy {busy:.1f} s")


if __name__ == "__main__":
    main()
