"""The standard rows of ms-swift: JSON Lines with `messages` and `images`, a tag `<image>` for each image."""

from pathlib import Path

from medmim import shards
from medmim.data.export import chat, form
from medmim.data.export.form import Form, Splits, Written
from medmim.sample import Sample

_TAGS = ("<video>", "<audio>", "<bbox>", "<ref-object>", "<start-image>", "<cot-process>")
_USAGE = """\
For [ms-swift](https://github.com/modelscope/ms-swift). Paths of pictures start from `ROOT_IMAGE_DIR`:

```
ROOT_IMAGE_DIR=FOLDER swift {files} --strict true ...
```

Without `--strict true` it leaves out rows that fail; it leaves out rows longer than `--max_length` in any case
(`--truncation_strategy delete`), and shrinks images above `MAX_PIXELS`.
"""


def problem(sample: Sample) -> str:
    """Why ms-swift cannot hold a row; empty where it can."""
    return form.tag_in(sample, *_TAGS)


def write(folder: Path, splits: Splits, images: shards.Images | None) -> Written:
    """Write `SPLIT.jsonl`, and the pictures."""
    files, known = chat.write(folder, splits, images)
    trained, measured = form.uses(splits)
    given = [
        *(f"sft --dataset FOLDER/{files[split]}" for split in trained),
        *([] if trained else ["infer"]),
        *(f"--val_dataset {' '.join(f'FOLDER/{files[split]}' for split in measured)}" for _ in measured[:1]),
    ]
    return Written(_USAGE.format(files=" ".join(given)), files, known)


FORM = Form(problem, write)
