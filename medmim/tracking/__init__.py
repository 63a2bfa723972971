"""MLflow as the tracking server and the model registry.

Its client opens a database by itself, with SQLAlchemy: what goes wrong there becomes one message, too.
"""

from medmim.tracking.address import is_database_server
from medmim.tracking.errors import answering
from medmim.tracking.mlflow_client import (
    Registered,
    Version,
    aliases,
    check,
    check_sqlite,
    client,
    experiment,
    get,
    new_experiment,
    page_of_models,
    page_of_versions,
    registered,
    tagged,
)
from medmim.tracking.rights import has_users, refuse_shared, why_shared

__all__ = [
    "Registered", "Version", "aliases", "answering", "check", "check_sqlite", "client", "experiment", "get",
    "has_users", "is_database_server", "new_experiment", "page_of_models", "page_of_versions", "refuse_shared",
    "registered", "tagged", "why_shared",
]  # fmt: skip
