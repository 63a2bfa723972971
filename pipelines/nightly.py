"""data -> rebench -> watch, and the trend page on every way out."""

from kfp import dsl

from components.data import data
from components.rebench import rebench
from components.trend import trend
from components.watch import watch
from pipelines.pod import in_pod


@dsl.pipeline(name="medmim-nightly", description="Bench the champion, its challengers and references again, and watch")
def nightly(recipe: str, home: str, run: str) -> None:
    """The graph of a night.

    Args:
        recipe: `Recipe.dump` of the run's recipe, under 50 KiB, or its URI in the store.
        home: Scratch folder of each step.
        run: Name of the run; steps leave their records under `STORE/runs/RUN`.
    """
    common = {"recipe": recipe, "home": home, "run": run}
    written = in_pod(trend(**common))
    with dsl.ExitHandler(written, name="run"):
        built = in_pod(data(**common))
        seen = in_pod(rebench(**common, data=built.output))
        in_pod(watch(**common, night=seen.output))
