"""Real data that is never committed: found beside the repository, or where MEDMIM_SHARED_DATA says."""

import os
from pathlib import Path

import pytest

FOLDER = Path(os.environ.get("MEDMIM_SHARED_DATA") or Path(__file__).parents[3] / "shared" / "data")


def needs(name: str) -> pytest.MarkDecorator:
    """Skip a test where a data set is not there."""
    return pytest.mark.skipif(not (FOLDER / name).is_dir(), reason=f"no {name} (set MEDMIM_SHARED_DATA)")
