"""promote: write the decision log and set MLflow's aliases; a refusal ends the run."""

from kfp import dsl

from components.image import CPU


@dsl.component(base_image=CPU, install_kfp_package=False)
def promote(recipe: str, home: str, run: str, version: str, decision: str) -> str:
    """Write the decision log and set the aliases; exits 1 on a refusal, after it is written.

    Args:
        recipe: The run's recipe as JSON, or its URI in the store.
        home: Scratch folder.
        run: Name of the run.
        version: The candidate's model version.
        decision: Store URI of the decision.

    Returns:
        `promoted`, `kept` or `awaiting approval`.
    """
    from medmim.registry import promote
    from medmim.run.stage import component

    with component("promote", recipe, home, run) as (parsed, workspace):
        return str(promote.run(parsed, workspace, version, decision).facts["decision"])
