"""Benchmarks of given answers, scored and written as `bench` does, without a model."""

import json
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from medmim import shards, store
from medmim.bench import probes
from medmim.bench.reader import reply
from medmim.bench.run import PREDICTIONS, SCORES
from medmim.bench.scoring import Board
from medmim.run.provenance import provenance
from medmim.run.workspace import Workspace
from medmim.sample import Answer, Sample
from medmim.store import Artifact
from medmim.terms import APACHE, Terms

Says = Callable[[Sample, str, str], str | None]  # (sample, model, probe) -> text; None: the engine failed
ASKED = ("none", "blind", "swap")


def board(samples: Sequence[Sample], says: Says, models: Iterable[str] = ("one", "two")) -> Board:
    """The scores of what models say."""

    def answer(sample: Sample, model: str, probe: str) -> Answer:
        text = says(sample, model, probe)
        return reply.read(sample, probe, "key", text or "", "it failed" if text is None else None)

    answers = {
        model: {probe: [answer(one, model, probe) for one in probes.select(samples, probe)] for probe in ASKED}
        for model in models
    }
    return Board(samples, answers)


def publish_bench(
    ws: Workspace,
    data: str,
    rows: Iterable[Mapping[str, Any]],
    recipe: Any = None,
    models: Iterable[str] = ("one", "two"),
    terms: Terms = APACHE,
) -> Artifact:
    """A benchmark of rows, such as `board(...).predictions()`, about the data set of a digest."""
    with tempfile.TemporaryDirectory() as name:
        folder, written = Path(name), list(rows)
        scores = {
            "comparable": True,
            "data": data,
            "items": len(written),
            "models": dict.fromkeys(models, {}),
        }
        (folder / SCORES).write_text(
            json.dumps({**scores, "answers": {}, "leaderboard": [], "differences": []}), encoding="utf-8"
        )
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in written)
        (folder / PREDICTIONS).write_text(lines, encoding="utf-8")
        counts = {"items": len(written), "models": len(scores["models"])}
        made = provenance("bench", 7, {"data": data}, recipe, terms)
        return store.publish(folder, ws.store, "bench", counts, made)


def publish_samples(
    ws: Workspace,
    samples: Sequence[Sample],
    images: Mapping[str, bytes],
    recipe: Any = None,
    terms: Terms = APACHE,
) -> Artifact:
    """A data set of samples; `images` by id may be fewer than they show."""
    with tempfile.TemporaryDirectory() as name:
        shards.write(Path(name), samples, [(one, one, data) for one, data in images.items()])
        return store.publish(Path(name), ws.store, "data", {}, provenance("data", 1, {}, recipe, terms))
