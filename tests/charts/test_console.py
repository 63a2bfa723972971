"""The console in the chart: off by default; it reads with keys of its own, and promotes only where values say who."""

import ipaddress
from pathlib import Path
from typing import Any

import pytest
import typer
from medmim_console import app, server
from medmim_console.cli import console
from medmim_console.site import Site
from starlette.testclient import TestClient

from medmim.run.workspace import Workspace
from tests.support.chart import PLATFORM, VALUES, Object, named, pods, render, rendered

NAME = "medmim-console"
READS = render({"console": {"enabled": True}})
ON = {"reads": READS, "by-ingress": rendered("console"), "both": rendered("all-on")}


def pod(objects: list[Object]) -> Object:
    return dict(named(objects, "Deployment", NAME)["spec"]["template"]["spec"])


def container(objects: list[Object]) -> Object:
    (found,) = pod(objects)["containers"]
    return dict(found)


def env(objects: list[Object]) -> dict[str, Object]:
    found = container(objects)["env"]
    assert len({one["name"] for one in found}) == len(found), "a variable is there twice"
    return {one["name"]: one for one in found}


def parsed(objects: list[Object]) -> dict[str, Any]:
    """The options of `medmim console`, as its own parser reads the container's arguments; raises for those it lacks."""
    wrapped = typer.Typer()
    wrapped.command()(console)
    first, second, *words = container(objects)["args"]
    assert (first, second) == ("medmim", "console")
    return typer.main.get_command(wrapped).make_context("console", list(words)).params


@pytest.mark.parametrize("name", [name for name in VALUES if not VALUES[name].get("console")])
def test_nothing_of_it_is_there_where_it_is_not_turned_on(name: str) -> None:
    assert not [one["kind"] for one in rendered(name) if one["metadata"]["name"] == NAME]


def test_its_other_switches_turn_nothing_on() -> None:
    switches = {"ingress": {"enabled": True}, "promotion": {"enabled": True}}
    assert render({"console": {**switches, "enabled": False}}) == rendered("default")


def test_without_promotion_nobody_can_log_in_and_its_keys_only_read() -> None:
    options = parsed(READS)
    access = server.access(
        options["host"], options["tokens"], options["identity_header"], options["proxy"] or (), options["promoter"]
    )
    assert not access.has_login and not access.header
    refs = [one["valueFrom"].get("secretKeyRef") for one in env(READS).values() if "valueFrom" in one]
    assert {ref["name"] for ref in refs if ref} == {"medmim-console-s3", "medmim-console-mlflow"}
    assert "medmim-promoter" not in str(pod(READS)) and "MEDMIM_GATE_POLICY" not in env(READS)


def test_with_promotion_it_holds_the_promoters_keys_and_knows_who_may(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("ann a-token-of-a-promoter")
    options = parsed(ON["both"])
    assert options["promoter"] == VALUES["all-on"]["console"]["promotion"]["promoters"]
    access = server.access(
        options["host"], tokens, options["identity_header"], options["proxy"], options["promoter"]
    )  # fmt: skip
    assert access.has_login and access.header == "X-Forwarded-User"
    assert access.proxies == (ipaddress.ip_network("10.244.0.0/16"), ipaddress.ip_network("fd00::/8"))
    refs = [one["valueFrom"].get("secretKeyRef") for one in env(ON["both"]).values() if "valueFrom" in one]
    assert {ref["name"] for ref in refs if ref} == {"medmim-promoter-s3", "medmim-promoter-mlflow"}
    assert env(ON["both"])["MEDMIM_GATE_POLICY"]["valueFrom"]["configMapKeyRef"]["name"] == "medmim"
    assert "MEDMIM_USER" not in env(ON["both"]), "who promotes is who has logged in"


def test_a_token_that_is_taken_out_of_its_secret_is_gone_in_the_pod() -> None:
    (volume,) = [one for one in pod(ON["both"])["volumes"] if "secret" in one]
    (mount,) = [one for one in container(ON["both"])["volumeMounts"] if one["name"] == volume["name"]]
    assert "subPath" not in mount and mount["readOnly"], "a file by subPath is never written again"
    (item,) = volume["secret"]["items"]
    assert parsed(ON["both"])["tokens"] == Path(mount["mountPath"]) / item["path"]
    assert not [one for one in pod(ON["by-ingress"])["volumes"] if "secret" in one]


@pytest.mark.parametrize("how", ON)
def test_probes_and_people_are_answered_by_the_names_it_knows_and_no_others(how: str, tmp_path: Path) -> None:
    options, one = parsed(ON[how]), container(ON[how])
    site = Site(Workspace(tmp_path, str(tmp_path / "store"), ""), server.access("0.0.0.0", None, "", (), ()))  # noqa: S104
    client = TestClient(app.make(site, options["name"]))
    for kind, path in (("startup", "/ready"), ("readiness", "/ready"), ("liveness", "/health")):
        get = one[f"{kind}Probe"]["httpGet"]
        assert get["path"] == path
        headers = {header["name"]: header["value"] for header in get["httpHeaders"]}
        assert client.get(path, headers=headers).status_code == 200, "the kubelet asks by the pod's address otherwise"
    known = [f"{NAME}:8000", f"{NAME}.{PLATFORM}.svc", f"{NAME}.{PLATFORM}.svc.cluster.local:8000", "localhost:8000"]
    known += {"by-ingress": ["medmim.example.org"], "both": ["medmim.internal"]}.get(how, [])
    for host in known:
        assert client.get("/runs", headers={"Host": host}).status_code == 200, host
    assert client.get("/runs", headers={"Host": "evil.example"}).status_code == 400
    (port,) = one["ports"]
    assert port["containerPort"] == options["port"]
    (service,) = named(ON[how], "Service", NAME)["spec"]["ports"]
    assert service["targetPort"] == port["name"] == get["port"]
    labels = named(ON[how], "Deployment", NAME)["spec"]["template"]["metadata"]["labels"]
    assert named(ON[how], "Service", NAME)["spec"]["selector"].items() <= labels.items()


def test_there_is_one_of_it_at_a_time() -> None:
    for objects in ON.values():
        spec = named(objects, "Deployment", NAME)["spec"]
        assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"}), "sessions are in its process"


def test_a_person_waits_seconds_for_a_store_that_is_away() -> None:
    assert env(READS)["MEDMIM_PATIENCE"] == {"name": "MEDMIM_PATIENCE", "value": "5"}
    other = named(READS, "PodTemplate", "medmim-promoter")["template"]["spec"]["containers"][0]["env"]
    assert next(one for one in other if one["name"] == "MEDMIM_PATIENCE")["valueFrom"], "all others have the chart's"


def test_runs_link_to_pages_that_a_browser_reaches() -> None:
    def links(objects: list[Object]) -> list[str]:
        return [env(objects)[f"MEDMIM_{name}_UI"]["value"] for name in ("KFP", "MLFLOW", "RAY")]

    assert links(READS) == ["", "", ""], "MLflow's address in the cluster is none for people"
    assert links(ON["both"]) == [
        VALUES["all-on"]["kfp"]["ui"], "https://mlflow.example.org", "https://ray.example.org",
    ]  # fmt: skip
    ingress = {"enabled": True, "host": "mlflow.example.org", "tlsSecret": "tls"}
    peers = [{"podSelector": {}}]
    with_mlflow = render(
        {"console": {"enabled": True}, "mlflow": {"ingress": ingress}, "networkPolicy": {"mlflowFrom": peers}}
    )
    assert links(with_mlflow)[1] == "https://mlflow.example.org"


def test_the_ingress_shows_all_of_it() -> None:
    (rule,) = named(ON["by-ingress"], "Ingress", NAME)["spec"]["rules"]
    (path,) = rule["http"]["paths"]
    assert (rule["host"], path["path"], path["pathType"]) == ("medmim.example.org", "/", "Prefix")
    (port,) = named(ON["by-ingress"], "Service", NAME)["spec"]["ports"]
    assert path["backend"]["service"] == {"name": NAME, "port": {"name": port["name"]}}


def test_its_account_has_no_token_and_no_other_pod_has_its_secrets() -> None:
    for objects in ON.values():
        assert named(objects, "ServiceAccount", NAME)["automountServiceAccountToken"] is False
        assert pod(objects)["serviceAccountName"] == NAME
        others = [spec for at, _, spec in pods(objects) if at != f"Deployment/{NAME}"]
        assert others and not [one for one in others if "medmim-console" in str(one)]


def test_it_writes_to_its_home_and_nowhere_else() -> None:
    mounts = {one["mountPath"]: one for one in container(READS)["volumeMounts"]}
    volumes = {one["name"]: one for one in pod(READS)["volumes"]}
    assert volumes[mounts["/home/medmim"]["name"]]["emptyDir"] == {"sizeLimit": "42Gi"}, "twice the cache, and indexes"
    assert volumes[mounts["/tmp"]["name"]]["emptyDir"] == {"sizeLimit": "2Gi"}
    assert container(READS)["securityContext"]["readOnlyRootFilesystem"] is True
    assert env(READS)["MEDMIM_CACHE_GIB"]["value"] == "20", "copies of artifacts must not fill the node"


def test_its_image_is_the_one_beside_medmims_or_the_one_that_is_named() -> None:
    def image(values: Object, **own: Any) -> str:
        return str(container(render({"image": values, "console": {"enabled": True, "image": own}}))["image"])

    digest = "sha256:" + "1" * 64
    assert image({"repository": "r.example/medmim", "tag": "7"}) == "r.example/medmim-console:7"
    assert image({"repository": "r.example/medmim", "digest": "sha256:" + "0" * 64}, digest=digest) == (
        f"r.example/medmim-console@{digest}"
    )
    assert image({"tag": "7"}, repository="own/pages", tag="8") == "own/pages:8"
