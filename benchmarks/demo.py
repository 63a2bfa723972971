"""Runs `medmim run demo` twice: time by stage, overhead outside of stages, peak memory of the process tree.

    python benchmarks/demo.py [--recipe demo] [--home DIR]

Limits of the project: first run under 10 minutes on 2 cores, under 4 GB summed PSS, under 25% overhead
(1 - summed in-stage seconds / wall); second run under 20 s.
"""

import argparse
import json
import sys
import tempfile
from typing import Any

from process_memory import peak_of
from rich.console import Console
from rich.table import Table


def measure(recipe: str, home: str) -> tuple[dict[str, Any], float, int]:
    """Run a recipe; returns its summary, wall seconds and peak bytes."""
    out, seconds, peak = peak_of([sys.executable, "-m", "medmim.cli.main", "run", recipe, "--home", home, "--json"])
    return json.loads(out.strip().splitlines()[-1]), seconds, peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="demo")
    parser.add_argument("--home", default=None)
    given = parser.parse_args()
    home = given.home or tempfile.mkdtemp(prefix="medmim-bench-")
    first, wall, peak = measure(given.recipe, home)
    again, wall_again, peak_again = measure(given.recipe, home)
    work, work_again = sum(first["seconds"].values()), sum(again["seconds"].values())
    table = Table("", "first run", "second run", "limit", box=None)
    for stage, seconds in first["seconds"].items():
        table.add_row(stage, f"{seconds:.1f} s", f"{again['seconds'].get(stage, 0):.1f} s", "")
    table.add_row("wall", f"{wall:.1f} s", f"{wall_again:.1f} s", "600 s, 20 s")
    table.add_row("overhead", f"{1 - work / wall:.0%}", f"{1 - work_again / wall_again:.0%}", "25%, -")
    table.add_row("peak PSS", f"{peak / 1e9:.2f} GB", f"{peak_again / 1e9:.2f} GB", "4 GB")
    table.add_row("decision", str(first["decision"]), str(again["decision"]), "")
    Console().print(table)
    if wall > 600 or wall_again > 20 or peak > 4e9:
        sys.exit(1)


if __name__ == "__main__":
    main()
