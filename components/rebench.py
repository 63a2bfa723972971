"""rebench: champion, challengers and references answer the benchmark, and a canary of it anew."""

from kfp import dsl

from components.image import CUDA


@dsl.component(base_image=CUDA, install_kfp_package=False)
def rebench(recipe: str, home: str, run: str, data: str) -> str:
    """Bench the night's models.

    Args:
        recipe: The run's recipe as JSON, or its URI in the store.
        home: Scratch folder.
        run: Name of the run.
        data: Store URI of the data set.

    Returns:
        Store URI of the night's results.
    """
    from medmim.cluster import dispatch
    from medmim.nightly import rebench, roster
    from medmim.run.stage import component

    with component("rebench", recipe, home, run) as (parsed, workspace):
        models = roster.models(parsed, workspace)
        if dispatch.is_remote(parsed):
            uploaded = roster.upload_local(models, workspace)
            return dispatch.run(parsed, workspace, "rebench", {"data": data, "models": uploaded})
        return rebench.run(parsed, workspace, data, models).uri
