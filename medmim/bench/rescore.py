"""Scores of recorded answers, computed again: of a bench artifact only what it names is used, and no number in it."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError

from medmim import hints, shards, store
from medmim.bench import answers, asking, clean, tasks
from medmim.bench.likelihood import GENERATE, LIKELIHOOD, PROTOCOLS
from medmim.bench.reader.reply import reread
from medmim.bench.run import SCORES
from medmim.bench.scoring import Board
from medmim.bench.tasks import Items
from medmim.data.audit.run import section_of
from medmim.errors import Refused
from medmim.recipe.keys import Positive
from medmim.recipe.schema import Audit
from medmim.run.provenance import provenance_of
from medmim.run.workspace import Workspace
from medmim.sample import Answer
from medmim.store import Artifact

TUNED = "tuned"
_KEYS = {"leaderboard": ("model", "group", "metric"), "differences": ("opponent", "group", "metric")}
_LARGEST = 1e300
_CLOSE = 1e-6  # of values in 0..1: the last digits depend on the machine

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
ByProbe = dict[Literal["none", "blind", "grey", "swap"], Digest]


class _Model(BaseModel):
    digest: str


class _Named(BaseModel):
    """What `scores.json` names."""

    data: Digest
    split: Literal["test", "dev"] = "test"
    protocol: Literal["generate", "likelihood", "both"] = "generate"
    tasks: list[str]
    models: dict[str, _Model]
    answers: dict[str, ByProbe]
    likelihoods: dict[str, ByProbe] = {}


class _Asked(BaseModel):
    """What the recipe beside it says of the questions: definitions of tasks, and how many were asked."""

    tasks: tuple[str, ...] = ()
    limit: Positive | None = None


def rescore(ws: Workspace, scored: Artifact) -> dict[str, Any]:
    """What the gate reads of `scores.json`, from the answers and the data set that it names.

    Each text is read again, whatever was recorded as its choice, and each question of the tasks must have one answer.
    Who may publish answers can still invent them: that the model gave them, only asking it again would show.

    Args:
        ws: The workspace, with data set and answers in its store.
        scored: The bench artifact.

    Returns:
        `models`, `data`, `protocol`, `comparable`, `leaderboard` and `differences`, as `bench.run` writes them.

    Raises:
        Refused: Scores that name no such things, or answers that are not those of the questions.
        UserError: Data set or answers are gone, or damaged.
    """
    named, (asked, allowed) = _named(scored), _asked(scored)
    refs = asked.tasks or tuple(named.tasks)
    if files := [ref for ref in refs if tasks.is_file(ref) or tasks.is_list(ref)]:
        raise Refused(
            f"the scores {scored.uri} are of tasks that they do not define",
            reason=f"{', '.join(files)} is a file of some machine; a run records what its file says",
        )
    if sorted(tasks.names_of(refs)) != sorted(named.tasks):
        raise Refused(
            f"the scores {scored.uri} are of other tasks than were asked",
            reason=f"they name {', '.join(sorted(named.tasks))}, and the recipe {', '.join(tasks.names_of(refs))}",
        )
    source = store.get(f"{ws.store}/data/{named.data}")
    refs = clean.resolved(ws, source, refs, allowed, make=False)
    if any(task.clean for _, task in map(tasks.load, refs)):
        raise Refused(
            f"nothing tells which questions of {source.uri} are clean",
            reason="the audit that the scores were made with is gone, and who computes them again makes none",
            fix=f"make it: `{hints.command('data', 'audit', source.uri)}`",
        )
    data = store.fetch(source, ws.cache, [shards.SAMPLES])
    items = tasks.select(data, refs, asked.limit, named.split)
    recorded = {GENERATE: named.answers, LIKELIHOOD: named.likelihoods}
    given = {
        protocol: {role: _read(ws, items, role, protocol, recorded[protocol].get(role, {})) for role in named.models}
        for protocol in PROTOCOLS[named.protocol]
    }
    board = Board(items.samples, given.get(GENERATE, {}), given.get(LIKELIHOOD), items.groups, items.clusters)
    return {
        "models": {role: model.model_dump() for role, model in named.models.items()},
        "data": named.data,
        "protocol": named.protocol,
        "comparable": not items.limited,
        "leaderboard": board.leaderboard(),
        "differences": board.differences(TUNED),
    }


def differing(recorded: Mapping[str, Any], computed: Mapping[str, Any]) -> list[str]:
    """A sentence for each number of recorded scores that is not the computed one."""
    key = "comparable"
    same = recorded.get(key) == computed[key]
    found = [] if same else [f"{key}: {recorded.get(key)} recorded, {computed[key]} computed"]
    for table, keys in _KEYS.items():
        given = recorded.get(table)
        listed = [row for row in given if isinstance(row, Mapping)] if isinstance(given, list) else []
        rows = {tuple(str(row.get(key)) for key in keys): row for row in listed}
        if listed != given or len(rows) < len(listed):
            found.append(f"{table}: not a table, or one with a row twice")
        own = {tuple(row[key] for key in keys): row for row in computed[table]}
        for name in [*own, *(name for name in rows if name not in own)]:
            found += _differing(f"{table}, {' '.join(map(str, name))}", rows.get(name), own.get(name))
    return found


def _differing(where: str, recorded: Mapping[str, Any] | None, computed: Mapping[str, Any] | None) -> Iterator[str]:
    if recorded is None or computed is None:
        yield f"{where}: only {'computed' if recorded is None else 'recorded'}"
        return
    for key in computed:
        if key in recorded and not _equal(recorded[key], computed[key]):
            yield f"{where}, {key}: {recorded[key]} recorded, {computed[key]} computed"


def _equal(one: Any, other: Any) -> bool:
    numbers = [value for value in (one, other) if _is_number(value)]
    return math.isclose(*numbers, rel_tol=0, abs_tol=_CLOSE) if len(numbers) == 2 else bool(one == other)


def _is_number(value: Any) -> bool:
    """Whether a number can be computed with: JSON has NaN, and integers beyond every float, for those who forge."""
    return isinstance(value, int | float) and -_LARGEST < value < _LARGEST


def _named(scored: Artifact) -> _Named:
    try:
        named = _Named.model_validate(json.loads(store.read_file(scored, SCORES)))
    except (FileNotFoundError, ValueError) as error:  # pydantic's is one
        raise Refused(f"{scored.uri} holds no scores of recorded answers", reason=str(error)) from None
    if TUNED not in named.models:
        raise Refused(f"{scored.uri} holds no scores of a tuned model", reason=f"roles: {', '.join(named.models)}")
    return named


def _asked(scored: Artifact) -> tuple[_Asked, Audit | None]:
    """The recipe's sections `bench` and `audit`; without a recipe, what was asked of it by default."""
    recipe = provenance_of(scored).get("recipe")
    try:
        if not isinstance(recipe, dict):
            return _Asked(), None
        return _Asked.model_validate(recipe.get("bench") or {}), section_of(recipe)
    except ValidationError as error:
        raise Refused(f"the recipe in {scored.uri}/{store.PROVENANCE} cannot be read", reason=str(error)) from None


def _read(ws: Workspace, items: Items, role: str, protocol: str, sets: ByProbe) -> dict[str, Sequence[Answer]]:
    """Probe -> the answers of a model, read again."""
    if "none" not in sets:
        raise Refused(f"the scores name no answers of {role}", reason=f"protocol {protocol}: without a probe")
    return {probe: _answers(ws, items, f"{role}, {protocol} {probe}", protocol, probe, sets[probe]) for probe in sets}


def _answers(ws: Workspace, items: Items, title: str, protocol: str, probe: str, digest: str) -> Sequence[Answer]:
    found = store.get(f"{ws.store}/answers/{digest}")
    try:
        given = [one.answer for one in answers.parse(store.read_file(found, answers.FILE))]
        if not all(isinstance(one.sample, str) for one in given):
            raise TypeError("a question's id is no text")
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Refused(f"{found.uri} holds no answers ({title})", reason=str(error)) from None
    asked = {sample.id: sample for sample in asking.questions_of(items.samples, probe, protocol)}
    names = {answer.sample for answer in given}
    if problems := [
        *(f"question {name} has no answer" for name in asked if name not in names),
        *(f"question {name} was not asked" for name in names - asked.keys()),
        *(["a question has more than one answer"] if len(names) < len(given) else []),
        *(f"question {one.sample}: an answer to probe {one.probe}" for one in given if one.probe != probe),
        *(
            f"question {one.sample}: {why}"
            for one in given
            if one.sample in asked and (why := _odd(one, protocol, len(asked[one.sample].options)))
        ),
    ]:
        raise Refused(f"{found.uri} holds other answers than those to the questions ({title})", problems=problems)
    return [reread(asked[answer.sample], answer) for answer in given]


def _odd(answer: Answer, protocol: str, options: int) -> str:
    """Why an answer is none of its protocol; empty where it is one."""
    if answer.status == "error":
        return ""
    letters, texts, tokens = answer.letters, answer.texts, answer.tokens
    if protocol == GENERATE:
        return "" if isinstance(answer.text, str) and not (letters or texts or tokens) else "no text"
    sizes = len(letters) == options and {len(texts), len(tokens)} <= {0, options} and len(texts) == len(tokens)
    finite = all(map(_is_number, (*letters, *texts, *tokens)))
    return "" if sizes and finite and all(count > 0 for count in tokens) else "no likelihood for each option"
