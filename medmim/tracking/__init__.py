"""MLflow as the tracking server and the model registry.

Its client opens a database by itself, with SQLAlchemy: what goes wrong there becomes one message, too.
"""

from medmim.tracking.address import is_database_server
from medmim.tracking.errors import answering
from medmim.tracking.mlflow_client import (
    Registered,
    Version,
    check,
    check_sqlite,
    client,
    experiment,
    new_experiment,
    registered,
)
from medmim.tracking.rights import has_users, refuse_shared, why_shared

__all__ = [
    "Registered", "Version", "answering", "check", "check_sqlite", "client", "experiment", "has_users",
    "is_database_server", "new_experiment", "refuse_shared", "registered", "why_shared",
]  # fmt: skip
