"""The base that the tests of this room share."""

import pytest
from finetune_world import make_lvlm

from medmim.lvlm.zoo import Lvlm


@pytest.fixture(scope="session")
def lvlm() -> Lvlm:
    """Shared: tests that train it take `copy_of(lvlm)`."""
    return make_lvlm()
