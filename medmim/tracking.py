"""MLflow set-up and lineage: one client, quiet, on SQLite in the home or on a server."""

import logging
import os
from functools import lru_cache
from typing import TYPE_CHECKING

from medmim.errors import Unavailable
from medmim.steps import Workspace

if TYPE_CHECKING:
    from mlflow import MlflowClient


@lru_cache(maxsize=4)
def client(ws: Workspace) -> "MlflowClient":
    """The client of this workspace; creates the embedded database on first use.

    Raises:
        Unavailable: The server does not answer.
    """
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.ERROR)
    import mlflow
    from mlflow.exceptions import MlflowException

    mlflow.set_tracking_uri(ws.tracking)
    mlflow.set_registry_uri(ws.tracking)
    made = mlflow.MlflowClient(ws.tracking, ws.tracking)
    try:
        made.search_registered_models(max_results=1)
    except MlflowException as error:
        raise Unavailable(
            f"MLflow at {ws.tracking} does not answer",
            reason=str(error).split("\n", 1)[0],
            fix="check MLFLOW_TRACKING_URI or platform.tracking, then run the same command",
        ) from None
    return made
