"""The doctor on clusters whose store, MLflow or KFP are broken, each in one way."""

import pytest

from tests.cluster.conftest import free_port
from tests.cluster.doctor.world import Doctor, only
from tests.support.servers import answering

pytestmark = pytest.mark.cluster


def test_no_bucket(good: Doctor) -> None:
    check = only(good(exits=1, store="s3://medmim-no-such-bucket/store"), "store")
    assert "there is no bucket 'medmim-no-such-bucket'" in check["found"]


def test_a_store_that_overwrites_what_was_to_be_created_once(good: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    from medmim.store.s3 import S3Store

    monkeypatch.setattr(S3Store, "create", lambda self, key, data: self.write(key, data) or True)
    assert "If-None-Match" in only(good(exits=1), "store")["fix"]


def test_no_mlflow(good: Doctor) -> None:
    found = good(exits=1, tracking=f"http://127.0.0.1:{free_port()}")
    assert "does not answer" in only(found, "mlflow")["found"]


def test_an_mlflow_that_rejects_its_host_name(good: Doctor, mlflow: str) -> None:
    check = only(good(exits=1, tracking=mlflow.replace("localhost", "127.0.0.1")), "mlflow")
    assert "--allowed-hosts" in check["fix"]


def test_a_login_page_in_front_of_kfp(good: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(200, "<html>dex</html>", Content_Type="text/html") as uri:
        monkeypatch.setenv("KF_PIPELINES_ENDPOINT", uri)
        check = only(good(exits=1), "kfp")
    assert "a login page answers" in check["found"] and "port-forward" in check["fix"]
