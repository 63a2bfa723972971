"""A benchmark on the nodes of a running Ray cluster: all of them answer one model, then all of them the next one.

    STORE/resume/answers-KEY/NAME.jsonl    some answers of the set with this key, a line each, as `answers` writes them

Workers are Ray actors, each a process with a GPU of its own (without GPUs, with so many CPUs): Ray ends the process of
a task that has a GPU, and the model with it. They pull chunks: a few batches of every probe and protocol on the same
part of the data, so that images are decoded once for all of them. Chunks shrink as the work runs out, and a worker that
finds none left of its model goes on with the next model; it never holds two. The batches are those of
`asking.batches`, whoever asks them, so the answers do not depend on the number of workers.

A worker writes each batch into the store before it begins another one: a worker, the driver or the head that is lost
costs the batch that was being asked, and whoever comes next takes what it finds. The driver has all answers by then,
publishes each set that is complete, and clears its folder.

What a node has, such as its kind of GPU, is part of the key of its answers, and the driver may have another or none:
the workers tell. They must agree, or models would be compared by machines of two kinds. Under a key without what the
nodes decide, the driver remembers which answers they were: a benchmark all of whose answers are remembered needs no
cluster. As soon as one is missing, the nodes are asked about all.

A server (`openai:`) is asked by one Ray task, without a GPU: how many questions it answers at once is its own affair.
"""

from collections import defaultdict, deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from medmim import progress, ray_nodes, store
from medmim.bench import answers, asking, failures, tasks
from medmim.bench.asking import Given
from medmim.bench.chunks import Queue, Set, by_place
from medmim.bench.crew import UNFINISHED, Crew, Job
from medmim.bench.engines import OPENAI, Engine, engine
from medmim.bench.likelihood import PROTOCOLS
from medmim.bench.reader.reply import reread
from medmim.errors import Unavailable, UserError, wrap_os_errors
from medmim.lvlm import checkpoint
from medmim.recipe.loading import from_dump
from medmim.recipe.schema import Bench, Recipe
from medmim.run.cache import finished, remember
from medmim.run.provenance import terms_of
from medmim.run.workspace import Workspace
from medmim.sample import Sample
from medmim.store import Artifact, Store, removal

_REMEMBERED = "answers-of-nodes"
_READS = 8  # of files in the store at once


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
        exact = asking.is_exact(self.engine.inference(), self.sets[0][1])
        left = [[name for name in batch if name not in self.given] for batch in planned]
        return [rest if exact else list(batch) for rest, batch in zip(left, planned, strict=True) if rest]


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
    models, servers = Job(ws.store, data.uri, settings, {}), Job(ws.store, data.uri, settings, {})
    for role, model in engines.items():
        if model.ref.startswith(OPENAI):
            servers.models[role] = model.ref, model.digest
        else:
            models.models[role] = checkpoint.upload_if_local(model.ref, ws), model.digest
    cpus, failed = recipe.platform.threads or 1, dict[str, UserError]()
    with ray_nodes.joined(recipe.platform.ray):
        gpu = ray_nodes.wait_for_workers(1, cpus)
        pending = _ask_servers(servers, [one for one in sets if one[0] in servers.models], recipe)
        if models.models:
            own = [one for one in sets if one[0] in models.models]
            for done in _from_workers(ws, data, engines, own, models, recipe, cpus, int(gpu), failed):
                yield done
                yield from _of_servers(pending, failed, engines, timeout=0)
        yield from _of_servers(pending, failed, engines)
    failures.refuse(failed, engines)


def _from_workers(
    ws: Workspace,
    data: Artifact,
    engines: Mapping[str, Engine],
    sets: Sequence[Set],
    job: Job,
    recipe: Recipe,
    cpus: int,
    gpus: int,
    failed: dict[str, UserError],
) -> Iterator[tuple[Set, Artifact]]:
    """The sets of our own models and their answers, as they are complete; `failed` gets what cannot be asked."""
    settings, of_data, place = job.settings, terms_of(data), store.open_store(ws.store)
    samples = tasks.select(
        store.fetch(data, ws.cache, ["samples/*"]), settings.tasks, settings.limit, settings.split
    ).samples
    planned = {
        which: [[sample.id for sample in batch] for batch in asking.batches(samples, which[1], which[0], settings)]
        for which in dict.fromkeys(one[1:] for one in sets)
    }
    leading = next(iter(planned.values()))
    crew = Crew(job, samples, cpus, gpus)
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
            own = asking.questions_of(samples, probe, protocol)
            given = _of_earlier_attempts(place, folder, own)
            opened[one] = _Open([one], model, folder, [sample.id for sample in own], given)
    left = {one: of.missing(planned[one[1:]]) for one, of in opened.items()}

    def publish(of: _Open) -> list[tuple[Set, Artifact]]:
        (role, protocol, probe), *_ = of.sets
        given = [of.given[name] for name in of.ids]
        try:
            artifact = answers.publish(
                ws, role, of.engine, given, data.digest, probe, settings, recipe, of_data, protocol
            )
        except Unavailable:  # the store
            raise
        except UserError as error:  # too many of its questions failed
            failures.keep(error, role, failed, engines)
            return []
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
            if isinstance(told, UserError):
                failures.keep(told, batch.set[0], failed, engines)
                queue.drop(batch.set[0])
                continue
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
    return {name: replace(one, answer=reread(by_id[name], one.answer)) for name, one in known.items()}


def _ask_servers(job: Job, sets: Sequence[Set], recipe: Recipe) -> dict[Any, str]:
    """Start a Ray task for each server: what it returns -> the server's role."""
    by_role: dict[str, list[Set]] = defaultdict(list)
    for one in sets:
        by_role[one[0]].append(one)
    if not by_role:
        return {}
    task = ray_nodes.task(_ask_server, cpus=1)
    return {task.remote(job, own, recipe.dump()): role for role, own in by_role.items()}


def _of_servers(
    pending: dict[Any, str], failed: dict[str, UserError], models: Collection[str], timeout: float | None = None
) -> Iterator[tuple[Set, Artifact]]:
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
            failures.keep(found, role, failed, models)
        else:
            yield from ((one, store.get(uri)) for one, uri in found.items())


def _ask_server(job: Job, sets: Sequence[Set], recipe: str) -> "dict[Set, str] | UserError":
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
