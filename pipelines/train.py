"""data -> audit -> finetune -> bench -> register -> gate -> promote, and a report on every way out."""

from kfp import dsl

from components.audit import audit
from components.bench import bench
from components.data import data
from components.finetune import finetune
from components.gate import gate
from components.promote import promote
from components.register import register
from components.report import report
from pipelines.pod import in_pod


@dsl.pipeline(name="medmim-train", description="Build, audit, fine-tune, bench, register and promote a medical LVLM")
def train(recipe: str, home: str, run: str) -> None:
    """The graph of a training run.

    Args:
        recipe: `Recipe.dump` of the run's recipe, under 50 KiB, or its URI in the store.
        home: Scratch folder of each step.
        run: Name of the run; steps leave their records under `STORE/runs/RUN`.
    """
    common = {"recipe": recipe, "home": home, "run": run}
    written = in_pod(report(**common))
    with dsl.ExitHandler(written, name="run"):
        built = in_pod(data(**common))
        audited = in_pod(audit(**common, data=built.output))
        tuned = in_pod(finetune(**common, data=built.output).after(audited))
        scored = in_pod(bench(**common, data=built.output, model=tuned.output))
        version = in_pod(register(**common, data=built.output, model=tuned.output, bench=scored.output))
        decided = in_pod(gate(**common, bench=scored.output).after(version))
        in_pod(promote(**common, version=version.output, decision=decided.output))
