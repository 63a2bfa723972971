"""The rows of LLaMA-Factory: `messages` and `images` in the form `sharegpt`, with the `dataset_info.json` for them.

Not its form `openai`, which adds a system prompt of its own.
"""

import json
from pathlib import Path

from medmim import shards
from medmim.data.export import chat, form
from medmim.data.export.form import Form, Splits, Written
from medmim.sample import Sample

_TAGS = ("<video>", "<audio>")
_INFO = "dataset_info.json"
_COLUMNS = {"messages": "messages", "images": "images"}
_ROLES = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
_USAGE = """\
For [LLaMA-Factory](https://github.com/hiyouga/LLaMA-Factory), which finds rows and pictures by `dataset_info.json`:

```
llamafactory-cli train --dataset_dir FOLDER {names} ...
```

It cuts rows at `cutoff_len` tokens, those of images too, and shrinks images above `image_max_pixels` (768 x 768).
"""


def problem(sample: Sample) -> str:
    """Why LLaMA-Factory cannot hold a row; empty where it can."""
    return form.tag_in(sample, *_TAGS)


def write(folder: Path, splits: Splits, images: shards.Images | None) -> Written:
    """Write `dataset_info.json`, `SPLIT.jsonl`, and the pictures."""
    files, known = chat.write(folder, splits, images)
    info = {
        _name(split): {"file_name": file, "formatting": "sharegpt", "columns": _COLUMNS, "tags": _ROLES}
        for split, file in files.items()
    }
    (folder / _INFO).write_text(json.dumps(info, indent=2) + "\n", encoding="utf-8")
    trained, measured = form.uses(splits)
    given = [
        f"--{key} {','.join(map(_name, part))}"
        for key, part in (("dataset", trained), ("eval_dataset", measured))
        if part
    ]
    return Written(_USAGE.format(names=" ".join(given)), files, known)


def _name(split: str) -> str:
    return f"medmim_{split}"


FORM = Form(problem, write)
