"""The Job that imports a checkpoint: valid, restricted, without secrets in its text; and how it is followed."""

import json
from pathlib import Path
from typing import Any

import pytest

from medmim.cluster import base_import, kube
from medmim.errors import UserError
from medmim.recipe import names
from tests.support.job_cluster import JobCluster

kubernetes_validate = pytest.importorskip("kubernetes_validate")
IMAGE = f"registry/medmim@sha256:{'0' * 64}"
HUB = "TIGER-Lab/Mantis-8B-siglip-llama3"


def job(**changes: Any) -> dict[str, Any]:
    return base_import.job(**{"source": "s3://b/raw/mantis", "store": "s3://b/lab", "image": IMAGE, **changes})


@pytest.mark.parametrize("version", ["1.31", "1.34", "1.36"])
def test_the_job_is_valid_for_a_strict_api_server(version: str) -> None:
    made = job(words=["--terms", "llama3"])
    kubernetes_validate.validate(made, version, strict=True)
    made["spec"]["template"]["spec"]["containers"][0]["arguments"] = []
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(made, version, strict=True)


def test_the_pod_is_a_step_without_a_token_and_keeps_within_restricted() -> None:
    spec = job(source=HUB, words=["--hub"])["spec"]["template"]["spec"]
    assert spec["serviceAccountName"] == names.STEP_ACCOUNT and not spec["automountServiceAccountToken"]
    assert spec["securityContext"]["runAsNonRoot"] and spec["securityContext"]["seccompProfile"]
    (container,) = spec["containers"]
    assert container["args"] == ["medmim", "base", "import", HUB, "--store", "s3://b/lab", "--hub"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert not container["securityContext"]["allowPrivilegeEscalation"]
    assert container["resources"]["limits"]["ephemeral-storage"] == "64Gi"
    env = {one["name"]: one for one in container["env"]}
    assert env.keys() >= {*names.SETTINGS_KEYS, *names.S3_KEYS}
    for key in names.S3_KEYS:  # by reference, never a value
        assert env[key]["valueFrom"]["secretKeyRef"]["name"] == names.S3_SECRET and "value" not in env[key]
    assert names.TRACKING_SECRET not in json.dumps(spec)


@pytest.mark.parametrize("words", [["--clip", "s3://b/raw/clip"], ["--hub", "--clip", "openai/clip"]], ids=str)
def test_the_pod_gets_the_clip_where_it_can_reach_it(words: list[str]) -> None:
    (container,) = job(words=words)["spec"]["template"]["spec"]["containers"]
    assert container["args"][-len(words) :] == words


def test_equal_imports_have_equal_names_and_others_have_others() -> None:
    made = [job(), job(source="s3://b/raw/other"), job(store=None), job(words=["--terms", "llama3"]), job(image="i@x")]
    assert len({one["metadata"]["name"] for one in made}) == len(made)
    assert job() == job()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": "/data/mantis"}, "folder of this machine"),
        ({"source": HUB}, "add --hub"),
        ({"store": "/data/store"}, "--store is /data/store"),
        ({"words": ["--clip", "/data/clip"]}, "/data/clip is a folder of this machine"),
        ({"words": ["--clip", "openai/clip"]}, "openai/clip is a hub name"),
        ({"words": ["--terms", __file__]}, "--terms names a file"),
        ({"image": None}, "no image"),
        ({"disk": "much"}, "--disk is 'much'"),
    ],
)
def test_what_a_pod_could_not_do_is_refused_before_it_starts(
    changes: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MEDMIM_IMAGE", raising=False)
    with pytest.raises(UserError) as caught:
        job(**changes)
    assert message in str(caught.value) and caught.value.fix


@pytest.mark.parametrize(("end", "code"), [("Complete", 0), ("Failed", 2), ("Failed", None), ("deleted", None)])
def test_the_job_is_followed_to_its_end(
    end: str, code: int | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    event = json.dumps({"kind": "line", "time": 1.0, "stage": "", "text": "3 of 4 files"})
    cluster = JobCluster(end, code, [event, "s3://b/lab/model/12", "mantis, 8 parameters"])
    monkeypatch.setattr(kube, "connect", lambda namespace: cluster)
    monkeypatch.setattr(base_import, "_POLL", 0)
    if end == "Complete":
        assert base_import.run(job(), None) == "s3://b/lab/model/12\nmantis, 8 parameters"
        assert "3 of 4 files\n" in capsys.readouterr().err
        return
    with pytest.raises(UserError, match="was deleted" if end == "deleted" else "the import failed in Job") as caught:
        base_import.run(job(), None)
    if end == "Failed":
        assert "s3://b/lab/model/12" in caught.value.reason
        assert caught.value.exit_code == (75 if code is None else code)  # 75: it was lost with its node


def test_the_command_prints_the_job_and_asks_no_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import yaml
    from typer.testing import CliRunner

    from medmim.cli.base import app

    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    options = ["--on-cluster", "--dry-run", "--image", IMAGE, "--store", "s3://b/lab", "--terms", "llama3"]
    done = CliRunner().invoke(app, ["import", "s3://b/raw/mantis", *options])
    assert done.exit_code == 0, done.output
    assert yaml.safe_load(done.stdout) == job(words=["--terms", "llama3"])
