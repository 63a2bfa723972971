"""`provenance.json`: who made an artifact, from what and when; beside the artifact, never in its digest."""

import getpass
import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from medmim import __version__
from medmim.recipe.schema import Recipe


def provenance(name: str, revision: int, parents: Mapping[str, str], recipe: Recipe | None) -> dict[str, Any]:
    """The content of `provenance.json` for an artifact of this step."""
    return {
        "step": name,
        "revision": revision,
        "parents": dict(parents),
        "recipe": json.loads(recipe.dump()) if recipe else None,
        "medmim": __version__,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "who": current_user(),
    }


def current_user() -> str:
    """MEDMIM_USER, or the user of this process."""
    try:
        return os.environ.get("MEDMIM_USER") or getpass.getuser()
    except (KeyError, OSError):  # a container's user need not have a name
        return f"uid {os.getuid()}"
