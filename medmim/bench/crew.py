"""The workers of a benchmark on a Ray cluster: the driver's side, `Crew`, and the actor's, `Worker`; see `fanout`."""

import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from typing import Any

from medmim import progress, ray_nodes, store
from medmim.bench import answers, asking, pixels
from medmim.bench.asking import Given
from medmim.bench.chunks import Batch, Queue, Set
from medmim.bench.engines import Engine, engine
from medmim.bench.pixels import Pixels
from medmim.errors import Unavailable, UserError, wrap_os_errors
from medmim.recipe.schema import Bench
from medmim.sample import Sample, digest_of
from medmim.store import Artifact, Store

UNFINISHED = "resume/answers-"  # in a store, then the begin of a set's key
_LOOK = 1.0  # s between two looks at the cluster's nodes
_RETRIES = 2  # lost workers after which a batch is tried again
_END = 10.0  # s that a worker may take to release its model


@dataclass(frozen=True)
class Job:
    """What is the same for all that the nodes are asked to do.

    Attributes:
        store: URI.
        data: URI of the data set.
        settings: The recipe's section `bench`.
        models: Role -> reference that is valid on every node, and the digest of the one that the user gave.
    """

    store: str
    data: str
    settings: Bench
    models: dict[str, tuple[str, str]]


def refuse_mixed(kinds: Mapping[str, Collection[str]]) -> None:
    """Refuse a cluster whose nodes would give different answers.

    Args:
        kinds: What the nodes decide, in words -> nodes.

    Raises:
        UserError: With the kinds and their nodes, where there are several.
    """
    if len(kinds) > 1:
        raise UserError(
            "the nodes of the Ray cluster are of several kinds",
            reason="answers differ between kinds, and models would be compared by machines instead of weights",
            fix="set platform.pods.accelerator to one kind, or take a cluster of one kind: what is answered is kept",
            problems=[f"{kind}: {', '.join(sorted(nodes))}" for kind, nodes in kinds.items()],
        )


@dataclass
class _Hand:
    """A worker, as the driver knows it.

    Attributes:
        actor: Of Ray.
        node: Where it runs; empty until it has told.
        held: The model in its memory.
        chunk: What it has been asked and has not answered.
    """

    actor: Any
    node: str = ""
    held: str = ""
    chunk: list[Batch] = field(default_factory=list)


class Crew:
    """The workers: at each moment as many as the cluster has room for, and there are batches for.

    Args:
        job: What they work on.
        samples: All questions.
        cpus: Of a worker.
        gpus: Likewise.
    """

    def __init__(self, job: Job, samples: Sequence[Sample], cpus: int, gpus: int) -> None:
        import ray

        self._job, self._cpus, self._gpus = job, cpus, gpus
        self._samples = ray.put(list(samples))
        self._queue = Queue({})
        self._idle: list[_Hand] = []
        self._waiting: dict[Any, _Hand] = {}  # by the reference, or the generator of references, to what comes next
        self._kinds: dict[str, set[str]] = defaultdict(set)  # -> nodes
        self._machine: dict[str, dict[str, str]] = {}
        self._lost: Counter[Batch | None] = Counter()
        self._room, self._looked, self._heard = 0, 0.0, time.monotonic()

    def machine(self, workers: int) -> dict[str, dict[str, str]]:
        """Role -> what the nodes decide of its answers, as the first of so many workers tells it."""
        while not self._machine:
            self._step(workers)
        return self._machine

    def ask(self, queue: Queue) -> Iterator[tuple[Batch, list[Given] | UserError]]:
        """The batches with their answers, as they are done, or with why the model cannot be asked."""
        import ray

        self._queue = queue
        turns: set[str] = set()
        while queue or any(hand.chunk for hand in self._waiting.values()):
            while queue and self._idle:
                hand = self._idle.pop()
                hand.chunk = queue.take(hand.held, len(self._waiting) + 1)
                hand.held = hand.chunk[0].set[0]
                if hand.held not in turns:
                    turns.add(hand.held)
                    progress.say(f"asking {hand.held}, {len(turns)} of {len(queue.roles)} models")
                self._waiting[hand.actor.ask.remote(hand.held, hand.chunk)] = hand
            if done := self._step(len(self._waiting) + len(queue)):
                yield done
        if ended := [hand.actor.end.remote() for hand in self._idle]:
            ray.wait(ended, num_returns=len(ended), timeout=_END)

    def _step(self, wanted: int) -> tuple[Batch, list[Given] | UserError] | None:
        """Start workers up to as many as are wanted, then wait a moment for one of them to tell or to answer."""
        import ray
        from ray.exceptions import RayError, RayTaskError

        self._start(wanted)
        ready, _ = ray.wait(list(self._waiting), timeout=_LOOK) if self._waiting else ([], [])
        if not ready:
            return None
        hand = self._waiting.pop(ready[0])
        try:
            told = ray.get(next(ready[0]) if hand.node else ready[0])
        except StopIteration:
            self._idle.append(hand)
            return None
        except RayTaskError:  # a bug, with its traceback
            raise
        except RayError as lost:
            self._lose(hand, lost)
            return None
        if isinstance(told, UserError):
            if not hand.node:
                raise told
            batch, hand.chunk = hand.chunk[0], []
            self._waiting[ready[0]] = hand  # it ends now
            return batch, told
        if hand.node:
            self._lost[None] = 0
            self._waiting[ready[0]] = hand  # behind the others, so that none is heard more often
            return hand.chunk.pop(0), told
        self._idle.append(hand)
        hand.node, machine = told
        self._kinds[", ".join(dict.fromkeys(" ".join(own.values()) for own in machine.values()))].add(hand.node)
        refuse_mixed(self._kinds)
        self._machine = machine
        return None

    def _start(self, wanted: int) -> None:
        now = time.monotonic()
        if now - self._looked > _LOOK:
            self._looked, self._room = now, ray_nodes.room(self._cpus)[0]
            if not self._room:
                ray_nodes.wait_for_workers(1, self._cpus)
                self._room = 1
        count = len(self._waiting) + len(self._idle)
        for _ in range(count, min(wanted, self._room)):
            hand = _Hand(ray_nodes.actor(Worker, self._cpus, self._gpus, self._job, self._samples))
            self._waiting[hand.actor.machine.remote()] = hand
        if self._idle or any(hand.node for hand in self._waiting.values()):
            self._heard = now
        elif now - self._heard > ray_nodes.join_timeout():
            raise Unavailable(
                f"no worker has started on the Ray cluster for {now - self._heard:.0f} s",
                reason="it has room for one, which others may hold",
                fix="run the same command again when it is free: what is answered is kept",
            )

    def _lose(self, hand: _Hand, lost: Exception) -> None:
        """Put back what a lost worker has not answered."""
        import ray

        ray.kill(hand.actor)  # it may be out of reach alone
        self._looked = 0.0
        first = hand.chunk[0] if hand.chunk else None
        self._lost[first] += 1
        if self._lost[first] > (_RETRIES if first else _RETRIES * max(1, self._room)):
            raise Unavailable(
                "the benchmark lost its nodes",
                reason=ray_nodes.reason(lost),
                fix="run the same command again: what is answered is kept; if it ends in the same way, a question may "
                "need more memory than the nodes have",
                problems=[f"{' '.join(first.set)}: {name}" for name in first.ids] if first else (),
            )
        if first:
            progress.say(f"lost the worker on {hand.node}: {len(first.ids)} questions are asked again")
        self._queue.put_back(hand.chunk)


class Worker:
    """An actor.

    Args:
        job: What it works on.
        samples: All questions.
    """

    def __init__(self, job: Job, samples: list[Sample]) -> None:
        self._job, self._by_id = job, {sample.id: sample for sample in samples}
        self._ws = ray_nodes.node_workspace(job.store)

    def machine(self) -> "tuple[str, dict[str, dict[str, str]]] | UserError":
        """The node, and role -> what it decides of the answers."""
        try:
            with wrap_os_errors("looking at the models"):
                return ray_nodes.node_name(), {role: dict(own.inference()) for role, own in self._engines.items()}
        except UserError as error:  # if it were raised, Ray would wrap it in an error of its own
            return error

    def ask(self, role: str, chunk: Sequence[Batch]) -> "Iterator[list[Given] | UserError]":
        """The answers to each batch, which are in the store then."""
        try:
            with wrap_os_errors(f"collecting the answers of {role}"):
                for other, model in self._engines.items():
                    if other != role:
                        model.release()
                sets = dict.fromkeys(batch.set for batch in chunk)
                told = {one: self._ask(one, [batch for batch in chunk if batch.set == one]) for one in sets}
                for batch in chunk:
                    yield next(told[batch.set])
                for own in told.values():
                    next(own, None)
        except UserError as error:
            yield error

    def end(self) -> None:
        """Release what is in memory: a model may be in a process of its own."""
        for model in self._engines.values():
            model.release()

    def _ask(self, one: Set, batches: Sequence[Batch]) -> Iterator[list[Given]]:
        role, protocol, probe = one
        model, settings = self._engines[role], self._job.settings
        key = answers.key(model, self._data.digest, probe, settings, protocol)
        name = digest_of([name for batch in batches for name in batch.ids])[:32]
        asked = [[self._by_id[name] for name in batch.ids] for batch in batches]
        grey = self._images.grey(tuple(self._by_id.values())) if probe == "grey" else None
        given = asking.ask(model, asked, {}, self._images, probe, protocol, settings, grey)
        done: list[Given] = []
        for batch in batches:
            part = list(islice(given, len(batch.ids)))
            done += part
            self._place.write(f"{UNFINISHED}{key[:16]}/{name}.jsonl", answers.dump(done))
            yield part
        next(given, None)  # an engine with more replies than questions is found out

    @cached_property
    def _engines(self) -> dict[str, Engine]:
        models = self._job.models.items()
        by = self._job.settings.engine
        return {role: replace(engine(ref, self._ws, by=by), digest=digest) for role, (ref, digest) in models}

    @cached_property
    def _place(self) -> Store:
        return store.open_store(self._job.store)

    @cached_property
    def _data(self) -> Artifact:
        return store.get(self._job.data)

    @cached_property
    def _images(self) -> Pixels:
        return pixels.of(store.fetch(self._data, self._ws.cache))
