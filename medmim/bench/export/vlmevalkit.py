"""Writes closed questions as tables that VLMEvalKit reads as custom multiple choice: `medmim_TASK.tsv`, for $LMUData.

Open questions are left out: VLMEvalKit scores none of a custom table. It writes the images of a question to files by
their names, and shows a file of that name again: here a name is the digest of what it holds, so that it shows no other
image.
"""

import base64
import csv
import hashlib
from collections.abc import Mapping
from pathlib import Path

from medmim import progress, shards
from medmim.bench.export import parts
from medmim.bench.tasks import Items
from medmim.data.export.bare import bare
from medmim.errors import UserError
from medmim.sample import LETTERS, Sample

_TEXTS = ("question", *LETTERS, "answer")
_COLUMNS = ("index", "image", "image_path", *_TEXTS, "category", "source", "id")
_USAGE = """\
## Run it

Copy the tables into the folder that `LMUData` names; then, with
[VLMEvalKit](https://github.com/open-compass/VLMEvalKit):

```
python run.py --data {names} --model MODEL --judge exact_matching
```

## Where scores differ from medmim's

* VLMEvalKit has a prompt of its own (`Question: ...`, `Options:`), and many of its models another; answers are read by
  its own rules, and what these do not read is given to a judge, or to chance.
* The only image of a question is saved as JPEG by it, so its pixels change. Those of several images do not.
* {open} open questions are left out. There are no intervals, and nothing is asked without images.
"""


def write(folder: Path, items: Mapping[str, Items], images: shards.Images, max_new_tokens: int) -> str:
    """Write the closed questions of tasks.

    Args:
        folder: Exists, and is empty.
        items: Name of a task -> its questions.
        images: Of the data set.
        max_new_tokens: Is not used: a model has its own limit there.

    Returns:
        How to run it, in Markdown.

    Raises:
        UserError: A task has no closed question, the data set lacks an image, or a text would be read back changed.
    """
    names = []
    for title, one in items.items():
        closed = [sample for sample in one.samples if sample.options]
        if not closed:
            raise UserError(
                f"task {title} has no closed question, and VLMEvalKit scores no open ones of a table",
                fix="take --to lmms-eval, or another task",
            )
        names.append(parts.stem(title))
        path = folder / f"{names[-1]}.tsv"
        with path.open("w", encoding="utf-8", newline="") as file, progress.bar(title, len(closed), "questions") as bar:
            table = csv.DictWriter(file, _COLUMNS, delimiter="\t")
            table.writeheader()
            for number, sample in enumerate(closed):
                table.writerow(_row(number, sample, images))
                bar.add()
        _refuse_changed(path, closed)
    left = sum(not sample.options for one in items.values() for sample in one.samples)
    return _USAGE.format(names=" ".join(names), open=f"{left:,}")


def _row(number: int, sample: Sample, images: shards.Images) -> dict[str, object]:
    shown = parts.images(sample, lambda name: bare(images.png(name)))
    encoded = [base64.b64encode(data).decode() for data in shown]
    paths = [f"{hashlib.sha256(data).hexdigest()[:40]}.png" for data in shown]
    return {
        "index": number,
        "image": encoded[0] if len(encoded) == 1 else str(encoded),
        "image_path": paths[0] if len(paths) == 1 else str(paths),
        "question": sample.question,
        **dict(zip(LETTERS, sample.options, strict=False)),
        "answer": LETTERS[sample.gold[0]],
        "category": sample.ability,
        "source": sample.source,
        "id": sample.id,
    }


def _refuse_changed(path: Path, samples: list[Sample]) -> None:
    """Refuse texts that pandas, by which VLMEvalKit reads a table, takes for a number or for a missing value."""
    import pandas as pd

    read = pd.read_csv(path, sep="\t", usecols=list(_TEXTS))
    for sample, row in zip(samples, read.to_dict("records"), strict=True):
        said = {"question": sample.question, **dict(zip(LETTERS, sample.options, strict=False))}
        for key, text in said.items():
            if str(row[key]) != text:
                raise UserError(
                    f"question {sample.id} cannot be written for VLMEvalKit",
                    reason=f"it would read {key} as {row[key]!r} instead of {text!r}",
                    fix="take --to lmms-eval, or a task without this question",
                )
