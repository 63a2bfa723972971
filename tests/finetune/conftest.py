"""The bases that the tests of this folder share."""

import pytest

from medmim.lvlm import saving
from medmim.lvlm.checkpoint import FAMILIES
from medmim.lvlm.family import Family
from medmim.lvlm.llava import Lvlm
from tests.support.finetune import make_lvlm
from tests.support.finetune_run import bare, far, world  # noqa: F401


@pytest.fixture(scope="session", params=FAMILIES, ids=lambda family: str(family.name))
def family(request: pytest.FixtureRequest) -> Family:
    """Each family in turn."""
    found: Family = request.param
    return found


@pytest.fixture(scope="session")
def lvlm(family: Family, tmp_path_factory: pytest.TempPathFactory) -> Lvlm:
    """Saved, and shared: tests that train it take `copy_of(lvlm)`."""
    return saving.save(make_lvlm(family), tmp_path_factory.mktemp("base"))
