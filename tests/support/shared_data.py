"""Real data that is never committed: beside the repository, or in the folder MEDMIM_SHARED_DATA."""

import os
from pathlib import Path

import pytest

FOLDER = Path(os.environ.get("MEDMIM_SHARED_DATA") or Path(__file__).parents[3] / "shared" / "data")


def needs(name: str) -> pytest.MarkDecorator:
    """Skip a test where a data set is missing."""
    return pytest.mark.skipif(not (FOLDER / name).is_dir(), reason=f"no {name} (set MEDMIM_SHARED_DATA)")
