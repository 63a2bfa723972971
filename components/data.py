"""data: the recipe's source -> a published data set."""

from kfp import dsl

from components.image import CPU


@dsl.component(base_image=CPU, install_kfp_package=False)
def data(recipe: str, home: str, run: str) -> str:
    """Build the data set.

    Args:
        recipe: The run's recipe as JSON, or its URI in the store.
        home: Scratch folder.
        run: Name of the run.

    Returns:
        Store URI of the data set.
    """
    from medmim.cluster import dispatch
    from medmim.run.stage import component

    with component("data", recipe, home, run) as (parsed, workspace):
        return dispatch.data_set(parsed, workspace).uri
