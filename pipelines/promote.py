"""approve alone: how people promote in KFP's web pages, in a namespace where only they may start runs."""

from kfp import dsl

from components.approve import approve
from medmim.recipe import names
from pipelines.pod import in_pod


@dsl.pipeline(name="medmim-promote", description="Make a registered version champion, by your decision")
def promote(name: str, version: str, why: str, who: str) -> None:
    """The graph of a promotion. Its account is medmim-promoter.

    Args:
        name: The registered model: NAME-candidate where it awaits approval.
        version: The version's number there.
        why: The reason; it stays in the decision log.
        who: Your name.
    """
    in_pod(approve(home=f"{names.HOME}/.medmim", name=name, version=version, why=why, who=who))
