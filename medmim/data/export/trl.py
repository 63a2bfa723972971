"""The conversational rows of TRL for vision-language models: `images`, and `messages` whose content is typed."""

from pathlib import Path
from typing import Any

from medmim import shards
from medmim.data.export import form, inline
from medmim.data.export.form import Form, Splits, Written
from medmim.sample import Sample

_USAGE = """\
For the `SFTTrainer` of [TRL](https://github.com/huggingface/trl):

```python
from datasets import load_dataset

rows = load_dataset("FOLDER")     # a split each; images: PIL pictures; messages
trainer = SFTTrainer(model, SFTConfig(max_length=None, ...), {given})
```

`max_length=None`, since cutting a row would cut its images; TRL packs no rows with images.
"""


def problem(sample: Sample) -> str:
    """Why TRL cannot hold a row; empty where it can.

    Its content is typed, but the chat templates of many models count the tags in the finished text, and fail in the
    middle of a training.
    """
    return form.tag_in(sample)


def write(folder: Path, splits: Splits, images: shards.Images | None) -> Written:
    """Write Parquet with the pictures in it."""
    import pyarrow as pa

    part = pa.struct([("type", pa.string()), ("text", pa.string())])
    columns = {
        "messages": pa.list_(pa.struct([("role", pa.string()), ("content", pa.list_(part))])),
        "id": pa.string(),
    }
    text = {"dtype": "string", "_type": "Value"}
    features = {"messages": [{"role": text, "content": [{"type": text, "text": text}]}], "id": text}
    files = {
        split: inline.write(folder, split, samples, form.with_pixels(images), columns, features, _row)
        for split, samples in splits.items()
    }
    trained, measured = form.uses(splits)
    given = [f'train_dataset=rows["{split}"]' for split in trained]
    if len(measured) == 1:
        given.append(f'eval_dataset=rows["{measured[0]}"]')
    elif measured:
        named = ", ".join(f'"{split}": rows["{split}"]' for split in measured)
        given.append(f"eval_dataset={{{named}}}")
    return Written(_USAGE.format(given=", ".join(given)), files)


def _row(sample: Sample) -> dict[str, Any]:
    shown: list[dict[str, str | None]] = [{"type": "image", "text": None} for _ in sample.images]
    return {
        "id": sample.id,
        "messages": [
            {"role": "user", "content": [*shown, {"type": "text", "text": sample.prompt}]},
            {"role": "assistant", "content": [{"type": "text", "text": sample.target}]},
        ],
    }


FORM = Form(problem, write)
