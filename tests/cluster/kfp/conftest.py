"""A KFP server as `medmim submit` finds it, which is asked twenty times a second, and its API."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from medmim.cluster.kfp import client, follow
from tests.support.kfp_world import World, a_world


@pytest.fixture
def world(tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(follow, "POLL", 0.05)
    with a_world(tmp_path, f"{bucket}/store", monkeypatch) as found:
        yield found


@pytest.fixture
def api(world: World) -> client.Api:
    return client.connect(world.access)
