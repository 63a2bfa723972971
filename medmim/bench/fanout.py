"""A benchmark on the nodes of a running Ray cluster: all of them answer one model, then all of them the next one.

    STORE/resume/answers-KEY/NAME.jsonl    some answers of the set with this key, a line each, as `answers` writes them

Workers are Ray actors, each a process with a GPU of its own (without GPUs, with so many CPUs): Ray ends the process of
a task that has a GPU, and the model with it. They pull chunks: a few batches of every probe and protocol on the same
part of the data, so that images are decoded once for all of them. Chunks shrink as the work runs out, and a worker that
finds none left of its model goes on with the next model; it never holds two. The batches are those of
`answers.batches`, whoever asks them, so the answers do not depend on the number of workers.

A worker writes each batch into the store before it begins another one: a worker, the driver or the head that is lost
costs the batch that was being asked, and whoever comes next takes what it finds. The driver has all answers by then,
publishes each set that is complete, and clears its folder.

What a node has, such as its kind of GPU, is part of the key of its answers, and the driver may have another or none:
the workers tell. They must agree, or models would be compared by machines of two kinds. Under a key without what the
nodes decide, the driver remembers which answers they were: a benchmark all of whose answers are remembered needs no
cluster. As soon as one is missing, the nodes are asked about all.

A server (`openai:`) is asked by one Ray task, without a GPU: how many questions it answers at once is its own affair.
"""

import time
from collections import Counter, defaultdict, deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import islice
from operator import attrgetter
from typing import Any

from medmim import progress, ray_nodes, store
from medmim.bench import answers, metrics, pixels, tasks
from medmim.bench.answers import Given
from medmim.bench.engines import OPENAI, Engine, engine
from medmim.bench.likelihood import PROTOCOLS
from medmim.bench.pixels import Pixels
from medmim.errors import Unavailable, UserError, wrap_os_errors
from medmim.lvlm import checkpoint
from medmim.recipe.loading import from_dump
from medmim.recipe.schema import Bench, Recipe
from medmim.run.cache import finished, remember
from medmim.run.provenance import terms_of
from medmim.run.workspace import Workspace
from medmim.sample import Sample, digest_of
from medmim.store import Artifact, Store, removal

Set = tuple[str, str, str]  # role, protocol, probe
UNFINISHED = "resume/answers-"  # in a store, then the begin of a set's key
_REMEMBERED = "answers-of-nodes"
_LONGEST = 4  # places of the data in a chunk
_ROUNDS = 4  # chunks that each worker gets of what is left
_LOOK = 1.0  # s between two looks at the cluster's nodes
_RETRIES = 2  # lost workers after which a batch is tried again
_END = 10.0  # s that a worker may take to release its model
_READS = 8  # of files in the store at once


@dataclass(frozen=True)
class Batch:
    """Questions that are asked together.

    Attributes:
        set: Whose answers they become.
        place: In the data.
        ids: Of the samples, in the order of asking.
    """

    set: Set
    place: int
    ids: tuple[str, ...]


class Queue:
    """The batches that nobody asks yet.

    Args:
        by_place: Role -> the batches on each place in the data. The roles take turns in this order.
    """

    def __init__(self, by_place: Mapping[str, Iterable[Sequence[Batch]]]) -> None:
        self._left = {role: deque(batches for batches in own if batches) for role, own in by_place.items()}

    @property
    def roles(self) -> list[str]:
        """In the order of their turns."""
        return list(self._left)

    def __len__(self) -> int:
        """Places with anything left."""
        return sum(map(len, self._left.values()))

    def take(self, held: str, workers: int) -> list[Batch]:
        """The next chunk, for one of so many workers: place by place in the order of the data.

        Args:
            held: The model in its memory: another one's come only when none of these are left.
            workers: How many there are.
        """
        own = self._left.get(held) or next(left for left in self._left.values() if left)
        count = max(1, min(_LONGEST, len(own), len(self) // (_ROUNDS * workers)))
        return sorted((batch for _ in range(count) for batch in own.popleft()), key=attrgetter("place"))

    def put_back(self, batches: Sequence[Batch]) -> None:
        """What a lost worker has left of its chunk comes next."""
        if batches:
            self._left[batches[0].set[0]].appendleft(list(batches))


def by_place(leading: Sequence[Sequence[str]], sets: Mapping[Set, Sequence[Sequence[str]]]) -> list[list[Batch]]:
    """The batches of the sets of a model by their place in the data.

    Args:
        leading: A place each: the sample ids of batches that hold each question.
        sets: The sample ids of the batches to ask; one is where its first question is.
    """
    place = {name: number for number, batch in enumerate(leading) for name in batch}
    found: list[list[Batch]] = [[] for _ in leading]
    for one, batches in sets.items():
        for batch in batches:
            where = place[batch[0]]
            found[where].append(Batch(one, where, tuple(batch)))
    return found


@dataclass
class _Open:
    """Answers that are being collected.

    Attributes:
        sets: Which they are: several of models with equal weights.
        engine: The model, as the nodes load it.
        folder: Of those that are there, in the store.
        ids: Of all questions, in the order of the data.
        given: Sample id -> answer.
    """

    sets: list[Set]
    engine: Engine
    folder: str
    ids: list[str]
    given: dict[str, Given]

    def missing(self, planned: Sequence[Sequence[str]]) -> list[list[str]]:
        """What is left to ask of the batches: as they were, where the batch decides an answer."""
        exact = answers.is_exact(self.engine.inference(), self.sets[0][1])
        left = [[name for name in batch if name not in self.given] for batch in planned]
        return [rest if exact else list(batch) for rest, batch in zip(left, planned, strict=True) if rest]


@dataclass(frozen=True)
class _Job:
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


def collect(
    ws: Workspace,
    data: Artifact,
    engines: Mapping[str, Engine],
    probes: Sequence[str],
    settings: Bench,
    recipe: Recipe,
) -> dict[Set, Artifact]:
    """The answers of all models, from the nodes of the cluster; connects only if any are missing.

    Args:
        ws: The workspace; its store is all that the nodes share with it.
        data: The data set.
        engines: Role -> model.
        probes: Probes to ask; the first asks each question that another one does.
        settings: The bench section.
        recipe: Its section `platform` gives the address of Ray and the size of a worker.

    Returns:
        (role, protocol, probe) -> answers.

    Raises:
        UserError: A worker raised it, or the nodes are of several kinds.
        Unavailable: Nodes were lost too often, none joined, or the cluster does not answer.
    """
    keys = {
        (role, protocol, probe): answers.on_any_machine(model, data.digest, probe, settings, protocol)
        for role, model in engines.items()
        for protocol in PROTOCOLS[settings.protocol]
        for probe in probes
    }
    found = {one: known for one, key in keys.items() if (known := finished(ws, _REMEMBERED, key, "answers"))}
    if len(found) < len(keys):
        for one, artifact in _from_nodes(ws, data, engines, list(keys), settings, recipe):
            remember(ws, _REMEMBERED, keys[one], artifact)
            found[one] = artifact
    return {one: found[one] for one in keys}  # whatever was done first


def _from_nodes(
    ws: Workspace, data: Artifact, engines: Mapping[str, Engine], sets: Sequence[Set], settings: Bench, recipe: Recipe
) -> Iterator[tuple[Set, Artifact]]:
    """The sets and their answers, as they are complete."""
    models, servers = _Job(ws.store, data.uri, settings, {}), _Job(ws.store, data.uri, settings, {})
    for role, model in engines.items():
        if model.ref.startswith(OPENAI):
            servers.models[role] = model.ref, model.digest
        else:
            models.models[role] = checkpoint.upload_if_local(model.ref, ws), model.digest
    cpus = recipe.platform.threads or 1
    with ray_nodes.joined(recipe.platform.ray):
        gpu = ray_nodes.wait_for_workers(1, cpus)
        pending = _ask_servers(servers, [one for one in sets if one[0] in servers.models], recipe)
        if models.models:
            own = [one for one in sets if one[0] in models.models]
            for done in _from_workers(ws, data, engines, own, models, recipe, cpus, int(gpu)):
                yield done
                yield from _of_servers(pending, timeout=0)
        yield from _of_servers(pending)


def _from_workers(
    ws: Workspace,
    data: Artifact,
    engines: Mapping[str, Engine],
    sets: Sequence[Set],
    job: _Job,
    recipe: Recipe,
    cpus: int,
    gpus: int,
) -> Iterator[tuple[Set, Artifact]]:
    """The sets of our own models and their answers, as they are complete."""
    settings, of_data, place = job.settings, terms_of(data), store.open_store(ws.store)
    samples = tasks.select(
        store.fetch(data, ws.cache, ["samples/*"]), settings.tasks, settings.limit, settings.split
    ).samples
    planned = {
        which: [[sample.id for sample in batch] for batch in answers.batches(samples, which[1], which[0], settings)]
        for which in dict.fromkeys(one[1:] for one in sets)
    }
    leading = next(iter(planned.values()))
    crew = _Crew(job, samples, cpus, gpus)
    machine = crew.machine(len(leading) or 1)

    # what is known on machines of this kind, and of the rest what earlier attempts have left
    opened: dict[Set, _Open] = {}
    for one in sets:
        role, protocol, probe = one
        model = replace(engines[role], inference=partial(dict, machine[role]))
        key = answers.key(model, data.digest, probe, settings, protocol)
        folder = f"{UNFINISHED}{key[:16]}"
        if artifact := finished(ws, "answers", key):
            removal.clear(place, folder)  # a driver was killed between the two
            yield one, artifact
        elif same := next((other for other in opened.values() if other.folder == folder), None):
            same.sets.append(one)
        else:
            own = answers.questions_of(samples, probe, protocol)
            given = _of_earlier_attempts(place, folder, own)
            opened[one] = _Open([one], model, folder, [sample.id for sample in own], given)
    left = {one: of.missing(planned[one[1:]]) for one, of in opened.items()}

    def publish(of: _Open) -> list[tuple[Set, Artifact]]:
        (role, protocol, probe), *_ = of.sets
        given = [of.given[name] for name in of.ids]
        artifact = answers.publish(ws, role, of.engine, given, data.digest, probe, settings, recipe, of_data, protocol)
        removal.clear(place, of.folder)
        return [(one, artifact) for one in of.sets]

    queue = Queue(
        {
            role: by_place(leading, {one: batches for one, batches in left.items() if one[0] == role})
            for role in dict.fromkeys(one[0] for one in opened)
        }
    )
    total = sum(len(batch) for batches in left.values() for batch in batches)
    with ThreadPoolExecutor(1, "publish") as pool, progress.bar("answers", total, "questions") as bar:
        # published in another thread than this loop's, for which the workers wait
        published = deque(pool.submit(publish, of) for one, of in opened.items() if not left[one])
        for batch, told in crew.ask(queue):
            bar.add(len(batch.ids))
            of = opened[batch.set]
            of.given |= {given.answer.sample: given for given in told}
            if len(of.given) == len(of.ids):
                published.append(pool.submit(publish, of))
            while published and published[0].done():
                yield from published.popleft().result()
        for future in published:
            yield from future.result()


def _of_earlier_attempts(place: Store, folder: str, samples: Iterable[Sample]) -> dict[str, Given]:
    """The answers in a folder of the store, as this version reads them; a question with an error is asked again."""
    by_id = {sample.id: sample for sample in samples}
    with ThreadPoolExecutor(_READS) as pool:
        parts = pool.map(lambda key: answers.parse(place.read(key)), list(place.list(f"{folder}/")))
        found = {one.answer.sample: one for part in parts for one in part if one.answer.status != "error"}
    known = {name: one for name, one in found.items() if name in by_id}
    return {name: replace(one, answer=metrics.reread(by_id[name], one.answer)) for name, one in known.items()}


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


class _Crew:
    """The workers: at each moment as many as the cluster has room for, and there are batches for.

    Args:
        job: What they work on.
        samples: All questions.
        cpus: Of a worker.
        gpus: Likewise.
    """

    def __init__(self, job: _Job, samples: Sequence[Sample], cpus: int, gpus: int) -> None:
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

    def ask(self, queue: Queue) -> Iterator[tuple[Batch, list[Given]]]:
        """The batches with their answers, as they are done."""
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

    def _step(self, wanted: int) -> tuple[Batch, list[Given]] | None:
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
            raise told
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
            hand = _Hand(ray_nodes.actor(_Worker, self._cpus, self._gpus, self._job, self._samples))
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


class _Worker:
    """An actor.

    Args:
        job: What it works on.
        samples: All questions.
    """

    def __init__(self, job: _Job, samples: list[Sample]) -> None:
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
        given = answers.ask(model, asked, {}, self._images, probe, protocol, settings, grey)
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


def _ask_servers(job: _Job, sets: Sequence[Set], recipe: Recipe) -> dict[Any, str]:
    """Start a Ray task for each server: what it returns -> the server's role."""
    by_role: dict[str, list[Set]] = defaultdict(list)
    for one in sets:
        by_role[one[0]].append(one)
    if not by_role:
        return {}
    task = ray_nodes.task(_ask_server, cpus=1)
    return {task.remote(job, own, recipe.dump()): role for role, own in by_role.items()}


def _of_servers(pending: dict[Any, str], timeout: float | None = None) -> Iterator[tuple[Set, Artifact]]:
    """The sets of the servers that are done, or of all of them, and their answers."""
    import ray

    while pending:
        done, _ = ray.wait(list(pending), timeout=timeout)
        if not done:
            return
        role = pending.pop(done[0])
        fix = "run the same command again: finished sets of answers are kept"
        found = ray_nodes.result(done[0], f"the benchmark lost the node that asks {role}", fix)
        if isinstance(found, UserError):
            raise found
        yield from ((one, store.get(uri)) for one, uri in found.items())


def _ask_server(job: _Job, sets: Sequence[Set], recipe: str) -> "dict[Set, str] | UserError":
    """One Ray task: all sets of a server."""
    role = sets[0][0]
    ref, digest = job.models[role]
    try:
        with wrap_os_errors(f"collecting the answers of {role}"):
            ws = ray_nodes.node_workspace(job.store)
            model, data = replace(engine(ref, ws), digest=digest), store.get(job.data)
            asked = [(protocol, probe) for _, protocol, probe in sets]
            found = answers.find_or_ask(ws, role, model, data, asked, job.settings, from_dump(recipe))
            return {(role, *one): artifact.uri for one, artifact in found.items()}
    except UserError as error:
        return error
