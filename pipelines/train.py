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


@dsl.pipeline(name="medmim-train", description="Build, audit, fine-tune, bench, register and promote a medical LVLM")
def train(recipe: str, home: str, run: str) -> None:
    """The graph of a training run.

    Args:
        recipe: `Recipe.dump` of the run's recipe, under 50 KiB.
        home: Scratch folder of each step.
        run: Name of the run; steps leave their records under `STORE/runs/RUN`.
    """
    common = {"recipe": recipe, "home": home, "run": run}
    written = report(**common).set_caching_options(False)
    with dsl.ExitHandler(written, name="run"):
        built = data(**common).set_caching_options(False)
        audited = audit(**common, data=built.output).set_caching_options(False)
        tuned = finetune(**common, data=built.output).after(audited).set_caching_options(False)
        scored = bench(**common, data=built.output, model=tuned.output).set_caching_options(False)
        version = register(**common, data=built.output, model=tuned.output, bench=scored.output)
        version.set_caching_options(False)
        decided = gate(**common, bench=scored.output).after(version).set_caching_options(False)
        promote(**common, version=version.output, decision=decided.output).set_caching_options(False)
