"""watch: tonight beside the last nights; a drop or a drift ends the run."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def watch(recipe: str, home: str, run: str, night: str) -> str:
    """Compare, record and tell MLflow; exits 1 on an alarm, after it is written.

    Args:
        recipe: The run's recipe as JSON, or its URI in the store.
        home: Scratch folder.
        run: Name of the run.
        night: Store URI of what the night saw.

    Returns:
        The night that is recorded.
    """
    from medmim.nightly import watch as room
    from medmim.run.stage import component

    with component("watch", recipe, home, run) as (parsed, workspace):
        return str(room.run(parsed, workspace, night).facts["date"])
