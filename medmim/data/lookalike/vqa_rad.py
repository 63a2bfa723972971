"""A look-alike of VQA-RAD: single radiology images with questions and answers about what they show."""

import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from medmim.data.lookalike.pictures import encoded, enlarged, grey, layers
from medmim.data.lookalike.tables import Done, Written, number_of, turn, write, xlsx
from medmim.data.seeds import pixels, stream
from medmim.data.sources.phantom_draw import CLASSES, NORMAL, Scene, exposed

_COLUMNS = {  # of the JSON -> of the spreadsheet
    "qid": "QID_unique",
    "phrase_type": "QID_para",
    "qid_linked_id": "QID_linked",
    "image_case_url": "IMAGEID_case",
    "image_name": "IMAGE",
    "image_organ": "IMAGE_organ",
    "evaluation": "EVALUATION",
    "question": "QUESTION",
    "question_rephrase": "Q_REPHASE",
    "question_relation": "Q_RELATION",
    "question_frame": "Q_FRAMED",
    "question_type": "Q_TYPE",
    "answer": "ANSWER",
    "answer_type": "A_TYPE",
}
_ORGANS = {"HEAD": "MRI", "CHEST": "X-ray", "ABD": "CT"}
_NAMED = {"MRI": "MRI", "X-ray": "chest x-ray", "CT": "CT scan"}
_FINDINGS = {
    "opacity": "consolidation", "effusion": "pleural effusion", "nodules": "nodules", "tumor": "tumor",
    "infarct": "infarct", "lesion": "liver lesion", "hematoma": "hematoma",
}  # fmt: skip
_TURNS = ("", "CLOSED with a blank", "", "tab in an answer", "", "picture missing", "", "keys absent", "")
_FACTOR = 3  # pixels of the file for one of the painter's


def write_source(folder: Path, patients: int, seed: int, done: Done) -> Written:
    """Write the look-alike of VQA-RAD.

    Args:
        folder: To be made.
        patients: How many images, each its own case; image N is the same for any number of them.
        seed: Equal seeds give equal bytes.
        done: Called after each image.

    Returns:
        What was written; `rows` are the questions.
    """
    rows: list[dict[str, object]] = []
    written = Written("vqa-rad", patients)
    for number in range(patients):
        rng = stream(seed, "vqa-rad", number)
        trouble = turn(_TURNS, number)
        organ = ("HEAD", "CHEST", "ABD")[number % 3]
        scene = rng.choice([one for one in CLASSES if one.modality == _ORGANS[organ]])
        if rng.random() < 0.2:
            scene = Scene(_ORGANS[organ])
        name = f"synpic{number_of(number, 10_000, 70_000, seed, 'synpic')}.jpg"
        test = rng.random() < 0.2
        case = f"https://medpix.nlm.nih.gov/case?id=case-{number:05d}"
        linked = ""
        for place, (question, answer, kind, para) in enumerate(_asked(scene, organ, rng)):
            identity = rng.getrandbits(128)
            linked = linked if para else f"{identity:032x}"
            closed = answer in ("Yes", "No")
            row: dict[str, object] = {
                "qid": len(rows) if number % 2 else str(len(rows)),
                "phrase_type": ("test_" if test else "") + ("para" if para else "freeform"),
                "qid_linked_id": linked,
                "image_case_url": case,
                "image_name": name,
                "image_organ": organ,
                "evaluation": "evaluated" if place % 2 else "not evaluated",
                "question": question,
                "question_rephrase": "NULL",
                "question_relation": "NULL",
                "question_frame": "NULL",
                "question_type": kind,
                "answer": answer,
                "answer_type": "CLOSED" if closed else "OPEN",
            }
            if trouble == "CLOSED with a blank" and closed:
                row["answer_type"] = "CLOSED "
            if trouble == "tab in an answer" and isinstance(answer, str) and not closed:
                row["answer"] = f"{answer}\t"
            if trouble == "keys absent":
                row = {key: row[key] for key in row if key not in ("question_rephrase", "question_relation")}
            rows.append(row)
        if trouble == "picture missing":
            written.dirty[trouble] += 1
        else:
            bare, added = layers(scene, seed, "vqa-rad", number)
            shown = exposed(bare + added, pixels(seed, "vqa-rad", number, "noise"))
            write(folder / "VQA_RAD Image Folder" / name, encoded(grey(enlarged(shown, _FACTOR))))
            written.images += 1
        done()
    write(folder / "VQA_RAD Dataset Public.json", json.dumps(rows, indent=1).encode())
    sheet = [{_COLUMNS[key]: value for key, value in row.items()} for row in rows]
    write(folder / "VQA_RAD Dataset Public.xlsx", xlsx("Sheet1", list(_COLUMNS.values()), sheet))
    written.rows = len(rows)
    written.dirty += _dirty(rows)
    return written


def _asked(scene: Scene, organ: str, rng: random.Random) -> Iterator[tuple[str, object, str, bool]]:
    """Questions on an image: text, answer, kind, and whether it says the one before in other words."""
    name = _NAMED[scene.modality]
    yield "What kind of image is this?", name, "MODALITY", False
    yield "Which imaging technique was used?", name, "MODALITY", True
    asked = rng.choice([scene.finding, *_others(scene)]) if scene.finding != NORMAL else rng.choice(_others(scene))
    shown = "Yes" if asked == scene.finding else "No"
    yield f"Is there evidence of {_FINDINGS[asked]}?", shown, "PRES", False
    yield f"Does the image show signs of {_FINDINGS[asked]}?", shown, "PRES", True
    yield "Is this image normal?", "Yes" if scene.finding == NORMAL else "No", "ABN", False
    yield "How many images are shown?", 1, "COUNT", False
    if scene.finding != NORMAL:
        yield "What is abnormal?", _FINDINGS[scene.finding], "ABN, PRES", False
        yield f"How large is the {_FINDINGS[scene.finding]}?", scene.size, "SIZE", False
    if scene.side:
        yield "On which side of the image is the abnormality?", scene.side, "POS", False
    yield "Which organ system is imaged?", {"HEAD": "brain", "CHEST": "chest", "ABD": "abdomen"}[organ], "ORGAN", False


def _others(scene: Scene) -> list[str]:
    """Findings of the modality that an image does not show."""
    return sorted({one.finding for one in CLASSES if one.modality == scene.modality} - {scene.finding, NORMAL})


def _dirty(rows: list[dict[str, object]]) -> Counter[str]:
    """How many rows have what is wrong in the real file too."""
    return Counter(
        {
            "answer_type with a blank behind": sum(row["answer_type"] == "CLOSED " for row in rows),
            "answer an integer": sum(isinstance(row["answer"], int) for row in rows),
            "answer with a tab": sum("\t" in str(row["answer"]) for row in rows),
            "qid an integer": sum(isinstance(row["qid"], int) for row in rows),
            "keys absent": sum("question_relation" not in row for row in rows),
        }
    )
