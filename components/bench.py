"""bench: the tuned model, its base, the champion and further models answer the same benchmark."""

from kfp import dsl

from components.image import CUDA


@dsl.component(base_image=CUDA, install_kfp_package=False)
def bench(recipe: str, home: str, run: str, data: str, model: str) -> str:
    """Bench the tuned model and its opponents.

    Args:
        recipe: The run's recipe as JSON, or its URI in the store.
        home: Scratch folder.
        run: Name of the run.
        data: Store URI of the data set.
        model: Store URI of the tuned model; empty where none is, and bench.models of the recipe are asked alone.

    Returns:
        Store URI of the scores.
    """
    import medmim.bench.run
    from medmim.cluster import dispatch
    from medmim.registry import lookup
    from medmim.run.stage import component

    with component("bench", recipe, home, run) as (parsed, workspace):
        opponents = lookup.opponents(parsed, workspace, model)
        if dispatch.is_remote(parsed):
            return dispatch.run(parsed, workspace, "bench", {"data": data, "model": model, "opponents": opponents})
        return medmim.bench.run.run(parsed, workspace, data, model, opponents).uri
