"""Writes questions as a folder of tasks that lmms-eval loads unmodified, by `--include_path`.

    medmim_TASK.yaml      a task: read by lmms-eval, which finds all else by it
    medmim_TASK.parquet   its questions, with the bytes of their images
    utils.py              the questions as messages, and the scores: `lmms_eval_utils`
    reader/               the modules of medmim that read an answer

A task has messages for chat models, and visuals with a text for the others.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medmim import progress, shards
from medmim.bench.export import parts
from medmim.bench.tasks import Items
from medmim.data.export.bare import bare
from medmim.sample import LETTERS

_OURS = ("__init__.py", "reply.py")  # of the reader; the second makes records of medmim's
_IMPORT = re.compile(r"^from medmim(?:\.bench\.reader)?(\.\w+)? import", re.MULTILINE)
_BENCH = Path(__file__).parents[1]
_GROUP = 16 << 20  # bytes of images in a group of rows

_TASK = """\
task: {name}
dataset_path: parquet
dataset_kwargs: {{data_files: {{test: {name}.parquet}}}}
test_split: test
output_type: generate_until
doc_to_visual: !function utils.visual
doc_to_text: !function utils.text
doc_to_messages: !function utils.messages
doc_to_target: target
generation_kwargs: {{max_new_tokens: {tokens}, temperature: 0, do_sample: false, num_beams: 1, until: []}}
process_results: !function utils.results
metric_list:
{metrics}
cluster_key: patient
score_key: score
metadata: {{version: 1.0}}
"""
_METRIC = "- {{metric: {name}, aggregation: !function utils.mean, higher_is_better: true}}"
_USAGE = """\
## Run it

With [lmms-eval](https://github.com/EvolvingLMMs-Lab/lmms-eval), here 0.7.3, which needs no change:

```
python -m lmms_eval --include_path FOLDER --tasks {names} --batch_size 1 --log_samples \\
    --output_path OUT --model llava_hf --model_args pretrained=MODEL
```

## Where scores may differ from medmim's

Answers are read by medmim's own reader (`reader/`), and requests that failed are in no score. What differs:

* an answer that the limit of {tokens} tokens cut is read as if it were whole, since lmms-eval does not say which are
  cut. medmim does not take an option that a cut answer was just repeating;
* open questions have `token_f1`, without BLEU and ROUGE-L;
* `stderr_clustered` is lmms-eval's: one cluster an item, here the first patient of a question, and no correction for
  few of them. medmim counts all patients of a question, and gives no interval from fewer than 20; here are {clusters};
* nothing asks without images, or with images moved on (the probes `blind` and `swap`);
* each adapter of lmms-eval has its own prompt, and asks as it likes beyond `temperature: 0` and no stop string. Some
  fail on a question without images;
* `--use_cache` knows no pixels and no weights: leave it off.

"""


def write(folder: Path, items: Mapping[str, Items], images: shards.Images, max_new_tokens: int) -> str:
    """Write the questions of tasks.

    Args:
        folder: Exists, and is empty.
        items: Name of a task -> its questions.
        images: Of the data set.
        max_new_tokens: Longest answer.

    Returns:
        How to run it, in Markdown.

    Raises:
        UserError: The data set lacks an image.
    """
    names: list[str] = []
    known: list[str] = []
    for title, one in items.items():
        name = parts.stem(title)
        names.append(name)
        clusters = clusters_of(one)
        known.append(f"{len(set(clusters)):,} ({title})")
        _write_parquet(folder / f"{name}.parquet", title, one, clusters, images)
        closed = {bool(sample.options) for sample in one.samples}
        metrics = [metric for kind, metric in ((True, "accuracy"), (False, "token_f1")) if kind in closed]
        listed = "\n".join(_METRIC.format(name=metric) for metric in metrics)
        text = _TASK.format(name=name, tokens=max_new_tokens, metrics=listed)
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    (folder / "utils.py").write_bytes((_BENCH / "export" / "lmms_eval_utils.py").read_bytes())
    _write_reader(folder / "reader")
    return _USAGE.format(names=",".join(names), tokens=max_new_tokens, clusters=", ".join(known))


def clusters_of(items: Items) -> list[str]:
    """Of each question one cluster, the first of its patients, as a number in the order in which they come."""
    numbers: dict[str, int] = {}
    return [str(numbers.setdefault(own[0], len(numbers))) for own in items.clusters]


def _write_parquet(path: Path, title: str, items: Items, clusters: Sequence[str], images: shards.Images) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts, numbers = pa.list_(pa.string()), pa.list_(pa.int32())
    schema = pa.schema(
        [
            ("id", pa.string()), ("images", pa.list_(pa.binary())), ("prompt", pa.string()), ("target", pa.string()),
            ("question", pa.string()), ("options", texts), ("gold", numbers), ("answer", pa.string()),
            ("patient", pa.string()), ("ability", pa.string()), ("family", pa.string()), ("source", pa.string()),
        ]
    )  # fmt: skip
    rows: list[dict[str, Any]] = []
    size = 0
    with (
        pq.ParquetWriter(path, schema, compression="zstd") as out,
        progress.bar(title, len(items.samples), "questions") as bar,
    ):
        for sample, cluster in zip(items.samples, clusters, strict=True):
            stored = parts.images(sample, lambda name: bare(images.stored(name)))
            rows.append(
                {
                    "id": sample.id, "images": stored, "prompt": sample.prompt, "target": sample.target,
                    "question": sample.question, "options": sample.options, "gold": sample.gold,
                    "answer": sample.answer, "patient": cluster, "ability": sample.ability, "family": sample.family,
                    "source": sample.source,
                }
            )  # fmt: skip
            size += sum(map(len, stored))
            if size >= _GROUP:
                out.write_table(pa.Table.from_pylist(rows, schema=schema))
                rows, size = [], 0
            bar.add()
        if rows:
            out.write_table(pa.Table.from_pylist(rows, schema=schema))


def _write_reader(folder: Path) -> None:
    """Copy the reader of answers: its modules, which need the standard library only, as a package of its own."""
    folder.mkdir()
    (folder / "__init__.py").write_text('"""medmim\'s reader of answers, copied from it (Apache-2.0)."""\n', "utf-8")
    (folder / "sample.py").write_text(f'"""The letters of options."""\n\nLETTERS = "{LETTERS}"\n', encoding="utf-8")
    for source in (*(_BENCH / "reader").glob("*.py"), _BENCH / "token_f1.py"):
        if source.name not in _OURS:
            text = _IMPORT.sub(lambda found: f"from {found[1] or '.'} import", source.read_text("utf-8"))
            (folder / source.name).write_text(text, encoding="utf-8")
