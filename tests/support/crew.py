"""The workers of a benchmark in this process: they take turns, and some are killed in the middle of a batch."""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from medmim import ray_nodes, store
from medmim.bench import answers, chunks, crew, fanout, run
from medmim.bench.chunks import Batch, Queue
from medmim.errors import UserError
from medmim.lvlm import checkpoint
from medmim.lvlm.ask import Question, Reply
from medmim.recipe.schema import Recipe
from medmim.run.workspace import Workspace, workspace
from medmim.sample import digest_of
from tests.support.killing import Killed

H200 = {"device": "NVIDIA H200", "dtype": "bfloat16", "images": "pil"}


@dataclass
class Cluster:
    """A Ray cluster that is not there: what its workers do is done here.

    Attributes:
        home: Of its nodes.
        workers: How many there are.
        kind: What they decide.
        deaths: Numbers of the questions, counted from 0 in the order of asking, in the middle of which a worker dies.
        driver_dies: After so many batches; never by default.
        fails: A model gives no answer to questions with this text.
        broken: The model with this reference cannot be asked.
        joined: How often a driver came.
        asked: Of each question that a model has read: role, longest answer, prompt, images.
        loaded: Each worker with each model that it went over to.
        lost: Workers that died.
    """

    home: Path
    workers: int = 1
    kind: dict[str, str] = field(default_factory=lambda: dict(H200))
    deaths: frozenset[int] = frozenset()
    driver_dies: int = -1
    fails: str = "no question"
    broken: str = "no model"
    joined: int = 0
    asked: list[tuple[Any, ...]] = field(default_factory=list)
    loaded: list[tuple[int, str]] = field(default_factory=list)
    lost: int = 0

    def start(self, monkeypatch: pytest.MonkeyPatch) -> "Cluster":
        def join(_: str) -> Any:
            self.joined += 1
            return nullcontext()

        monkeypatch.setattr(ray_nodes, "joined", join)
        monkeypatch.setattr(ray_nodes, "wait_for_workers", lambda *_: True)
        monkeypatch.setattr(ray_nodes, "node_workspace", lambda where: Workspace(self.home, where, ""))
        monkeypatch.setattr(ray_nodes, "node_name", lambda: "node")
        monkeypatch.setattr(checkpoint, "upload_if_local", lambda ref, _: ref)
        monkeypatch.setattr(crew, "engine", lambda ref, _, by: self.engine(ref))
        monkeypatch.setattr(fanout, "Crew", lambda job, samples, *_: _Crew(self, job, samples))
        return self

    def engine(self, ref: str) -> answers.Engine:
        """A model whose answer depends on all questions of the batch, as sums in bf16 do."""

        def ask(questions: Sequence[Question], batch_size: int, longest: int = 0) -> Iterator[Reply]:
            if ref == self.broken:
                self.asked.append((ref,))
                raise UserError(f"{ref} is too large", fix="take a larger one")
            for start in range(0, len(questions), batch_size):
                part = questions[start : start + batch_size]
                for question in part:
                    number = len(self.asked)
                    self.asked.append((ref, longest, question.prompt, *question.pixels))
                    if number in self.deaths:
                        raise Killed
                seen = digest_of([text for one in part for text in (one.prompt, *one.pixels)])
                for one in part:
                    failed = "out of order" if self.fails in one.prompt else ""
                    yield Reply("" if failed else f"{ref} {seen}", "k", failed, letters=(0.0,) * len(one.options))

        return answers.Engine(ref, ref, ask, ask, template="t", inference=lambda: dict(self.kind))  # type: ignore[arg-type]


class _Crew:
    """In the place of `crew.Crew`."""

    def __init__(self, cluster: Cluster, job: Any, samples: Any) -> None:
        self.cluster, self.new = cluster, lambda: crew.Worker(job, list(samples))

    def machine(self, _: int) -> dict[str, dict[str, str]]:
        told = self.new().machine()
        assert isinstance(told, tuple)
        return told[1]

    def ask(self, queue: Queue) -> Iterator[tuple[Batch, Any]]:
        done = 0
        workers = [self.new() for _ in range(self.cluster.workers)]
        held = [""] * len(workers)
        busy: dict[int, tuple[list[Batch], Iterator[Any]]] = {}
        while len(queue) or busy:
            for number, worker in enumerate(workers):
                if number not in busy and len(queue):
                    chunk = queue.take(held[number], len(workers))
                    if held[number] != chunk[0].set[0]:
                        held[number] = chunk[0].set[0]
                        self.cluster.loaded.append((number, held[number]))
                    busy[number] = chunk, worker.ask(held[number], list(chunk))
            for number, (chunk, told) in list(busy.items()):
                try:
                    given = next(told)
                except StopIteration:
                    del busy[number]
                    continue
                except Killed:
                    self.cluster.lost += 1
                    queue.put_back(chunk)
                    workers[number], held[number] = self.new(), ""
                    del busy[number]
                    continue
                if done == self.cluster.driver_dies:
                    raise Killed
                done += 1
                yield chunk.pop(0), given


def collect(
    made: Recipe, home: Path, data: str, probes: Sequence[str], **roles: str
) -> dict[chunks.Set, store.Artifact]:
    """The answers of models with these digests, by a driver that knows nothing of the nodes."""

    def unknown() -> dict[str, str]:
        raise AssertionError("the driver has no GPU: what it has says nothing")

    models = {
        role: answers.Engine(role, digest, None, None, template="t", inference=unknown)  # type: ignore[arg-type]
        for role, digest in roles.items()
    }
    ws = workspace(home, made)
    return run.collect(ws, store.get(data), models, probes, made.bench, made)


def alone(cluster: Cluster, made: Recipe, home: Path, data: str, probes: Sequence[str], **roles: str) -> dict[Any, str]:
    """Digests of the answers that one process collects with the cluster's engines."""
    models = {role: replace(cluster.engine(role), digest=digest) for role, digest in roles.items()}
    local = made.model_copy(update={"platform": made.platform.model_copy(update={"ray": "local"})})
    ws = workspace(home, local)
    found = run.collect(ws, store.get(data), models, probes, made.bench, local)
    return {one: artifact.digest for one, artifact in found.items()}
