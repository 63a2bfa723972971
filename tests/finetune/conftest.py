"""The bases, and the run of two workers, that the tests of this folder share."""

from pathlib import Path
from typing import Any

import pytest

from medmim.lvlm import saving
from medmim.lvlm.checkpoint import FAMILIES
from medmim.lvlm.family import Family
from medmim.lvlm.llava import Lvlm
from tests.support.finetune import make_job, make_lvlm
from tests.support.two_workers import SHORT, run


@pytest.fixture(scope="session", params=FAMILIES, ids=lambda family: str(family.name))
def family(request: pytest.FixtureRequest) -> Family:
    """Each family in turn."""
    found: Family = request.param
    return found


@pytest.fixture(scope="session")
def lvlm(family: Family, tmp_path_factory: pytest.TempPathFactory) -> Lvlm:
    """Saved, and shared: tests that train it take `copy_of(lvlm)`."""
    return saving.save(make_lvlm(family), tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """The folder and what each of two workers has seen, by family; see `two_workers.main`."""
    root = tmp_path_factory.mktemp("two")
    for family in FAMILIES:
        (root / family.name).mkdir()
    return root, run(root, {family.name: make_job(root / family.name, family, SHORT, dev=True) for family in FAMILIES})
