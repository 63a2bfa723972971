"""A job that an earlier version started can be adopted: names in the store and in the RayJob stay."""

import json
from pathlib import Path

import pytest

from medmim.cluster.ray import manifest
from medmim.cluster.ray.request import Request, Result, read_request, read_result, write_request
from medmim.errors import UserError

REQUEST = Request("finetune", "{}", "r1", {"data": "s3://b/data/1", "base": "tiny-mantis"})


def test_what_an_earlier_version_wrote_is_read(tmp_path: Path) -> None:
    order = {"stage": "bench", "recipe": "{}", "run": "r1", "arguments": {"data": "s3://b/data/1"}}
    (tmp_path / "order.json").write_text(json.dumps(order))
    (tmp_path / "result.json").write_text('{"uri": "s3://b/bench/1", "error": {}}')
    assert read_request(str(tmp_path)) == Request(**order)
    assert read_result(str(tmp_path)) == Result(uri="s3://b/bench/1")


def test_an_earlier_version_reads_what_is_written(tmp_path: Path) -> None:
    uri = write_request(str(tmp_path), REQUEST, "finetune-1")
    assert [path.name for path in Path(uri).iterdir()] == ["order.json"]
    assert Path(uri).parent == tmp_path / "runs" / "r1" / "jobs"
    assert (manifest.REQUEST, manifest.SPEC) == ("medmim/order", "medmim/spec")
    assert manifest.name("finetune", manifest.identity(REQUEST, "image"), 1) == "finetune-d434a0dc7d6fc63d-1"


def test_a_folder_without_a_request_is_an_error_and_without_a_result_is_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no request at"):
        read_request(str(tmp_path))
    assert read_result(str(tmp_path)) is None
