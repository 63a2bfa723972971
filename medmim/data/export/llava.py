"""The JSON of LLaVA: `conversations` from `human` to `gpt`, each image a line `<image>` before the question.

`image` is a path where a row has one image, as LLaVA and LLaVA-NeXT read it, and a list of paths where it has several,
as LLaVA-NeXT reads it; LLaVA 1.5 reads one image a row. Checked against `llava/train/train.py` of both.
"""

from pathlib import Path

from medmim import shards
from medmim.data.export import form, pictures
from medmim.data.export.form import Form, Splits, Written
from medmim.sample import IMAGE, Sample

_REMOVED = "QA_GT_caption_based_noisy"  # what LLaVA-NeXT takes out of any text
_USAGE = """\
For [LLaVA-NeXT](https://github.com/LLaVA-VL/LLaVA-NeXT), which reads several images a row, and
[LLaVA](https://github.com/haotian-liu/LLaVA), which reads one (write it with `--max-images 1`):

```
{files}
```

LLaVA-NeXT takes the next row in the place of one that fails, and says so in its log only.
"""


def problem(sample: Sample) -> str:
    """Why LLaVA cannot hold a row; empty where it can."""
    if found := form.tag_in(sample):
        return found
    texts = (sample.prompt, sample.target)
    if any(_REMOVED in text for text in texts):
        return f"LLaVA-NeXT would take {_REMOVED} out of its text"
    return "LLaVA would strip its text of white space" if any(text != text.strip() for text in texts) else ""


def write(folder: Path, splits: Splits, images: shards.Images | None) -> Written:
    """Write `SPLIT.json`, and the pictures."""
    paths, known = pictures.write(folder, form.with_pixels(images), form.all_images(splits))
    for split, samples in splits.items():
        with (folder / f"{split}.json").open("w", encoding="utf-8") as file:
            file.write("[")
            for number, sample in enumerate(samples):
                file.write(",\n" if number else "\n")
                file.write(form.as_json(_row(sample, [paths[name] for name in sample.images])))
            file.write("\n]\n")
    trained, _ = form.uses(splits)
    given = "--data_path FOLDER/train.json --image_folder FOLDER" if trained else "--image_folder FOLDER"
    return Written(_USAGE.format(files=given), {split: f"{split}.json" for split in splits}, known)


def _row(sample: Sample, shown: list[str]) -> dict[str, object]:
    image: dict[str, object] = {"image": shown[0] if len(shown) == 1 else shown} if shown else {}
    return {
        "id": sample.id,
        **image,
        "conversations": [
            {"from": "human", "value": f"{IMAGE}\n" * len(shown) + sample.prompt},
            {"from": "gpt", "value": sample.target},
        ],
    }


FORM = Form(problem, write)
