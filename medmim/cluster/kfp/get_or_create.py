"""Pipeline, version and experiment of a name: found, or made exactly once, whoever else is at it.

KFP answers 409 to the second of a name; the first is then as good as ours, for a version is named by its content.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

from medmim.cluster.kfp import client
from medmim.cluster.kfp.client import Api
from medmim.cluster.kfp.compiled import Ir
from medmim.cluster.kfp.errors import Refusal


def known_pipeline(api: Api, name: str) -> str | None:
    """Id of the pipeline of that name."""
    found = api.call(
        "listing pipelines", api.client.pipelines.pipeline_service_list_pipelines, namespace=api.namespace or None,
        filter=client.where(name=name),
    ).pipelines  # fmt: skip
    return str(found[0].pipeline_id) if found else None


def pipeline(api: Api, name: str) -> str:
    """Id of the pipeline of that name, made now if nobody has; without a version."""
    from kfp_server_api import V2beta1Pipeline

    body = V2beta1Pipeline(name=name, display_name=name, namespace=api.namespace or None)
    make = api.client.pipelines.pipeline_service_create_pipeline
    return _once(
        lambda: known_pipeline(api, name), lambda: str(api.call("making a pipeline", make, pipeline=body).pipeline_id)
    )[0]


def known_version(api: Api, pipeline: str, name: str) -> str | None:
    """Id of the pipeline's version of that name."""
    found = api.call(
        "listing pipeline versions", api.client.pipelines.pipeline_service_list_pipeline_versions,
        pipeline_id=pipeline, filter=client.where(name=name),
    ).pipeline_versions  # fmt: skip
    return str(found[0].pipeline_version_id) if found else None


def version(api: Api, pipeline: str, content: Ir) -> tuple[str, bool]:
    """Id of the version with this content, and whether we were the ones who uploaded it."""

    def upload() -> str:
        with tempfile.TemporaryDirectory(prefix="medmim-") as folder:
            path = Path(folder) / "pipeline.yaml"  # the server goes by the ending
            path.write_text(content.text)
            made = api.call(
                "uploading the pipeline", api.client.pipeline_uploads.upload_pipeline_version, uploadfile=str(path),
                name=content.digest, pipelineid=pipeline,
            )  # fmt: skip
        return str(made.pipeline_version_id)

    return _once(lambda: known_version(api, pipeline, content.digest), upload)


def experiment(api: Api, name: str) -> str:
    """Id of the experiment of that name, made now if nobody has."""
    from kfp_server_api import V2beta1Experiment

    def known() -> str | None:
        found = api.call(
            "listing experiments", api.client.experiments.experiment_service_list_experiments,
            namespace=api.namespace or None, filter=client.where(display_name=name),
        ).experiments  # fmt: skip
        return str(found[0].experiment_id) if found else None

    body = V2beta1Experiment(display_name=name, namespace=api.namespace or None)
    make = api.client.experiments.experiment_service_create_experiment
    return _once(known, lambda: str(api.call("making an experiment", make, experiment=body).experiment_id))[0]


def _once(known: Callable[[], str | None], make: Callable[[], str]) -> tuple[str, bool]:
    """The id, and whether it was made here; also where an answer was lost and the second try met the first."""
    there = known()
    if there is not None:
        return there, False
    try:
        return make(), True
    except Refusal as error:
        there = known() if error.status == 409 else None
        if there is None:
            raise
        return there, False
