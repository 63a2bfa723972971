"""The base that the tests of this folder share."""

import pytest

from medmim.lvlm.checkpoint import Lvlm
from tests.support.finetune import make_lvlm


@pytest.fixture(scope="session")
def lvlm() -> Lvlm:
    """Shared: tests that train it take `copy_of(lvlm)`."""
    return make_lvlm()
