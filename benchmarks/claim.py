"""The paper's claim in miniature: multi-image tuning improves a base trained on single images, in every ability.

    python benchmarks/claim.py          tunes both families with three seeds, asks the test questions, prints the table
    python benchmarks/claim.py --dev    one seed and the dev questions instead, to choose settings

Each row: accuracy of the base and of the tuned model (mean of the seeds), of the tuned model without images, of a
guess, and the paired difference with its 95% interval clustered by patient and its p value, Holm-corrected over the
headline rows of both families (separately over their sub-cases). A row is won if the gain is significantly above zero
and the tuned models are significantly better than without images and than a guess. "Both ways" is swap-consistency:
right before and after the images are exchanged. Unread answers count as wrong: beside the gain stand their shares (base
and tuned), the gain over what all answered readably, and the gain by likelihood, where nothing has to be read. Every
row is printed, won or not. A killed run is resumed: all work is cached in --home.
"""

import argparse
import os
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from medmim import stats
from medmim.bench import run as bench
from medmim.data import build, wording
from medmim.data.sources.phantom_draw import FINDINGS
from medmim.errors import Unavailable, UserError
from medmim.finetune import run as finetune
from medmim.recipe import loading
from medmim.recipe.schema import Recipe
from medmim.run.stage import end_with_runner
from medmim.run.workspace import Workspace, workspace

BASES = {"mantis": "tiny-mantis", "llava-med": "tiny-llava-med"}
SEEDS = (1, 2, 3)
ABILITIES = ("temporal", "reasoning", "comparison", "coreference", "composed")
MUST_WIN = ("held_in", "held_out", *(f"ability:{name}" for name in ABILITIES))
LEAST_PATIENTS = 150
COLUMNS = (
    "model", "questions", "base", "tuned (worst seed)", "blind", "chance", "gain, 95%", "p", "if read", "by likelihood",
    "unread", "both ways", "n", "patients", "won",
)  # fmt: skip
_TITLES = {"held_in": "held-in", "held_out": "held-out", "coreference": "co-reference"}


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        family: Family of the models.
        group: Group of questions.
        base: Accuracy of the base.
        tuned: Accuracy of the tuned models, mean over the seeds.
        lowest: Accuracy of the worst seed.
        blind: Accuracy of the tuned models without images, mean over the seeds.
        chance: Accuracy of a uniform guess.
        gain: Paired difference of tuned and base, with interval and p.
        if_read: The same over the questions that the base and all tuned models answered readably; None without any.
        likelihood: The same by the likeliest option, where nothing has to be read.
        unread: Share of the unread answers of the base and, mean over the seeds, of the tuned models.
        seen: Paired difference of tuned and the better of tuned without images and a guess.
        both_ways: Swap-consistency of base and tuned; None where no question can be swapped.
        p: p of `gain`, Holm-corrected.
    """

    family: str
    group: str
    base: float
    tuned: float
    lowest: float
    blind: float
    chance: float
    gain: stats.Estimate
    if_read: stats.Estimate | None
    likelihood: stats.Estimate
    unread: tuple[float, float]
    seen: stats.Estimate
    both_ways: tuple[float, float] | None
    p: float | None = None

    @property
    def won(self) -> bool:
        """Significantly better than the base after correction, and than without images or by guessing.

        The second condition excludes gains over a base that is worse than a guess, perhaps since it is unparsed.
        """
        if self.gain.low is None or self.seen.low is None or self.p is None:
            return False
        return self.gain.low > 0 and self.p < 0.05 and self.seen.low > 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, default=Path(".medmim/claim"), help="folder of all work")
    parser.add_argument("--dev", action="store_true", help="ask the dev questions, to choose settings")
    parser.add_argument("--set", action="append", default=[], help="key=value of claim.yaml, for trials with --dev")
    parser.add_argument("--family", choices=BASES, help="tune and ask this family only; prints the URI of the scores")
    args = parser.parse_args()
    if args.set and not args.dev:
        parser.error("--set is for trials: give --dev as well")
    try:
        recipe = loading.load(str(Path(__file__).with_name("claim.yaml")), args.set)
        if args.dev:
            recipe = recipe.model_copy(update={"bench": recipe.bench.model_copy(update={"split": "dev"})})
        ws = workspace(args.home, recipe)
        if args.family:
            end_with_runner()
            print(tune_and_bench(recipe, args.family, ws))
            return
        data = build.run(recipe, ws)  # once, before both families need it
        print(f"data {data.digest[:12]}, home {ws.home}", file=sys.stderr)
        rows = [row for family, items in _run_families(ws) for row in table(family, items, _seeds(recipe))]
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    rows = correct(rows)
    show(rows)
    needed = [group for group in MUST_WIN if not args.dev or group != "held_out"]  # dev has no held-out patients
    if lost := missing(rows, needed):
        print(f"\nnot won: {', '.join(lost)}", file=sys.stderr)
        sys.exit(1)


def missing(rows: Sequence[Row], needed: Sequence[str]) -> list[str]:
    """Needed groups that are not won, have no row, or too few patients."""
    won = {(row.family, row.group) for row in rows if row.won and row.gain.patients >= LEAST_PATIENTS}
    return [f"{family} {group}" for family in BASES for group in needed if (family, group) not in won]


def tune_and_bench(recipe: Recipe, family: str, ws: Workspace) -> str:
    """Tune one family with every seed, then bench base and tuned models; returns the URI of the scores."""
    own = replace(workspace(ws.home / family, recipe), store=ws.store)
    data = build.run(recipe, own).uri
    models = {}
    for seed in _seeds(recipe):
        tuning = recipe.finetune.model_copy(update={"base": BASES[family], "seed": seed})
        recipe = recipe.model_copy(update={"finetune": tuning})
        models[f"seed {seed}"] = finetune.run(recipe, own, data).uri
    artifact, _ = bench.bench(own, data, {**models, "base": BASES[family]}, recipe.bench, recipe)
    return artifact.uri


def _seeds(recipe: Recipe) -> tuple[int, ...]:
    return SEEDS if recipe.bench.split == "test" else SEEDS[:1]


def _run_families(ws: Workspace) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The items of every family with their answers; families run in parallel processes, one core each."""
    command = [sys.executable, __file__, *sys.argv[1:], "--family"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MEDMIM_RUNNER": str(os.getpid())}
    running = {
        family: subprocess.Popen(
            [*command, family],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            encoding="utf-8",
            errors="replace",
        )
        for family in BASES
    }
    relays = [threading.Thread(target=_relay, args=(family, child.stderr)) for family, child in running.items()]
    for thread in relays:
        thread.start()
    outputs = {family: child.stdout.read() for family, child in running.items() if child.stdout}
    codes = {family: child.wait() for family, child in running.items()}
    for thread in relays:
        thread.join()
    for family, code in codes.items():
        if code < 0:
            raise Unavailable(
                f"{family} was killed by signal {-code}",
                reason="the machine may be short of memory" if code == -9 else "",
                fix="run the same command again: it resumes",
            )
        if code:
            sys.exit(code)  # the child process has printed the error
    for family, output in outputs.items():
        yield family, bench.predictions(ws, output.splitlines()[-1])


def _relay(family: str, lines: Iterable[str] | None) -> None:
    """Print the stderr of a child process, each line led by its family."""
    for line in lines or ():
        sys.stderr.write(f"{family:>9}  {line}")


def table(family: str, items: Sequence[Mapping[str, Any]], seeds: Sequence[int]) -> list[Row]:
    """Every group of a family's closed questions; sub-cases after the groups they belong to."""
    groups: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for item in items:
        if item["options"] and _complete(item):
            for group in (*item["groups"], *_subcases(item)):
                groups[group].append(item)
    kept = [g for g in groups if not g.startswith("source:") or groups[g][0]["held_out"]]
    kept = [g for g in kept if "/" not in g or len(groups[g]) < len(groups[g.split("/")[0]])]  # else equal to its group
    return [_row(family, group, groups[group], seeds) for group in sorted(kept, key=_order)]


def _complete(item: Mapping[str, Any]) -> bool:
    """Whether every model answered: what an engine failed on is in no score, so it can be in no pair."""
    return all(
        metric in given[probe]["scores"]
        for given in item["answers"].values()
        for probe in ("none", "blind")
        for metric in ("accuracy", "likelihood")
    )


def _subcases(item: Mapping[str, Any]) -> Iterator[str]:
    """The kind of question; for `larger` also of what, since a scattered finding is another matter than a blob."""
    within = f"source:{item['source']}" if item["held_out"] else f"ability:{item['ability']}"
    yield f"{within}/{item['family']}"
    if item["family"] == "larger":
        words = {wording.word(finding) for findings in FINDINGS.values() for finding in findings}
        yield f"{within}/larger {next(word for word in sorted(words) if word in item['question'])}"


def _order(group: str) -> tuple[int, str]:
    kinds = ("held_in", "ability", "held_out", "source")
    return kinds.index(group.split(":")[0]), group


def _row(family: str, group: str, items: Sequence[Mapping[str, Any]], seeds: Sequence[int]) -> Row:
    def right(role: str, probe: str = "none", metric: str = "accuracy") -> stats.Floats:
        return np.array([item["answers"][role][probe]["scores"][metric] for item in items])

    each = [right(f"seed {seed}") for seed in seeds]
    base, tuned = right("base"), np.mean(each, axis=0)
    people = [item["people"] for item in items]
    gain = stats.difference(tuned, base, people)
    guess = np.array([len(item["gold"]) / len(item["options"]) for item in items])
    blind = np.mean([right(f"seed {seed}", "blind") for seed in seeds], axis=0)
    likelihood = np.mean([right(f"seed {seed}", metric="likelihood") for seed in seeds], axis=0)
    lowest = min(float(np.mean(one)) for one in each)
    return Row(
        family,
        group,
        float(np.mean(base)),
        float(np.mean(tuned)),
        lowest,
        float(np.mean(blind)),
        float(np.mean(guess)),
        gain,
        _if_read(items, base, tuned, people),
        stats.difference(likelihood, right("base", metric="likelihood"), people),
        (_unread(items, "base"), float(np.mean([_unread(items, f"seed {seed}") for seed in seeds]))),
        stats.difference(tuned, max(blind, guess, key=np.mean), people),
        _swap(items, seeds),
    )


def _if_read(
    items: Sequence[Mapping[str, Any]], base: stats.Floats, tuned: stats.Floats, people: Sequence[Sequence[str]]
) -> stats.Estimate | None:
    read = [i for i, item in enumerate(items) if all(_is_read(given) for given in item["answers"].values())]
    own = [people[i] for i in read]
    return stats.difference(tuned[read], base[read], own) if read else None


def _unread(items: Sequence[Mapping[str, Any]], role: str) -> float:
    return float(np.mean([not _is_read(item["answers"][role]) for item in items]))


def _is_read(given: Mapping[str, Any]) -> bool:
    return bool(given["none"]["status"] == "parsed")


def _swap(items: Sequence[Mapping[str, Any]], seeds: Sequence[int]) -> tuple[float, float] | None:
    """Shares of base and of the tuned models, mean over the seeds, that are right before and after the exchange."""

    def both(role: str) -> list[float]:
        return [
            s["swap_consistency"] for i in items if "swap_consistency" in (s := i["answers"][role]["none"]["scores"])
        ]

    if not both("base"):
        return None
    return float(np.mean(both("base"))), float(np.mean([np.mean(both(f"seed {seed}")) for seed in seeds]))


def correct(rows: Sequence[Row]) -> list[Row]:
    """Holm's correction over the headline rows of both families, and separately over their sub-cases."""
    kinds = [row for row in rows if "/" not in row.group], [row for row in rows if "/" in row.group]
    corrected = {
        id(row): p for kind in kinds for row, p in zip(kind, stats.holm([r.gain.p for r in kind]), strict=True)
    }
    return [replace(row, p=corrected[id(row)]) for row in rows]


def show(rows: Sequence[Row]) -> None:
    """Print two Markdown tables, as in docs/claim.md: the headline rows, and their sub-cases."""
    _print([row for row in rows if "/" not in row.group])
    print()
    _print([row for row in rows if "/" in row.group])


def _print(rows: Sequence[Row]) -> None:
    print(f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|")
    for row in rows:
        g, name = row.gain, row.group.removeprefix("ability:").removeprefix("source:phantom-")
        name = " / ".join(_TITLES.get(part, part.replace("_", " ")) for part in name.split("/"))
        bold = "**" if row.group in MUST_WIN else ""
        p = "-" if row.p is None else "<0.001" if row.p < 0.001 else f"{row.p:.3f}"
        swap = "-" if row.both_ways is None else f"{100 * row.both_ways[0]:.1f} -> {100 * row.both_ways[1]:.1f}"
        cells = (
            row.family,
            f"{bold}{name}{bold}",
            f"{100 * row.base:.1f}",
            f"{100 * row.tuned:.1f} ({100 * row.lowest:.1f})",
            f"{100 * row.blind:.1f}",
            f"{100 * row.chance:.1f}",
            _with_interval(g),
            p,
            "-" if row.if_read is None else f"{100 * row.if_read.value:+.1f}",
            _with_interval(row.likelihood),
            f"{100 * row.unread[0]:.1f} -> {100 * row.unread[1]:.1f}",
            swap,
            f"{g.n:,}",
            f"{g.patients:,}" + " (few)" * (g.patients < LEAST_PATIENTS),
            "yes" if row.won else "no",
        )
        print(f"| {' | '.join(cells)} |")


def _with_interval(gain: stats.Estimate) -> str:
    value = f"{100 * gain.value:+.1f}, "
    if gain.low is None or gain.high is None:
        return value + "too few patients"
    return value + f"{100 * gain.low:+.1f} to {100 * gain.high:+.1f}"


if __name__ == "__main__":
    main()
