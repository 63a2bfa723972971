"""data -> audit -> bench of the models that the recipe names, and a report on every way out."""

from kfp import dsl

from components.audit import audit
from components.bench import bench
from components.data import data
from components.report import report
from pipelines.pod import in_pod


@dsl.pipeline(name="medmim-bench", description="Build and audit a data set, ask several LVLMs, compare them")
def compare(recipe: str, home: str, run: str) -> None:
    """The graph of a run that trains nothing.

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
        in_pod(bench(**common, data=built.output, model="").after(audited))
