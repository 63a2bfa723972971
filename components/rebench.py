"""rebench: champion, challengers and references answer the benchmark, and a canary of it anew."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def rebench(recipe: str, home: str, run: str, data: str) -> str:
    """Bench everybody who is watched.

    Args:
        recipe: The run's recipe as JSON, or its URI in the store.
        home: Scratch folder.
        run: Name of the run.
        data: Store URI of the data set.

    Returns:
        Store URI of what the night saw.
    """
    from medmim import steps
    from medmim.cluster import elsewhere
    from medmim.nightly import asked
    from medmim.nightly import rebench as room

    with steps.component("rebench", recipe, home, run) as (parsed, workspace):
        models = asked.asked(parsed, workspace)
        if elsewhere.is_elsewhere(parsed):
            there = asked.shared(models, workspace)
            return elsewhere.run(parsed, workspace, "rebench", {"data": data, "models": there})
        return room.run(parsed, workspace, data, models).uri
