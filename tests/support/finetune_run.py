"""For tests of the stage `finetune`: a workspace with data and a base, on this machine or on S3, and its recipe."""

from pathlib import Path

import pytest

from medmim import shards, store
from medmim.finetune import record
from medmim.finetune.ray import launcher
from medmim.finetune.worker import Job, run_worker
from medmim.lvlm.llava import Lvlm
from medmim.lvlm.mantis import MANTIS
from medmim.recipe.loading import validate
from medmim.recipe.schema import Recipe
from medmim.run.workspace import Workspace, workspace
from tests.support.finetune import make_data, make_samples
from tests.support.s3_proxy import Proxy

# what is planned, fetched, refused and found again knows no family, and a plan takes its time
of_one_family = pytest.mark.parametrize("family", [MANTIS], indirect=True)


FINETUNE = {"batch_size": 8, "steps": 3, "max_tokens": 400, "lr": 1e-3, "freeze_vision": False}


@pytest.fixture(scope="module")
def world(lvlm: Lvlm, tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, str, str]:
    """A workspace, the URI of a data set and the folder of a base."""
    root = tmp_path_factory.mktemp("run")
    make_data(root / "data", make_samples(30) + make_samples(5, "test"))
    ws = workspace(root / "home")
    data = store.publish(root / "data", ws.store, "data", {}, {})
    return ws, data.uri, str(lvlm.path)


def recipe(base: str, **changes: object) -> Recipe:
    settings = {**FINETUNE, "base": base, **changes}
    platform = {"threads": 1}  # two wait for each other where several tests share two cores
    return validate({"name": "t", "data": {"source": "phantom"}, "finetune": settings, "platform": platform}, "test")


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """Train in this process; the tests in `ray/` show that Ray computes the same."""
    jobs: list[Job] = []

    def launch(job: Job, *_: object) -> record.TrainResult:
        jobs.append(job)
        return run_worker(job)

    monkeypatch.setattr(launcher, "launch", launch)
    return jobs


PIXELS = 500_000  # bytes of an image


@pytest.fixture
def far(
    world: tuple[Workspace, str, str], bucket: str, proxy: Proxy, tmp_path: Path
) -> tuple[Workspace, store.Artifact, store.Artifact]:
    """A workspace on S3, and there the same data set and base, but with images of `PIXELS`; nothing is copied yet."""
    images = [(f"i{i}", f"i{i}.png", bytes([i]) * PIXELS) for i in range(10)]
    shards.write(tmp_path / "data", make_samples(30) + make_samples(5, "test"), images)
    data = store.publish(tmp_path / "data", bucket, "data", {}, {})
    base = store.publish(Path(world[2]), bucket, "model", {}, {})
    return workspace(tmp_path / "home", on_s3(base.uri, bucket)), data, base


def on_s3(base: str, bucket: str, ray: str = "local") -> Recipe:
    made = recipe(base)
    return made.model_copy(update={"platform": made.platform.model_copy(update={"store": bucket, "ray": ray})})


def check_reads(proxy: Proxy, data: store.Artifact, base: store.Artifact) -> None:
    """No weights were read, and of the images no more than the end of their file, of 64 KiB, and their ids."""
    small = [*data.files.items(), *base.files.items()]
    allowed = sum(facts["bytes"] for name, facts in small if not name.endswith("safetensors") and "images" not in name)
    assert not [name for name in proxy.names() if name.endswith("safetensors")]
    images = [sent for name, _, sent in proxy.reads if "/images/" in name]
    assert 0 < sum(images) < 80_000 < PIXELS
    # its config and its terms are read once more, to find out what it is
    assert proxy.bytes - sum(images) < allowed + 10_000
