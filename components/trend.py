"""trend: the nights as one page, however the night ended."""

from kfp import dsl

from components.image import CPU


@dsl.component(base_image=CPU, install_kfp_package=False)
def trend(recipe: str, home: str, run: str, page: dsl.Output[dsl.HTML]) -> None:
    """Write the trend page.

    Args:
        recipe: The run's recipe as JSON, or its URI in the store.
        home: Scratch folder.
        run: Name of the run.
        page: The page, for KFP's user interface.
    """
    import shutil

    from medmim.nightly import trend
    from medmim.run.stage import component

    with component("trend", recipe, home, run) as (parsed, workspace):
        shutil.copyfile(trend.run(parsed, workspace).facts["path"], page.path)
