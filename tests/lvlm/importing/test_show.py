"""What a base is, of one in a bucket too, and that its weights are not downloaded for it."""

import os
from pathlib import Path

import pytest

from medmim import store
from medmim.errors import UserError
from medmim.lvlm import saving
from medmim.lvlm.family import Family
from medmim.lvlm.importing.show import describe
from medmim.lvlm.llava_med import LLAVA_MED
from medmim.lvlm.mantis import MANTIS
from medmim.run.workspace import Workspace
from medmim.store.s3 import connect
from tests.support.finetune import make_lvlm
from tests.support.s3_proxy import counting


@pytest.mark.parametrize("family", [MANTIS, LLAVA_MED], ids=lambda family: str(family.name))
def test_a_base_in_a_bucket_is_described_as_the_model_that_it_loads_as_and_not_downloaded(
    family: Family, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lvlm = saving.save(make_lvlm(family), tmp_path / "base")
    (tmp_path / "base" / "README.md").write_text("decides no answer")
    uri = store.publish(tmp_path / "base", bucket, "model", {}, {"source": "there"}).uri
    of_uri = uri.rpartition("/")[2]
    ws = Workspace(tmp_path / "home", bucket, "")
    with counting(os.environ["AWS_ENDPOINT_URL"]) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        connect.cache_clear()
        found = describe(uri, ws)
    assert found["parameters"] == lvlm.model.num_parameters() and found["dtype"] == "F32"
    assert (found["family"], found["digest"], found["source"]) == (family.name, lvlm.digest, "there")
    weights = (tmp_path / "base" / "model.safetensors").stat().st_size
    assert 0 < proxy.bytes < weights / 2, "the weights were downloaded"
    assert not ws.cache.exists()
    assert found["artifact_digest"] == of_uri != lvlm.digest
    of_folder = {"ref": str(tmp_path / "base"), "source": "", "artifact_digest": ""}
    assert describe(str(tmp_path / "base"), ws) == {**found, **of_folder}


@pytest.mark.parametrize("data", [b"", b"\xff" * 8, b"\x02" + bytes(7) + b"{{", b"\x02" + bytes(7) + b"[]"], ids=repr)
def test_weights_without_a_header_are_named(data: bytes, tmp_path: Path) -> None:
    saving.save(make_lvlm(MANTIS), tmp_path / "base")
    (tmp_path / "base" / "model.safetensors").write_bytes(data)
    uri = store.publish(tmp_path / "base", str(tmp_path / "store"), "model", {}, {}).uri
    with pytest.raises(UserError, match="damaged"):
        describe(uri, Workspace(tmp_path / "home", str(tmp_path / "store"), ""))
