"""Pipeline, version and experiment by name: found, or made exactly once, also where several processes try at once.

KFP answers 409 to the second of a name; the first serves as well, since a version is named by its content.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

from medmim.cluster.kfp import client
from medmim.cluster.kfp.client import Api
from medmim.cluster.kfp.compiled import Ir
from medmim.cluster.kfp.errors import Refusal


def find_pipeline(api: Api, name: str) -> str | None:
    """Id of the pipeline of that name; None where there is none."""
    listed = api.call(
        "listing pipelines",
        api.client.pipelines.pipeline_service_list_pipelines,
        namespace=api.namespace or None,
        filter=client.where(name=name),
    ).pipelines
    return str(listed[0].pipeline_id) if listed else None


def pipeline(api: Api, name: str) -> str:
    """Id of the pipeline of that name, made now if it does not exist; without a version."""
    from kfp_server_api import V2beta1Pipeline

    body = V2beta1Pipeline(name=name, display_name=name, namespace=api.namespace or None)
    make = api.client.pipelines.pipeline_service_create_pipeline

    def create() -> str:
        return str(api.call("making a pipeline", make, pipeline=body).pipeline_id)

    return _get_or_create(lambda: find_pipeline(api, name), create)[0]


def find_version(api: Api, pipeline: str, name: str) -> str | None:
    """Id of the pipeline's version of that name; None where there is none."""
    listed = api.call(
        "listing pipeline versions",
        api.client.pipelines.pipeline_service_list_pipeline_versions,
        pipeline_id=pipeline,
        filter=client.where(name=name),
    ).pipeline_versions
    return str(listed[0].pipeline_version_id) if listed else None


def version(api: Api, pipeline: str, content: Ir) -> tuple[str, bool]:
    """Id of the version with this content, and whether it was uploaded now."""

    def upload() -> str:
        with tempfile.TemporaryDirectory(prefix="medmim-") as folder:
            path = Path(folder) / "pipeline.yaml"  # the server tells formats by the file's ending
            path.write_text(content.text, encoding="utf-8")
            made = api.call(
                "uploading the pipeline",
                api.client.pipeline_uploads.upload_pipeline_version,
                uploadfile=str(path),
                name=content.digest,
                pipelineid=pipeline,
            )
        return str(made.pipeline_version_id)

    return _get_or_create(lambda: find_version(api, pipeline, content.digest), upload)


def experiment(api: Api, name: str) -> str:
    """Id of the experiment of that name, made now if it does not exist."""
    from kfp_server_api import V2beta1Experiment

    def find() -> str | None:
        listed = api.call(
            "listing experiments",
            api.client.experiments.experiment_service_list_experiments,
            namespace=api.namespace or None,
            filter=client.where(display_name=name),
        ).experiments
        return str(listed[0].experiment_id) if listed else None

    body = V2beta1Experiment(display_name=name, namespace=api.namespace or None)
    make = api.client.experiments.experiment_service_create_experiment

    def create() -> str:
        return str(api.call("making an experiment", make, experiment=body).experiment_id)

    return _get_or_create(find, create)[0]


def _get_or_create(find: Callable[[], str | None], create: Callable[[], str]) -> tuple[str, bool]:
    """The id, and whether it was made here; also where an answer was lost and the second try met the first."""
    existing = find()
    if existing is not None:
        return existing, False
    try:
        return create(), True
    except Refusal as error:
        existing = find() if error.status == 409 else None
        if existing is None:
            raise
        return existing, False
