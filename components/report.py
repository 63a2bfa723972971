"""report: what the run did, as one page, however the run ended."""

from kfp import dsl

from components.image import CPU


@dsl.component(base_image=CPU, install_kfp_package=False)
def report(recipe: str, home: str, run: str, page: dsl.Output[dsl.HTML]) -> None:
    """Write the report.

    Args:
        recipe: The run's recipe as JSON, or its URI in the store.
        home: Scratch folder.
        run: Name of the run.
        page: The report, for KFP's user interface.
    """
    import shutil

    from medmim.bench.page import report
    from medmim.run.stage import component

    with component("report", recipe, home, run) as (parsed, workspace):
        facts = report.run(parsed, workspace).facts
        # of a run that tunes nothing, its result is the page of the models, where there is one
        shown = facts.get("models", facts) if parsed.pipeline == "bench" else facts
        shutil.copyfile(shown["path"], page.path)
