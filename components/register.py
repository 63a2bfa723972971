"""register: make the tuned model an MLflow model version, with its lineage."""

from kfp import dsl

from components.image import CPU


@dsl.component(base_image=CPU, install_kfp_package=False)
def register(recipe: str, home: str, run: str, data: str, model: str, bench: str) -> str:
    """Register the tuned model; the same model twice is one version.

    Args:
        recipe: The run's recipe as JSON, or its URI in the store.
        home: Scratch folder.
        run: Name of the run.
        data: Store URI of the data set.
        model: Store URI of the tuned model.
        bench: Store URI of the scores.

    Returns:
        The model version.
    """
    from medmim.registry import register
    from medmim.run.stage import component

    with component("register", recipe, home, run) as (parsed, workspace):
        return str(register.run(parsed, workspace, data, model, bench).facts["version"])
