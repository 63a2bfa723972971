"""Where a run reads and writes: its home, the artifact store, MLflow's tracking URI."""

import os
from dataclasses import dataclass
from pathlib import Path

from medmim import store
from medmim.errors import from_os_error
from medmim.recipe.schema import Recipe


@dataclass(frozen=True)
class Workspace:
    """Where a run reads and writes.

    Attributes:
        home: Local folder for everything that is no artifact; nothing is written outside it.
        store: URI of the artifact store.
        tracking: MLflow tracking URI.
        run: Names `STORE/runs/RUN`, where each stage writes its record; empty outside a run.
    """

    home: Path
    store: str
    tracking: str
    run: str = ""

    @property
    def cache(self) -> Path:
        """Local copies of artifacts that lie in S3."""
        return self.home / "cache"

    def fetch(self, uri: str) -> Path:
        """Local folder of a published artifact."""
        return store.fetch(store.get(uri), self.cache)


def workspace(home: Path | None, recipe: Recipe | None = None, run: str = "") -> Workspace:
    """Resolve home, store and tracking: recipe first, then environment, then embedded defaults."""
    place = (home or Path(os.environ.get("MEDMIM_HOME", ".medmim"))).expanduser().absolute()
    platform = recipe.platform if recipe else None
    uri = (platform and platform.store) or os.environ.get("MEDMIM_STORE") or str(place / "store")
    tracking = (
        (platform and platform.tracking) or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{place / 'mlflow.db'}"
    )
    address = store.open_store(uri).uri  # first: a store that is refused must leave no home behind
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise from_os_error(error, "creating the home") from error
    return Workspace(place, address, tracking, run)
