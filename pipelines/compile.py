"""Compile the graphs, and each step as one of its own, into medmim/shipped/pipelines.

`--check` fails when a file is stale.

python -m pipelines.compile [--check]
"""

import sys
import tempfile
from importlib import import_module
from pathlib import Path

from kfp import compiler

from pipelines.bench import compare
from pipelines.nightly import nightly
from pipelines.promote import promote
from pipelines.step import one_step
from pipelines.train import train

GOAL = Path(__file__).parent.parent / "medmim" / "shipped" / "pipelines"
STEPS = (
    "data", "audit", "finetune", "bench", "register", "gate", "promote", "report",
    "rebench", "watch", "trend", "approve",
)  # fmt: skip


def write(folder: Path) -> None:
    """Write every IR file into a folder."""
    compiler.Compiler().compile(train, str(folder / "train.yaml"))
    compiler.Compiler().compile(compare, str(folder / "bench.yaml"))
    compiler.Compiler().compile(nightly, str(folder / "nightly.yaml"))
    compiler.Compiler().compile(promote, str(folder / "promote.yaml"))
    for name in STEPS:
        step = getattr(import_module(f"components.{name}"), name)
        compiler.Compiler().compile(one_step(step), str(folder / f"step-{name}.yaml"))


def stale() -> list[str]:
    """Names of the checked-in files that differ from what the sources compile to."""
    with tempfile.TemporaryDirectory() as name:
        write(Path(name))
        fresh = {path.name: path.read_text(encoding="utf-8") for path in Path(name).iterdir()}
    kept = {path.name: path.read_text(encoding="utf-8") for path in GOAL.glob("*.yaml")}
    return sorted(n for n in fresh.keys() | kept.keys() if fresh.get(n) != kept.get(n))


if __name__ == "__main__":
    if "--check" not in sys.argv:
        write(GOAL)
    elif names := stale():
        sys.exit(f"error: stale IR in {GOAL.name}: {', '.join(names)}\nfix: make compile, then commit the result")
