"""The tables of the data commands."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from medmim.sample import Sample

_DROPPED = {  # what is left out of a type, and why
    "balanced": "left out so that no answer is right far more often than the others",
    "unworded": "left out, this form having no words or options for them",
    "over_quota": "left out, more than the quota",
}


def built(counts: Mapping[str, Any], cached: bool) -> None:
    """The counts of a data set."""
    console = Console()
    found = " (found, nothing had to be done)" if cached else ""
    console.print(f"[bold]{counts['rows']:,} rows[/], {counts['images']:,} images{found}")
    table = _table("split", "rows", "patients")
    for split, rows in counts["by_split"].items():
        table.add_row(split, f"{rows:,}", f"{counts['patients_by_split'][split]:,}")
    console.print(table)
    table = _table("ability", "rows")
    for ability, rows in counts["by_ability"].items():
        table.add_row(ability, f"{rows:,}")
    console.print(table)
    _files(console, counts["source"].get("files", {}))
    if dropped := counts.get("balanced"):
        console.print(
            f"{_DROPPED['balanced']}: " + ", ".join(f"{rows:,} {escape(family)}" for family, rows in dropped.items()),
            soft_wrap=True,
        )
    _worded(console, counts.get("words"))
    if counts["missing_images"]:
        console.print(f"[yellow]{counts['missing_images']:,} images are missing[/]; missing_images.txt lists them")
    if out := counts["source"].get("erased", {}).get("patients"):
        console.print(f"[yellow]{out:,} erased patients are left out[/]")
    for reason, rows in counts["source"].get("skipped", {}).items():
        console.print(f"skipped {rows:,} rows: {escape(reason)}", soft_wrap=True)
    for reason, rows in counts["quarantined"].items():
        console.print(f"[yellow]quarantined {rows:,}[/] {escape(reason)}", soft_wrap=True)


def _worded(console: Console, words: Mapping[str, Any] | None) -> None:
    if words:
        console.print(
            f"{words['written']:,} of {words['questions']:,} questions are in {words['wordings']:,} approved wordings",
            soft_wrap=True,
        )
        for reason, rows in words["kept"].items():
            console.print(f"[yellow]{rows:,} keep the template's words:[/] {escape(reason)}", soft_wrap=True)


def _files(console: Console, files: Mapping[str, Any]) -> None:
    """What each published file holds."""
    if not files:
        return
    columns = ("file", "rows", "bad", "patients", "sets", "images", "missing", "twice", "same id", "two letters")
    table = _table(*columns)
    for name, facts in files.items():
        numbers = (
            facts["rows"], facts["quarantined"], facts["patients"], facts["image_sets"], facts["images"],
            facts["missing_images"], facts["duplicates"]["rows"], facts["duplicates"]["ids"],
            facts["gold_under_two_letters"],
        )  # fmt: skip
        table.add_row(_short(name), *(f"{number:,}" for number in numbers))
    console.print(table)
    table = _table("file", "source", "family", "rows", texts=3)
    for name, facts in files.items():
        for family, rows in facts["by_family"].items():
            source, _, kind = family.partition(" ")
            table.add_row(_short(name), source, kind, f"{rows:,}")
    console.print(table)
    table = _table("file", "options", "rows")
    for name, facts in files.items():
        for options, rows in facts["by_options"].items():
            table.add_row(_short(name), "open" if options == "0" else options, f"{rows:,}")
    console.print(table)


def planned(plan: Mapping[str, Any]) -> None:
    """What a recipe's data set will hold."""
    console = Console()
    total = f" of at most {plan['total']:,} for training" if plan["total"] else ""
    console.print(f"[bold]{plan['rows']:,} rows[/] planned{total}, {plan['form']} form, no picture opened")
    table = _table("ability", "train", "dev", "test", "quota")
    for ability, counts in plan["by_ability"].items():
        quota = plan["quotas"].get(ability, "") if ability in plan["quotas"] else ""
        shown = "the rest" if quota is None else f"{quota:,}" if quota else ""
        table.add_row(ability, *(f"{number:,}" for number in counts.values()), shown)
    table.add_row("all", *(f"{number:,}" for number in plan["by_split"].values()), "", style="bold")
    console.print(table)
    columns = ("source", "ability", "family", "train", "dev", "test", "patients", "images")
    table = _table(*columns, texts=3)
    table.pad_edge, table.padding = False, (0, 1, 0, 0)  # so that the names have room in 80 columns
    for source in plan["sources"]:
        for kind in source["types"]:
            numbers = (f"{kind[key]:,}" for key in columns[3:])
            table.add_row(source["name"], kind["ability"], kind["family"], *numbers)
    console.print(table)
    for key, why in _DROPPED.items():
        kinds = [(kind["family"], kind[key]) for source in plan["sources"] for kind in source["types"] if kind[key]]
        if kinds:
            console.print(f"{why}: {', '.join(f'{n:,} {escape(family)}' for family, n in kinds)}", soft_wrap=True)
    table = _table("source", "studies", "patients", "images", "missing", "quarantined")
    for source in plan["sources"]:
        bad = sum(source["quarantined"].values())
        numbers = (source[key] for key in ("studies", "patients", "images", "missing_images"))
        table.add_row(source["name"], *(f"{number:,}" for number in numbers), f"{bad:,}")
    console.print(table)
    for source in plan["sources"]:
        for reason, rows in source["skipped"].items():
            console.print(f"{escape(source['name'])}: skipped {rows:,} rows: {escape(reason)}", soft_wrap=True)
        for reason, rows in source["quarantined"].items():
            text = f"[yellow]{escape(source['name'])}: quarantined {rows:,}[/] {escape(reason)}"
            console.print(text, soft_wrap=True)
        refused = [name for name, allowed in source["terms"].items() if allowed is False]
        forbids = ", ".join(refused).replace("_", " ") or "nothing"
        console.print(f"{escape(source['name'])} forbids: {forbids}", soft_wrap=True)
    _worded(console, plan["words"])
    if plan["stops"]:
        console.print(f"[red]the build would make no data set:[/] {escape('; '.join(plan['stops']))}", soft_wrap=True)


def audited(report: Mapping[str, Any], checks: Sequence[Mapping[str, Any]]) -> None:
    """What splits share, what of each benchmark part is clean, and every check with its limit.

    Args:
        report: Of the audit.
        checks: From `check.judged`.
    """
    from medmim.data.audit.check import figure, line

    console = Console()
    measures = ("patients", "image_sets", "images")
    leaks = [pair for pair in report["pairs"] if any(pair[key]["shared"] for key in measures)]
    console.print(f"{len(report['pairs']):,} pairs of splits compared, {len(leaks):,} of them share something")
    if leaks:
        table = _table("shared by", "and", "patients", "image sets", "images", texts=2)
        for pair in leaks:
            cells = [f"{pair[key]['shared']:,} of {pair[key]['second']:,}" for key in measures]
            table.add_row(_short(pair["first"]["file"]), _short(pair["second"]["file"]), *cells, style="red")
        console.print(table)
    table = _table("benchmark", "source", "rows", "patients", "clean rows", "clean patients", texts=2)
    for part in report["parts"]:
        if part["split"] == "test":
            for source, facts in [("all", part), *part["sources"].items()]:
                numbers = (facts[key] for key in ("rows", "patients", "clean_rows", "clean_patients"))
                table.add_row(_short(part["file"]), source, *(f"{number:,}" for number in numbers))
    console.print(table)
    table = _table("check", "found", "interval", "limit", "rows")
    for one in checks:
        low, high, limit = (figure(one[key], one["share"]) for key in ("low", "high", "limit"))
        interval = "" if one["low"] is None else f"{low} to {high}"
        style = "red" if one["crossed"] else ""
        table.add_row(one["name"], figure(one["value"], one["share"]), interval, limit, f"{one['rows']:,}", style=style)
    console.print(table)
    for one in checks:
        if one["crossed"] or one["note"]:
            console.print(escape(line(one)), style="red" if one["crossed"] else "", soft_wrap=True, highlight=False)


def rows(samples: Sequence[Sample], quarantine: Sequence[Mapping[str, Any]]) -> None:
    """The first rows of a data set, and of its quarantine."""
    console = Console()
    for sample in samples:
        head = f"{sample.split}, {sample.ability} / {sample.family}, {sample.source}, {len(sample.images)} images"
        console.print(f"\n[bold]{sample.id}[/] {escape(head)}")
        console.print(f"{escape(sample.prompt)}\n[green]{escape(sample.target)}[/]")
    for bad in quarantine:
        console.print(f"[yellow]quarantined[/] {escape(bad['file'])} row {bad['row']}: {escape(bad['reason'])}")


def _table(*columns: str, texts: int = 1) -> Table:
    """A plain table; the columns after the first `texts` are numbers and right-aligned."""
    table = Table(box=None)
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number < texts else "right")
    return table


def _short(file: str) -> str:
    """A published file's name without what all of them have in common."""
    for common in ("Med_MIM_", "benchmark_", "_inherent"):
        file = file.replace(common, "")
    return file.removesuffix(".json")
