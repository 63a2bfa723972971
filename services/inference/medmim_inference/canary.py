"""The canary: before a model is served, it must give here the answers that it gave when it was benched.

Weights are known by their digest; this machine, its libraries and its number format are not. Some questions of the
benchmark that the version was registered with are asked again, each alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from medmim import shards, store
from medmim.bench import answers, run
from medmim.lvlm.ask import Question
from medmim.run.workspace import Workspace
from medmim.sample import Sample
from medmim_inference.replica import Replica, Target


@dataclass(frozen=True)
class Canary:
    """How many questions were asked again, and how many answers were the known ones."""

    asked: int
    equal: int

    @property
    def share(self) -> float:
        """Of equal answers; 1 where nothing was asked."""
        return self.equal / self.asked if self.asked else 1.0


def ask(replica: Replica, ws: Workspace, count: int) -> Canary:
    """Ask a model questions whose answers are known: none of one that is not registered.

    Args:
        replica: The model.
        ws: The workspace, whose store has the benchmark.
        count: Questions at most.

    Raises:
        UserError: Its benchmark or data set is gone or damaged.
        Unavailable: The store does not answer.
    """
    asked = equal = 0
    for question, text, longest in known_answers(replica.target, ws, count) if count else ():
        (reply,) = replica.ask([question], longest)
        asked += 1
        equal += not reply.error and reply.text == text
    return Canary(asked, equal)


def known_answers(target: Target, ws: Workspace, count: int) -> Iterator[tuple[Question, str, int]]:
    """Questions, the texts that the model answered, and how long an answer could be. Errors as `ask`."""
    if not target.bench:
        return
    scores = run.scores(ws, f"{ws.store}/bench/{target.bench}")
    role = next((role for role, model in scores["models"].items() if model["digest"] == target.digest), "")
    digest = scores["answers"].get(role, {}).get("none")  # none where only likelihoods were compared
    if digest is None:
        return
    folder = store.fetch(store.get(f"{ws.store}/answers/{digest}"), ws.cache)
    known = {answer.sample: answer.text for answer in answers.load(folder) if answer.status != "error"}
    data = store.get(f"{ws.store}/data/{scores['data']}")
    rows = shards.Samples(store.fetch(data, ws.cache, [shards.SAMPLES]))
    wanted = {sample.id: sample for sample in rows if sample.id in known}
    samples, place = _near(data, ws, [wanted[name] for name in sorted(wanted)], count)
    images = shards.Images(place) if place else {}
    for sample in samples:
        shown = [images[name] for name in sample.images]
        yield Question(sample.prompt, shown, sample.options), known[sample.id], scores["max_new_tokens"]


def _near(
    data: store.Artifact, ws: Workspace, samples: Sequence[Sample], count: int
) -> tuple[list[Sample], Path | None]:
    """Some of the questions, and the folder of their images: of a data set in S3, one file is fetched, not all."""
    best: tuple[list[Sample], str] = [], ""
    with store.ranged(data) as read:
        for name in sorted(name for name in data.files if name.startswith("images/")):
            there = shards.image_ids(data.uri, {name: data.files[name]["bytes"]}, read)
            shown = [sample for sample in samples if there.issuperset(sample.images)][:count]
            best = max(best, (shown, name), key=lambda one: len(one[0]))
            if len(shown) == count:
                break
    found, file = best
    return found, store.fetch(data, ws.cache, [file]) if file else None
