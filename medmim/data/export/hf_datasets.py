"""Rows with all that a question has, for Hugging Face `datasets`: `load_dataset` shows the pictures.

Patients are numbers in the order in which they come: an interval needs to know which rows share one, nobody needs more.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from medmim import shards
from medmim.data import people
from medmim.data.export import form, inline
from medmim.data.export.form import Form, Splits, Written
from medmim.sample import Sample

_TEXTS = ("id", "prompt", "target", "question", "answer", "ability", "family", "source")
_USAGE = """\
```python
from datasets import load_dataset

rows = load_dataset("FOLDER", split="{split}")     # rows[0]["images"]: PIL pictures, in the order of the question
```

| column | |
|---|---|
| `images` | the pictures, encoded as the data set stores them, decoded when they are read |
| `prompt`, `target` | what a model reads and should write: the question with its options, the option with its letter |
| `question`, `options`, `answer`, `gold` | the same apart; `gold`: indices of right options, none of open questions |
| `ability`, `family`, `source` | what is asked, and the data set of the images |
| `patients` | of the images, as numbers in this export: cluster by them |
| `id` | digest of image ids, question and options |
"""


def write(folder: Path, splits: Splits, images: shards.Images | None) -> Written:
    """Write Parquet with the pictures in it."""
    import pyarrow as pa

    integer = pa.list_(pa.int32())
    columns = {
        **{name: pa.string() for name in _TEXTS},
        "options": pa.list_(pa.string()),
        "gold": integer,
        "patients": integer,
    }
    text, number = ({"dtype": kind, "_type": "Value"} for kind in ("string", "int32"))
    features = {**dict.fromkeys(_TEXTS, text), "options": [text], "gold": [number], "patients": [number]}
    row = _rows()
    files = {
        split: inline.write(folder, split, samples, form.with_pixels(images), columns, features, row)
        for split, samples in splits.items()
    }
    return Written(_USAGE.format(split=next(iter(splits))), files)


def _rows() -> Callable[[Sample], dict[str, Any]]:
    numbers: dict[people.Identity, int] = {}

    def row(sample: Sample) -> dict[str, Any]:
        patients = [numbers.setdefault(who, len(numbers)) for who in people.of_sample(sample)]
        return {
            **{name: getattr(sample, name) for name in _TEXTS},
            "options": sample.options,
            "gold": sample.gold,
            "patients": patients,
        }

    return row


FORM = Form(lambda sample: "", write)
