"""gate: decide by policy and scores whether the candidate may become champion, with reasons."""

from kfp import dsl

from components.image import CPU


@dsl.component(base_image=CPU, install_kfp_package=False)
def gate(recipe: str, home: str, run: str, bench: str) -> str:
    """Decide whether the candidate may become champion.

    Args:
        recipe: The run's recipe as JSON, or its URI in the store.
        home: Scratch folder.
        run: Name of the run.
        bench: Store URI of the scores.

    Returns:
        Store URI of the decision.
    """
    from medmim.registry import gate
    from medmim.run.stage import component

    with component("gate", recipe, home, run) as (parsed, workspace):
        return gate.run(parsed, workspace, bench).uri
