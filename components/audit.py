"""audit: which patients and images train and benchmark share; a leak ends the run."""

from kfp import dsl

from components.image import CPU


@dsl.component(base_image=CPU, install_kfp_package=False)
def audit(recipe: str, home: str, run: str, data: str) -> str:
    """Audit the data set for leaks; exits 1 where train and benchmark share more than the recipe allows.

    Args:
        recipe: The run's recipe as JSON, or its URI in the store.
        home: Scratch folder.
        run: Name of the run.
        data: Store URI of the data set.

    Returns:
        Store URI of the audit.
    """
    import medmim.data.audit.run
    from medmim.run.stage import component

    with component("audit", recipe, home, run) as (parsed, workspace):
        return medmim.data.audit.run.run(parsed, workspace, data).uri
