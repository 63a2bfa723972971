"""A look-alike of MedFrameQA: questions on two to five frames of a teaching video, as one Parquet file."""

import random
from pathlib import Path

import numpy as np
from PIL import Image

from medmim.data.lookalike.pictures import encoded, grey, layers
from medmim.data.lookalike.tables import Done, Written
from medmim.data.seeds import pixels, stream
from medmim.data.sources.phantom_draw import FINDINGS, NORMAL, SIZES, Scene, exposed

_KINDS = {  # modality -> system, organ
    "X-ray": ("Respiratory", "lung"),
    "MRI": ("Nervous", "brain"),
    "CT": ("Digestive", "liver"),
    "ultrasound": ("Digestive", "gallbladder"),
}
_LETTERS = "ABCDEF"
_FRAME = (1280, 720)  # width, height in pixels
_IMAGES = 5


def write_source(folder: Path, patients: int, seed: int, done: Done) -> Written:
    """Write the look-alike of MedFrameQA.

    Args:
        folder: To be made.
        patients: How many videos, since no patient is known; video N is the same for any number of them.
        seed: Equal seeds give equal bytes.
        done: Called after each video.

    Returns:
        What was written; `rows` are the questions.
    """
    import pyarrow as pa
    from pyarrow import parquet

    rows: list[dict[str, object]] = []
    written = Written("medframeqa", patients)
    for number in range(patients):
        rng = stream(seed, "medframeqa", number)
        modality = rng.choice(sorted(_KINDS))
        for question in range(rng.choice((1, 2))):
            rows.append(_question(number, question, modality, rng, (seed, "medframeqa", number, question)))
        done()
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    texts = ("question_id", "system", "organ", "keyword", "modality", "video_id", "question")
    schema = pa.schema(
        [
            *((name, pa.string()) for name in texts),
            ("options", pa.list_(pa.string())),
            ("correct_answer", pa.string()),
            *((f"image_{place}", image) for place in range(1, _IMAGES + 1)),
            ("image_url", pa.list_(pa.string())),
            ("reasoning_chain", pa.string()),
        ]
    )
    (folder / "data").mkdir(parents=True)
    parquet.write_table(pa.Table.from_pylist(rows, schema), folder / "data" / "test-00000-of-00001.parquet")
    written.rows = len(rows)
    written.images = sum(row[f"image_{place}"] is not None for row in rows for place in range(1, _IMAGES + 1))
    return written


def _question(
    number: int, question: int, modality: str, rng: random.Random, who: tuple[object, ...]
) -> dict[str, object]:
    """A question on frames of which one shows a finding, or all the same one."""
    system, organ = _KINDS[modality]
    count, finding, size = rng.randrange(2, _IMAGES + 1), rng.choice(FINDINGS[modality]), rng.choice(SIZES)
    side = rng.choice(("left", "right"))
    if question:
        odd = rng.randrange(count)
        scenes = [Scene(modality, finding if place == odd else NORMAL, size, side) for place in range(count)]
        asked = f"Which of the frames of this {modality} lecture shows the {finding}?"
        options = [f"Frame {place + 1}" for place in range(count)]
        right, why = options[odd], f"Only frame {odd + 1} shows a {size} {finding}; the others are normal."
    else:
        scenes = [Scene(modality, finding, size, side)] * count
        asked = f"What do these frames of the {organ} show?"
        everywhere = sorted({one for kind in FINDINGS.values() for one in kind} - {finding})
        options = [finding, NORMAL, *rng.sample(everywhere, rng.choice((2, 3, 4)))]
        rng.shuffle(options)
        right, why = finding, f"Each frame shows a {size} {finding}."
    video = f"vid{number:05d}"
    row: dict[str, object] = {
        "question_id": f"{video}-q{question + 1}",
        "system": system,
        "organ": organ,
        "keyword": f"{organ} {finding}",
        "modality": modality,
        "video_id": video,
        "question": asked,
        "options": options,
        "correct_answer": _LETTERS[options.index(right)],
        "image_url": [f"https://www.youtube.com/watch?v={video}&t={10 * place}s" for place in range(count)],
        "reasoning_chain": why,
    }
    for place in range(_IMAGES):
        name = f"{video}_{question + 1}_{place + 1}.jpg"
        frame = {"bytes": _frame(scenes[place], (*who, place)), "path": name} if place < count else None
        row[f"image_{place + 1}"] = frame
    return row


def _frame(scene: Scene, who: tuple[object, ...]) -> bytes:
    """A picture in the middle of a dark slide."""
    bare, added = layers(scene, *who)
    shown = grey(exposed(bare + added, pixels(*who, "noise")))
    slide = np.full((_FRAME[1], _FRAME[0]), 16, np.uint8)
    left = (_FRAME[0] - _FRAME[1]) // 2
    slide[:, left : left + _FRAME[1]] = np.asarray(Image.fromarray(shown).resize((_FRAME[1], _FRAME[1])))
    return encoded(np.repeat(slide[..., None], 3, axis=2))
