"""Collects a model's answers to a benchmark: appended as they arrive, resumed after kill -9, then published and cached.

The cache key is what decides the answers (weights, chat format, data, questions, probe, protocol, longest answer, kind
of device, dtype), so a base is never asked twice. Order of asking, store and time are not in the artifact; the batch
size is in the key where it decides a few answers, or the last digits: everywhere but for text in fp32. There, a batch
that a kill cut is asked again as it was.

Probes and protocols that show the same images are asked in turns, a batch of each: what was decoded, hashed or computed
of an image for one of them is still in memory for the others. The answers to a batch are on disk before another one is
computed.

What asking cost is beside the content: tokens in the counts of the manifest (`prompt_tokens`, `new_tokens`; 0 where a
server does not tell), seconds in `provenance.json` (`cost`), summed over all tries and machines.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medmim import store
from medmim.bench import asking, pixels, reading, tasks
from medmim.bench.asking import Given
from medmim.bench.engines import Engine
from medmim.bench.likelihood import GENERATE
from medmim.bench.pixels import Pixels
from medmim.bench.reader.reply import reader, reread
from medmim.bench.tasks import Items
from medmim.errors import UserError
from medmim.progress import bar
from medmim.recipe.schema import Bench, Recipe
from medmim.run.cache import cached_step, finished, step_key, working
from medmim.run.provenance import provenance_of, terms_of
from medmim.run.workspace import Workspace
from medmim.sample import Answer, Sample, from_json, to_json
from medmim.store import Artifact
from medmim.terms import UNKNOWN, Terms, combine

if TYPE_CHECKING:
    from PIL.Image import Image

REVISION = 1
FILE, READER = "answers.jsonl", "reader"
Set = tuple[str, str]  # protocol, probe
_COST = ("prompt_tokens", "new_tokens", "seconds")


def collect(
    ws: Workspace,
    role: str,
    engine: Engine,
    items: Items,
    images: Mapping[str, "Image"],
    data: str,
    sets: Sequence[Set],
    settings: Bench,
    recipe: Recipe | None = None,
    of_data: Terms = UNKNOWN,
) -> dict[Set, Artifact]:
    """Some sets of answers of one model, from the cache or from the model.

    Args:
        ws: The workspace.
        role: Name of the model in progress reports: `tuned`, `base`, ...
        engine: The model.
        items: The questions.
        images: Image id -> RGB image.
        data: Digest of the data set.
        sets: Protocols and probes: `generate`, or `likelihood`, which asks closed questions only, of one of
            `probes.PROBES`.
        settings: The recipe's bench section.
        recipe: For the provenance.
        of_data: Terms of the data set.

    Raises:
        UserError: The engine failed on more than `max_bad_fraction` of the questions of a set.
        Unavailable: Another process is asking some of these.
    """
    found: dict[Set, Artifact] = {}
    groups: dict[str, list[Set]] = {}
    for protocol, probe in sets:
        if known := find(ws, engine, data, probe, settings, protocol):
            found[protocol, probe] = known
        else:
            groups.setdefault(probe if probe in ("blind", "grey") else "real images", []).append((protocol, probe))
    for group in groups.values():
        keys = {(protocol, probe): key(engine, data, probe, settings, protocol) for protocol, probe in group}
        with ExitStack() as locks:
            # until they are published; in one order in all processes, of which no two then wait for each other
            folders = {
                one: locks.enter_context(working(ws, "answers", keys[one]))[0]
                for one in sorted(group, key=lambda one: keys[one])
            }
            folders = {one: folders[one] for one in group}
            asked = _in_turns(ws, role, engine, items, images, data, folders, settings)
            for protocol, probe in group:
                given = asked.get((protocol, probe), ())  # none where another process has published them
                found[protocol, probe] = publish(
                    ws, role, engine, given, data, probe, settings, recipe, of_data, protocol
                )
    return {one: found[one] for one in sets}


def _in_turns(
    ws: Workspace,
    role: str,
    engine: Engine,
    items: Items,
    images: Mapping[str, "Image"],
    data: str,
    folders: Mapping[Set, Path],
    settings: Bench,
) -> dict[Set, list[Given]]:
    """Sets of answers in the order of the questions; what an earlier try left in their work folders is kept.

    Without those that another process published before this one had their locks.
    """
    shown = images if isinstance(images, Pixels) else Pixels(images)
    label = ", ".join(
        ("answers" if protocol == GENERATE else protocol) + ("" if probe == "none" else f" {probe}")
        for protocol, probe in folders
    )
    given: dict[Set, dict[str, Given]] = {}
    wanted = {one: asking.questions_of(items.samples, one[1], one[0]) for one in folders}
    with ExitStack() as stack:
        turns = []
        for one, folder in folders.items():
            protocol, probe = one
            if find(ws, engine, data, probe, settings, protocol):
                continue
            folder.mkdir(exist_ok=True)
            by_id = {sample.id: sample for sample in wanted[one]}
            known = given[one] = {
                name: replace(own, answer=reread(by_id[name], own.answer))  # another version's
                for name, own in _resume(folder / FILE).items()
            }
            out = stack.enter_context((folder / FILE).open("ab"))
            exact = asking.is_exact(engine.inference(), protocol)
            place = asking.by_images if engine.is_server else asking.by_length
            planned = [
                (batch, asked)
                for batch in asking.batches(items.samples, probe, protocol, settings, place)
                if (asked := asking.unanswered(batch, known, exact))
            ]
            grey = shown.grey(items.samples) if probe == "grey" and planned else None
            left = [batch for batch, _ in planned]
            coming = asking.ask(engine, left, dict(known), shown, probe, protocol, settings, grey)
            stack.enter_context(closing(coming))
            turns += [(place(batch[0]), len(asked), known, out, coming) for batch, asked in planned]
        progress = stack.enter_context(bar(f"{role} {label}", sum(len(wanted[one]) for one in given), "questions"))
        progress.add(sum(map(len, given.values())))
        for _, count, known, out, coming in sorted(turns, key=itemgetter(0)):
            for one_more in islice(coming, count):
                out.write(dump([one_more]))
                out.flush()  # to the kernel, where it survives a kill of this process
                progress.add(one_more.answer.sample not in known)
                known[one_more.answer.sample] = one_more
        for *_, coming in turns:
            next(coming, None)  # an engine with more replies than questions is found out
    return {one: [known[sample.id] for sample in wanted[one]] for one, known in given.items()}


def publish(
    ws: Workspace,
    role: str,
    engine: Engine,
    given: Sequence[Given],
    data: str,
    probe: str,
    settings: Bench,
    recipe: Recipe | None = None,
    of_data: Terms = UNKNOWN,
    protocol: str = GENERATE,
) -> Artifact:
    """Publish a set of answers, under the key by which `find` finds it.

    Args:
        ws: The workspace.
        role: Name of the model in an error.
        engine: The model.
        given: The answers, in the order of `questions_of`.
        data: Digest of the data set.
        probe: The probe.
        settings: The recipe's bench section.
        recipe: For the provenance.
        of_data: Terms of the data set.
        protocol: The protocol.

    Raises:
        UserError: The engine failed on more than `max_bad_fraction` of the questions.
    """
    section, parents = _key_parts(engine, data, probe, protocol, settings)
    seconds = round(sum(one.seconds for one in given), 3)
    more = {
        "inference": dict(engine.inference()),
        READER: reader(),
        "asked": section,
        "cost": {"seconds": seconds},
        **engine.learned(),
    }

    def make(folder: Path) -> Mapping[str, Any]:
        return _finish(folder / FILE, given, role, settings.max_bad_fraction)

    allowed = combine([of_data, engine.terms])
    return cached_step(ws, "answers", REVISION, section, parents, make, recipe=recipe, terms=allowed, more=more)[0]


def probes_of(settings: Bench) -> tuple[str, ...]:
    """The probes of a benchmark, led by `none`: the questions as they are."""
    return ("none", *settings.probes)


def find(
    ws: Workspace, engine: Engine, data: str, probe: str, settings: Bench, protocol: str = GENERATE
) -> Artifact | None:
    """The answers of a model to a probe, where the cache has them; the arguments are those of `collect`."""
    return finished(ws, "answers", key(engine, data, probe, settings, protocol))


def key(engine: Engine, data: str, probe: str, settings: Bench, protocol: str = GENERATE) -> str:
    """The key of a set of answers; the arguments are those of `collect`."""
    return step_key("answers", REVISION, *_key_parts(engine, data, probe, protocol, settings))


def find_or_ask(
    ws: Workspace,
    role: str,
    engine: Engine,
    data: Artifact,
    sets: Sequence[Set],
    settings: Bench,
    recipe: Recipe | None,
) -> dict[Set, Artifact]:
    """Sets of answers of a model to a published data set, which is downloaded where something has to be asked."""
    known = {(how, probe): find(ws, engine, data.digest, probe, settings, how) for how, probe in sets}
    found = {one: artifact for one, artifact in known.items() if artifact is not None}
    if len(found) == len(known):
        return found
    folder = store.fetch(data, ws.cache)
    items = tasks.select(folder, settings.tasks, settings.limit, settings.split)
    return collect(ws, role, engine, items, pixels.of(folder), data.digest, sets, settings, recipe, terms_of(data))


def on_any_machine(engine: Engine, data: str, probe: str, settings: Bench, protocol: str) -> str:
    """A key of these answers without what the answering machine decides; see `fanout`."""
    section, parents = _asked_for(engine, data, probe, protocol, settings)
    return step_key("answers", REVISION, {**section, **_in_batches(engine, probe, settings)}, parents)


def _asked_for(
    engine: Engine, data: str, probe: str, protocol: str, settings: Bench
) -> tuple[dict[str, Any], dict[str, str]]:
    section = {
        "tasks": sorted(tasks.identities(settings.tasks)),
        "split": settings.split,
        "limit": settings.limit,
        "max_bad_fraction": settings.max_bad_fraction,
        "probe": probe,
        **({"max_new_tokens": settings.max_new_tokens} if protocol == GENERATE else {"protocol": protocol}),
        **({"template": engine.template} if engine.template else {}),  # a server's answers keep their key
        **({"engine": engine.by} if engine.by else {}),
    }
    return section, {"model": engine.digest, "data": data}


def _key_parts(
    engine: Engine, data: str, probe: str, protocol: str, settings: Bench
) -> tuple[dict[str, Any], dict[str, str]]:
    section, parents = _asked_for(engine, data, probe, protocol, settings)
    inference = engine.inference()
    if inference:
        section["inference"] = dict(inference)
    if not asking.is_exact(inference, protocol):
        section |= _in_batches(engine, probe, settings)
    return section, parents


def _in_batches(engine: Engine, probe: str, settings: Bench) -> dict[str, Any]:
    """What stands in a key for the batches: their size, and of `blind` a mark that they are not those of 0.1.0."""
    different = {"batches": "of different questions"} if probe == "blind" else {}
    return {"batch_size": settings.batch_size, **different, **({"how": engine.how} if engine.how else {})}


def load(folder: Path) -> list[Answer]:
    """Read published answers."""
    return [one.answer for one in parse((folder / FILE).read_bytes())]


def parse(lines: bytes) -> list[Given]:
    """Read stored answers; published ones have no cost. Text may contain U+2028, at which `splitlines` would split."""
    found = []
    for line in lines.split(b"\n"):
        if line:
            row = json.loads(line)
            cost = {name: row.pop(name) for name in _COST if name in row}
            found.append(Given(from_json(Answer, row), **cost))
    return found


def dump(given: Iterable[Given]) -> bytes:
    """What `parse` reads."""
    rows = ({**_row(one.answer), **{name: getattr(one, name) for name in _COST}} for one in given)
    return "".join(map(_json, rows)).encode()


def as_read(ws: Workspace, found: Artifact, samples: Mapping[str, Sample]) -> list[Answer]:
    """Published answers as this version reads them: those that another one read are read again.

    Args:
        ws: The workspace.
        found: An artifact of answers.
        samples: `Sample.id` -> question.
    """
    given = load(store.fetch(found, ws.cache))
    if provenance_of(found).get(READER) == reader():
        return given
    return [reread(samples[answer.sample], answer) for answer in given]


def _resume(file: Path) -> dict[str, Given]:
    """Answers of an earlier run. A torn last line is removed, and questions with an engine error are asked again."""
    if not file.exists():
        return {}
    whole = file.read_bytes().rpartition(b"\n")[0]  # what follows the last newline is torn
    known = {one.answer.sample: one for one in parse(whole) if one.answer.status != "error"}
    _replace(file, dump(known.values()))
    return known


def _finish(file: Path, given: Sequence[Given], role: str, max_bad_fraction: float) -> dict[str, Any]:
    """Write the answers in the order of the questions, so that the order of asking is not in the digest.

    Returns:
        Counts for the manifest.
    """
    answers = [one.answer for one in given]
    failed = [answer for answer in answers if answer.status == "error"]
    if len(failed) > max_bad_fraction * len(answers):
        raise UserError(
            f"{role}: the engine failed on {len(failed)} of {len(answers)} questions",
            reason=f"bench.max_bad_fraction allows a share of {max_bad_fraction}",
            problems=[f"question {answer.sample}: {answer.error}" for answer in failed],
            fix="fix the cause and run the same command: the answers so far are kept. Where these questions cannot "
            "be asked, allow more by bench.max_bad_fraction (bench run: --max-bad-fraction), and all are asked again",
        )
    _replace(file, "".join(map(_line, answers)).encode())
    return {
        "answers": len(answers),
        "unparsed": sum(answer.status == "unparsed" for answer in answers),
        "errors": len(failed),
        "cut": sum(answer.cut for answer in answers),
        "replaced": sum(reading.REPLACED in answer.text for answer in answers),
        "prompt_tokens": sum(one.prompt_tokens for one in given),
        "new_tokens": sum(one.new_tokens for one in given),
    }


def _replace(file: Path, content: bytes) -> None:
    part = file.with_name(".part")
    part.write_bytes(content)
    os.replace(part, file)


def _line(answer: Answer) -> str:
    return _json(_row(answer))


def _row(answer: Answer) -> dict[str, Any]:
    row = to_json(answer)
    for name in ("cut", "letters", "texts", "tokens"):  # as earlier versions wrote it: equal answers keep their bytes
        if not row[name]:
            del row[name]
    return row


def _json(row: Mapping[str, Any]) -> str:
    return json.dumps(row, sort_keys=True, ensure_ascii=False) + "\n"
