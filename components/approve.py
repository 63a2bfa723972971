"""approve: make a version champion by a person's decision, in KFP's web pages."""

from kfp import dsl

from components.image import CPU


@dsl.component(base_image=CPU, install_kfp_package=False)
def approve(home: str, name: str, version: str, why: str, who: str) -> str:
    """Promote as `medmim registry promote` does; exits 2 where that refuses it.

    Args:
        home: Scratch folder.
        name: The registered model: NAME-candidate where it awaits approval.
        version: The version's number there.
        why: The reason; it stays in the decision log.
        who: Your name, since KFP tells a run nobody's; the log says that it was typed.

    Returns:
        The number of the entry in the decision log.
    """
    from medmim.registry import promote
    from medmim.run.person import person
    from medmim.run.stage import acting

    with acting("approve", home) as workspace:
        return str(promote.promote(workspace, name, version, why, f"{person(who)} (typed in KFP)").n)
