"""watch: compare tonight with the last nights; a regression or a drift ends the run."""

from kfp import dsl

from components.image import CPU


@dsl.component(base_image=CPU, install_kfp_package=False)
def watch(recipe: str, home: str, run: str, night: str) -> str:
    """Compare, record and log to MLflow; exits 1 on an alarm, after it is written.

    Args:
        recipe: The run's recipe as JSON, or its URI in the store.
        home: Scratch folder.
        run: Name of the run.
        night: Store URI of the night's results.

    Returns:
        Date of the night that is recorded.
    """
    from medmim.nightly import watch
    from medmim.run.stage import component

    with component("watch", recipe, home, run) as (parsed, workspace):
        return str(watch.run(parsed, workspace, night).facts["date"])
