"""A tag becomes the digest that a registry gives; the registry is a small one on loopback."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from medmim import __version__
from medmim.cluster.kfp import image
from medmim.errors import Unavailable, UserError
from tests.support.kfp_world import Registry, nothing_set, registry_server

DIGEST = "sha256:" + "0" * 64


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    nothing_set(monkeypatch, str(tmp_path))
    with registry_server() as found:
        yield found


def log_in(folder: Path, registry: Registry, user: str, password: str) -> None:
    auth = base64.b64encode(f"{user}:{password}".encode()).decode()
    (folder / "config.json").write_text(json.dumps({"auths": {registry.address: {"auth": auth}}}))


@pytest.mark.parametrize("sends", [True, False])
def test_a_tag_becomes_the_digest_that_the_registry_has(registry: Registry, sends: bool) -> None:
    registry.sends_digest = sends
    digest = registry.push("v1")
    assert image.pin(f"{registry.address}/medmim:v1") == f"{registry.address}/medmim@{digest}"


def test_no_tag_means_latest(registry: Registry) -> None:
    digest = registry.push("latest")
    assert image.pin(f"{registry.address}/medmim") == f"{registry.address}/medmim@{digest}"


def test_what_is_named_by_digest_stays_without_a_request(registry: Registry) -> None:
    named = f"{registry.address}/medmim@{DIGEST}"
    assert image.pin(named) == named and registry.requests == []


def test_the_version_of_an_image_is_its_label(registry: Registry) -> None:
    digest = registry.push("v1")
    assert image.version_of(f"{registry.address}/medmim@{digest}") == __version__
    with pytest.raises(UserError, match="has no label"):
        image.version_of(f"{registry.address}/medmim@{registry.push('v2', version=None)}")


def test_a_registry_that_requires_a_login_gets_dockers(registry: Registry, tmp_path: Path) -> None:
    digest = registry.push("v1")
    registry.login = ("me", "secret")
    with pytest.raises(UserError, match="denies access") as raised:
        image.pin(f"{registry.address}/medmim:v1")
    assert raised.value.fix.startswith(f"docker login {registry.address}")
    log_in(tmp_path, registry, "me", "wrong")
    with pytest.raises(UserError, match="denies access") as raised:
        image.pin(f"{registry.address}/medmim:v1")
    assert "logged in as me" in raised.value.reason and "wrong" not in str(raised.value)
    log_in(tmp_path, registry, "me", "secret")
    assert image.pin(f"{registry.address}/medmim:v1").endswith(digest)


def test_a_tag_that_does_not_exist_is_bad_input(registry: Registry) -> None:
    with pytest.raises(UserError, match="has no image") as raised:
        image.pin(f"{registry.address}/medmim:none")
    assert raised.value.exit_code == 2


def test_a_registry_that_is_down_is_unavailable(registry: Registry) -> None:
    registry.down = True
    with pytest.raises(Unavailable, match="answers 503"):
        image.pin(f"{registry.address}/medmim:v1")
    with pytest.raises(Unavailable, match="does not answer") as raised:
        image.pin("127.0.0.1:1/medmim:v1")
    assert "@sha256:" in raised.value.fix


@pytest.mark.parametrize("named", ["http://registry/medmim:1", "-registry.org/medmim:1"])
def test_what_is_no_name_is_refused(registry: Registry, named: str) -> None:
    with pytest.raises(UserError, match="is no name of an image"):
        image.pin(named)


def test_a_tag_beside_a_digest_is_dropped(registry: Registry) -> None:
    digest = registry.push("v1")
    assert image.pin(f"{registry.address}/medmim:v1@{digest}") == f"{registry.address}/medmim@{digest}"
    assert image.version_of(f"{registry.address}/medmim:other@{digest}") == __version__
