"""Log a registered model's scores and curves to its MLflow run and to the logged model, and say them in words.

MLflow draws a chart for each metric, in a section for all up to the last slash: a run gets the main numbers, in few
sections, and the whole leaderboard as a table.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from medmim import store
from medmim.registry.lookup import LOGGED
from medmim.run.workspace import Workspace
from medmim.store import Artifact
from medmim.tracking import Version, curves, training_run
from medmim.tracking.training_run import metric_key

if TYPE_CHECKING:
    from mlflow import MlflowClient

TABLE = "leaderboard.json"
_MOST = 36  # metrics of a bench: with the curves and the load of a machine, a run has under 60
_WHOLE = ("held_in", "held_out")  # groups that stand for the rest
_HEADLINES = ("accuracy", "likelihood")  # the first that a bench has
_FRACTIONS = (*_HEADLINES, "token_f1", "bleu", "rouge_l")  # of others it is not known that a percentage says them


def log(api: "MlflowClient", ws: Workspace, version: Version, bench: Artifact, tuned: Artifact) -> str:
    """Log scores and curves, and end the run.

    Args:
        api: The client.
        ws: The workspace.
        version: Its run and its logged model get the scores.
        bench: The bench artifact, with `scores.json`.
        tuned: The model artifact; of its files `losses.jsonl` and `validation.jsonl`, the curves, are read if it has
            them.

    Returns:
        The scores in a sentence.
    """
    from mlflow.entities import Metric, RunStatus

    run, scores = version.run, json.loads(store.read_file(bench, "scores.json"))
    training_run.log_benchmark(api, ws, run, scores)
    digest = training_run.dataset_digest(str(scores.get("data", "")))
    found = headlines(scores["leaderboard"], scores.get("differences", []), "tuned")
    of = {"model_id": version.tags.get(LOGGED)} | (
        {"dataset_name": training_run.BENCHMARK, "dataset_digest": digest} if digest else {}
    )
    known, now = api.get_run(run).data.metrics, int(time.time() * 1000)
    new = [Metric(key, value, now, 0, **of) for key, value in found.items() if known.get(key) != value]
    if new:  # else a kill came between them and the tag
        api.log_batch(run, metrics=new)
    training_run.log_table(api, ws, run, scores["leaderboard"], TABLE)
    files = {name: store.read_file(tuned, name) for name in curves.FILES if name in tuned.files}
    curves.log(api, run, files, tuned.counts.get("tokens_per_s"))
    said = in_words(scores["leaderboard"], "tuned")
    training_run.describe(api, ws, run, said)
    api.set_terminated(run, RunStatus.to_string(RunStatus.FINISHED))
    return said


def headlines(
    rows: Sequence[Mapping[str, Any]], differences: Sequence[Mapping[str, Any]], main: str
) -> dict[str, float]:
    """The metrics of a bench, name -> value, the most telling ones first, at most `_MOST`.

    `bench/held_in/WHAT`, as for `held_out`; and `bench/HEADLINE/GROUP` of the other groups. WHAT is the headline,
    `accuracy` or `likelihood`, of the model `main`, and with `_ROLE` of another; `gain_ROLE`, by how much `main` is
    better; `_blind`, without images; `_swap`, right both ways; or another metric, such as `token_f1`.

    Args:
        rows: The leaderboard.
        differences: Of `main` from the others, as `scores.json` has them.
        main: The model that the run is about.
    """
    found: dict[str, float] = {}
    for section, name, value in _ordered(rows, differences, main):
        if value is not None and len(found) < _MOST:
            found[metric_key("bench", *(part.replace("/", ".").replace(":", ".") for part in (section, name)))] = value
    return found


def _ordered(
    rows: Sequence[Mapping[str, Any]], differences: Sequence[Mapping[str, Any]], main: str
) -> Iterator[tuple[str, str, float | None]]:
    """Section, name and value, the most telling ones first."""
    headline, groups = _headline(rows), _whole(rows)
    own = [row for row in rows if row["model"] == main]
    first = [row for row in own if row["metric"] == headline]
    whole = [row for row in first if row["group"] in groups]
    yield from ((row["group"], headline, row["value"]) for row in whole)
    for row in rows:
        if row["model"] != main and row["metric"] == headline and row["group"] in groups:
            yield row["group"], f"{headline}_{row['model']}", row["value"]
    for row in differences:
        if row["metric"] == headline and row["group"] in groups:
            yield row["group"], f"gain_{row['opponent']}", row["value"]
    for probe in ("blind", "swap"):
        yield from ((row["group"], f"{headline}_{probe}", row.get(probe)) for row in whole)
    for row in own:
        if row["metric"] != headline and row["group"] in groups:
            yield row["group"], row["metric"], row["value"]
    yield from ((headline, row["group"], row["value"]) for row in first if row["group"] not in groups)


def _headline(rows: Sequence[Mapping[str, Any]]) -> str:
    measured = {row["metric"] for row in rows}
    return next((one for one in _HEADLINES if one in measured), min(measured, default=""))


def _whole(rows: Sequence[Mapping[str, Any]]) -> Sequence[str]:
    """The groups that stand for the rest: the two of a recipe's own data, else the first ones."""
    groups = list(dict.fromkeys(str(row["group"]) for row in rows))
    return [group for group in _WHOLE if group in groups] or groups[: len(_WHOLE)]


def in_words(rows: Sequence[Mapping[str, Any]], main: str) -> str:
    """The headline of a bench: `Accuracy: held in 81.6% (base 43.4%), held out 70.2% (base 41.0%).`, say.

    A metric that is no fraction is said as a number of three digits.
    """
    headline, said = _headline(rows), list[str]()
    form = ".1%" if headline in _FRACTIONS else ".3g"
    for group in _whole(rows):
        values = {row["model"]: row["value"] for row in rows if (row["group"], row["metric"]) == (group, headline)}
        if values.get(main) is not None:
            others = [f"{name} {value:{form}}" for name, value in values.items() if name != main and value is not None]
            beside = f" ({', '.join(others)})" if others else ""
            said.append(f"{group.replace('_', ' ')} {values[main]:{form}}{beside}")
    return f"{headline.capitalize()}: {', '.join(said)}." if said else ""
