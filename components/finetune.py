"""finetune: train a base on the train split -> a tuned model."""

from kfp import dsl

from components.image import CUDA


@dsl.component(base_image=CUDA, install_kfp_package=False)
def finetune(recipe: str, home: str, run: str, data: str) -> str:
    """Fine-tune the base on the train split.

    Args:
        recipe: The run's recipe as JSON, or its URI in the store.
        home: Scratch folder.
        run: Name of the run.
        data: Store URI of the data set.

    Returns:
        Store URI of the tuned model.
    """
    from contextlib import suppress

    import medmim.finetune.run
    from medmim import tracking
    from medmim.cluster import dispatch
    from medmim.errors import Unavailable, within
    from medmim.lvlm import checkpoint
    from medmim.registry import lookup
    from medmim.run.stage import component

    with component("finetune", recipe, home, run) as (parsed, workspace):
        # register waits for an MLflow that is away; what it refuses, it would refuse after the training
        with suppress(Unavailable), within(20):
            tracking.check(workspace)
        base = lookup.resolve(parsed.finetune.base, workspace)
        if dispatch.is_remote(parsed):
            uploaded = checkpoint.upload_if_local(base, workspace)
            return dispatch.run(parsed, workspace, "finetune", {"data": data, "base": uploaded})
        return medmim.finetune.run.run(parsed, workspace, data, base).uri
