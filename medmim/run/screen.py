"""What `medmim run` prints: one line a stage, progress as it comes, and at the end the scores and the decision."""

import sys
import time
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from medmim import hints
from medmim.progress import render
from medmim.recipe.schema import Recipe
from medmim.redact import shown
from medmim.run.stage import Outcome
from medmim.run.workspace import Workspace

_FEW = 3  # models: tuned, base and champion
_SILENCE = 4.0  # s without a terminal before a sign of life
_HEADLINE = {"accuracy": "accuracy of", "likelihood": "likelihood"}  # metric -> title of its groups
_OPEN = "token_f1"  # stands in where no closed question was asked
_TITLE = {**_HEADLINE, _OPEN: "token F1 of"}
_MARK = {"done": "[green]✓[/]", "refused": "[yellow]✗[/]", "failed": "[red]✗[/]"}


class Screen:
    """Draws events on stderr: a live line on a terminal, plain lines elsewhere."""

    def __init__(self, quiet: bool = False) -> None:
        self.console = Console(file=sys.stderr, highlight=False)
        self.out = self.console if quiet else Console(highlight=False)
        self.live = Live(console=self.console, auto_refresh=False, transient=True) if self.console.is_terminal else None
        self.stage = ""
        self.begin = self.last_print = time.monotonic()
        self.now = self.step = ""
        self.errors: dict[str, int] = {}  # text -> exit code; where the store is down there is no record of them

    def start(self, recipe: Recipe, workspace: Workspace, command: str = "run") -> None:
        """Print what was resolved."""
        self.console.print(f"[bold]medmim {command}[/] {recipe.name}   run {workspace.run}")
        places = {"home": workspace.home, "store": workspace.store, "tracking": shown(workspace.tracking)}
        for name, place in places.items():
            self.console.print(f"  {name} {place}", markup=False, soft_wrap=True)
        self.now = "starting"
        if self.live:
            self.live.start()

    def event(self, event: dict[str, Any]) -> None:
        """Draw one event of a step."""
        if event["stage"] and event["stage"] != self.stage:
            self.stage, self.begin = event["stage"], time.monotonic()
            self.now = self.step = ""
        text = render(event)
        if event["kind"] == "line":
            self._print(text)
        elif event["kind"] == "error":
            self.errors.setdefault(text, event["code"])
        elif event["kind"] == "step":
            self.step = render({name: value for name, value in event.items() if name != "step"})  # the bar counts
        else:
            whole = event["done"] >= event["total"] > 0
            text = f"{text}  {self.step}".rstrip()
            self.now = "" if whole else text
            if not self.live and (whole or time.monotonic() - self.last_print > _SILENCE):
                self._print(text)

    def tick(self) -> None:
        """Refresh the live line, or print a line after a silence."""
        took = time.monotonic() - self.begin
        if self.live:
            self.live.update(Text(f"{self.stage or 'runner':>9}  {self.now or 'working'}  {took:.0f} s", style="dim"))
            self.live.refresh()
        elif time.monotonic() - self.last_print > _SILENCE:
            self._print(self.now or f"working, {took:.0f} s")

    def stop(self) -> None:
        """Remove the live line and give the terminal its cursor back."""
        if self.live:
            self.live.stop()

    def end(self, found: dict[str, Outcome], workspace: Workspace, command: str) -> None:
        """Print stages, leaderboard, decision, report and what to type next; `command` is what was typed."""
        self.stop()
        self.out.print(stages(found))
        if bench := found.get("bench"):
            for table in tables(bench.facts):
                self.out.print(table)
        self.failures(found)
        decision(self.out, found)
        if report := found.get("report"):
            self.out.print(f"\nreport    {report.facts.get('path')}", markup=False, soft_wrap=True)
            if models := report.facts.get("models"):
                self.out.print(f"models    {models['path']}", markup=False, soft_wrap=True)
        _next(self.out, found, workspace, command)

    def failures(self, found: dict[str, Outcome]) -> None:
        """Print the errors that stages ended with; a refusal is no error."""
        failed = {o.message for o in found.values() if o.status == "failed" and o.message} or self.errors.keys()
        refused = {o.message for o in found.values() if o.status == "refused"}
        for text in failed - refused:
            self.out.print(Text(f"\nerror: {text}"), soft_wrap=True)

    def _print(self, text: str) -> None:
        self.last_print = time.monotonic()
        self.console.print(Text(f"{self.stage or 'runner':>9}  ", style="cyan") + Text(text), soft_wrap=True)


def stages(found: dict[str, Outcome]) -> Table:
    """One row a stage: how it ended, how long it took, its digest."""
    table = Table("", "stage", "seconds", "digest", box=None, title=None)
    for name, outcome in found.items():
        took = "found" if outcome.cached else f"{outcome.seconds:.1f}"
        table.add_row(_MARK[outcome.status], name, took, outcome.digest[:12])
    return table


def tables(facts: dict[str, Any]) -> list[Table]:
    """The leaderboard and the gains, by each of the headline metrics that was measured; of many models no abilities."""
    rows, gained = facts.get("leaderboard", []), facts.get("differences", [])
    if many := len({row["model"] for row in rows}) > _FEW:  # the page has the rest
        rows, gained = ([row for row in all_ if "ability:" not in row["group"]] for all_ in (rows, gained))
    have = {row["metric"] for row in rows}
    measured = [metric for metric in _HEADLINE if metric in have] or [_OPEN if _OPEN in have else "accuracy"]
    boards = [leaderboard(rows, metric, not many) for metric in measured]
    return [*boards, *(gains(gained, metric, not many) for metric in measured if gained)]


def leaderboard(rows: list[dict[str, Any]], metric: str = "accuracy", counts: bool = True) -> Table:
    """Score, interval, share right both ways, blind, chance, n and patients of each model and group."""
    counted = ("n", "patients") if counts else ()
    table = Table(box=None, padding=(0, 1, 0, 0))  # fits 80 columns
    for name in ("model", _TITLE[metric], "score", "95%", "both ways", "blind", "chance", *counted):
        table.add_column(name, no_wrap=True, justify="left" if name in ("model", _TITLE[metric], "95%") else "right")
    for row in of_headline(rows, metric):
        interval = "too few" if row["low"] is None else f"{_pct(row['low'])} to {_pct(row['high'])}"
        table.add_row(
            str(row["model"]),
            row["group"].removeprefix("ability:"),
            _pct(row["value"]),
            interval,
            _pct(row.get("swap")),
            _pct(row["blind"]),
            _pct(row["chance"]),
            *(f"{row[name]:,}" for name in counted),
        )
    return table


def of_headline(rows: list[dict[str, Any]], metric: str) -> list[dict[str, Any]]:
    """The rows of a metric of closed questions, not source by source: the report shows the rest."""
    return [row for row in rows if row["metric"] == metric and not row["group"].startswith("source:")]


def gains(rows: list[dict[str, Any]], metric: str = "accuracy", read_too: bool = True) -> Table:
    """Paired difference to each opponent; won or lost by its interval alone. Every group is shown.

    Beside a gain in accuracy stand, where `read_too`, the percentages of unread answers, own and the opponent's, and
    the gain over the questions that both answered readably.
    """
    table = Table(box=None, padding=(0, 1, 0, 0))
    beside = ("unread", "if read") if metric == "accuracy" and read_too else ()
    for name in ("against", _TITLE[metric], "points", "95%", "", *beside):
        table.add_column(name, no_wrap=True, justify="right" if name in ("points", *beside) else "left")
    read = {(row["opponent"], row["group"]): row["value"] for row in rows if row["metric"] == "accuracy_if_read"}
    for row in of_headline(rows, metric):
        few = row["low"] is None
        verdict = "" if few else "won" if row["low"] > 0 else "lost" if row["high"] < 0 else "not beyond doubt"
        table.add_row(
            str(row["opponent"]),
            row["group"].removeprefix("ability:"),
            _points(row["value"]),
            "too few patients" if few else f"{_points(row['low'])} to {_points(row['high'])}",
            f"[green]{verdict}[/]" if verdict == "won" else verdict,
            *((unread(row), _points_of(read.get((row["opponent"], row["group"])))) if beside else ()),
        )
    return table


def decision(out: Console, found: dict[str, Outcome]) -> None:
    """Print the gate's decision with its reasons, and what promotion did."""
    gate, promote = found.get("gate"), found.get("promote")
    if gate is None:
        return
    verdict = (promote and promote.facts.get("decision")) or gate.facts.get("decision", "undecided")
    out.print(f"\n[bold]decision  {verdict}[/]")
    for rule in gate.facts.get("rules", []):
        mark = {True: "[green]✓[/]", False: "[red]✗[/]", None: "·"}[rule["passed"]]
        out.print(f"  {mark} {rule['rule'].replace('_', ' ')}: ", end="")
        out.print(rule["text"], markup=False, soft_wrap=True)
    if not gate.facts.get("rules"):
        out.print("  - " + "; ".join(gate.facts.get("reasons", [])), markup=False, soft_wrap=True)
    if promote:
        for text in promote.facts.get("restored", []):
            out.print(f"  - {text}", markup=False)
        if champion := promote.facts.get("champion"):
            out.print(f"champion  {champion['name']} version {champion['version']}", markup=False)


def _next(out: Console, found: dict[str, Outcome], workspace: Workspace, command: str) -> None:
    typed = []
    if "bench" in found and found["bench"].uri:
        typed.append(workspace.command("bench", "show", workspace.run, "--wrong"))
    if "promote" in found:
        typed.append(workspace.command("registry", "list"))
    if "data" in found and found["data"].uri:
        typed.append(hints.command("data", "show", found["data"].uri))
    out.print(Text("\n".join(["", "next", *(f"  {text}" for text in typed)])), soft_wrap=True)
    out.print(Text(f"  {command}   # again: finished steps cost nothing"), soft_wrap=True)


def unread(row: dict[str, Any]) -> str:
    """The percentages of unread answers of both models in a row of differences; of an earlier version's, nothing."""
    own, theirs = row.get("unread"), row.get("opponent_unread")
    return "" if own is None or theirs is None else f"{100 * own:.0f}/{100 * theirs:.0f}%"


def _points_of(share: float | None) -> str:
    return "" if share is None else _points(share)


def _points(share: float) -> str:
    return f"{100 * share:+.1f}"


def _pct(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
