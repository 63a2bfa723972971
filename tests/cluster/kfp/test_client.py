"""Reaching KFP: address, credentials, and the errors where it does not answer or something else does."""

import datetime
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from medmim import errors
from medmim.cluster.kfp import access, client
from medmim.cluster.kfp.access import resolve
from medmim.cluster.kfp.errors import from_response
from medmim.errors import Unavailable, UserError
from medmim.recipe import names
from tests.support.kfp_server import Kfp, kfp_server
from tests.support.kfp_world import nothing_set
from tests.support.servers import KFP, answering


@pytest.fixture(autouse=True)
def _nothing_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing_set(monkeypatch, str(tmp_path))


@pytest.fixture
def kfp() -> Iterator[Kfp]:
    with kfp_server() as found:
        yield found


def connected(host: str, namespace: str | None = None) -> client.Api:
    return client.connect(resolve(host, namespace))


def runs(api: client.Api) -> Any:
    return api.call("listing runs", api.client.runs.run_service_list_runs, namespace=api.namespace or None)


def refused(host: str, namespace: str | None = None) -> UserError:
    with pytest.raises(UserError) as raised:
        runs(connected(host, namespace))
    assert raised.value.fix
    return raised.value


def test_a_server_reports_its_version_and_nothing_is_printed(kfp: Kfp, capfd: pytest.CaptureFixture[str]) -> None:
    api = connected(kfp.address)
    runs(api)
    assert (api.tag, api.multi_user, api.namespace) == ("2.17.0", False, "")
    assert capfd.readouterr() == ("", "")


def test_nothing_is_written_into_the_home(kfp: Kfp, tmp_path: Path) -> None:
    runs(connected(kfp.address))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("namespace", ["kubeflow", "team-a", None])
def test_kfps_own_client_asks_the_server_nothing_by_itself(kfp: Kfp, namespace: str | None, tmp_path: Path) -> None:
    """It has no timeout, follows redirects and ends in a traceback; "kubeflow" is its word for no namespace."""
    client._client(resolve(kfp.address, namespace))
    assert kfp.front.requests == [] and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("event", ["away", "silent", "redirect", "page", "502"])
def test_whatever_answers_the_error_is_medmims_own_also_in_namespace_kubeflow(
    kfp: Kfp, event: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "_SECONDS", (1, 0.2))
    monkeypatch.setattr(errors, "MIN_TRIES", 2)
    found: list[UserError] = []
    with socket.create_server(("127.0.0.1", 0), backlog=16) as silent, answering(502, INGRESS) as ingress:
        kfp.front.token, kfp.front.login = "good", event
        host = {"away": "http://127.0.0.1:1", "silent": f"http://127.0.0.1:{silent.getsockname()[1]}", "502": ingress}
        asked = threading.Thread(
            target=lambda: found.append(refused(host.get(event, kfp.address), "kubeflow")), daemon=True
        )
        asked.start()
        asked.join(20)
    assert found, "it hangs"
    assert found[0].exit_code == (2 if event in ("redirect", "page") else 75)


@pytest.mark.parametrize(("patience", "most"), [("5", 8.0), ("", 25.0)])
def test_a_silent_server_is_given_up_within_the_patience_and_a_line_says_so_before(
    patience: str, most: float, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """It accepts, and says nothing: four requests of a minute each were waited for, without a word."""
    monkeypatch.setenv("MEDMIM_PATIENCE", patience)
    monkeypatch.setattr(client, "_SECONDS_OF_HEALTH", 10)
    with socket.create_server(("127.0.0.1", 0), backlog=16) as silent:
        host, begin = f"http://127.0.0.1:{silent.getsockname()[1]}", time.monotonic()
        error = refused(host)
    assert time.monotonic() - begin < most and error.exit_code == 75
    assert error.fact == f"KFP at {host} does not answer" and error.reason.endswith(
        f"says nothing for {patience or 10} s"
    )
    assert capfd.readouterr().err == f"waiting for KFP at {host}, which has not answered for 3 s\n"


INGRESS = "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n<hr><center>nginx</center></body></html>"


@pytest.mark.parametrize("way", ["pages", "ui", "neither"])
def test_links_lead_to_a_page_or_there_are_none(kfp: Kfp, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kfp.front.pages = way == "pages"
    if way == "ui":
        monkeypatch.setenv("KF_PIPELINES_UI_ENDPOINT", "https://kubeflow.example.org/pipeline/")
    at = {"pages": kfp.address, "ui": "https://kubeflow.example.org/pipeline", "neither": ""}[way]
    assert connected(kfp.address).link("runs/details/1") == (f"{at}/#/runs/details/1" if at else "")


def test_what_is_no_page_is_no_link() -> None:
    with answering(200, json.dumps(KFP), Content_Type="application/json") as address:
        assert connected(address).link("runs/details/1") == ""


@pytest.mark.parametrize("status", [500, 502, 503, 504, 404, 403])
def test_a_page_of_an_ingress_is_a_login_page_only_where_it_may_be_one(status: int) -> None:
    error = from_response(resolve("http://kfp"), "listing runs", status, INGRESS)
    login = "login page" in error.fact
    assert (isinstance(error, Unavailable), login) == (status >= 500, status == 403)
    assert "<" not in error.reason and (status < 500 or "502 Bad Gateway nginx" in error.reason)


def test_without_an_address_the_fix_says_how_to_give_one() -> None:
    with pytest.raises(UserError, match="KFP's address is not configured") as raised:
        resolve()
    assert "KFP_ENDPOINT" in raised.value.fix and "port-forward" in raised.value.fix


@pytest.mark.parametrize("host", ["localhost:8888", "kubeflow.example.org", "ftp://kfp", "http://"])
def test_an_address_that_is_no_url_is_refused(host: str) -> None:
    with pytest.raises(UserError, match="KFP's address '.*' is no URL"):
        resolve(host)


@pytest.mark.parametrize("name", ["KFP_ENDPOINT", "KF_PIPELINES_ENDPOINT"])
def test_the_address_comes_from_the_environment(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "http://kfp:8888/")
    assert resolve().host == "http://kfp:8888"
    assert resolve("http://other").host == "http://other"


def test_a_pod_knows_where_kfp_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    assert resolve().host == names.KFP_ENDPOINT


def test_the_sdks_own_namespace_is_used(tmp_path: Path) -> None:
    (tmp_path / ".config/kfp").mkdir(parents=True)
    (tmp_path / ".config/kfp/context.json").write_text(json.dumps({"namespace": "team-a"}))
    assert resolve("http://kfp").namespace == "team-a"
    assert resolve("http://kfp", "team-b").namespace == "team-b"


def test_in_a_pod_the_namespace_is_the_pods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "namespace").write_text("team-a\n")
    monkeypatch.setattr(access, "_NAMESPACE_OF_POD", tmp_path / "namespace")
    assert resolve("http://kfp").namespace == "team-a"


def test_a_login_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KFP_TOKEN", "tooken")
    monkeypatch.setenv("KFP_COOKIE", "coookie")
    assert not {"tooken", "coookie"} & set(repr(resolve("http://kfp")).replace("'", " ").split())


@pytest.mark.parametrize("name", ["KFP_TOKEN_FILE", "KFP_CA_FILE"])
def test_a_file_that_does_not_exist_is_reported(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, str(tmp_path / "none"))
    with pytest.raises(UserError, match=f"{name}: .* cannot be read"):
        resolve("http://kfp")


def test_a_token_is_accepted(kfp: Kfp, monkeypatch: pytest.MonkeyPatch) -> None:
    kfp.front.token = "good"
    monkeypatch.setenv("KFP_TOKEN", "good")
    runs(connected(kfp.address))


@pytest.mark.parametrize("name", ["KFP_TOKEN_FILE", "KF_PIPELINES_SA_TOKEN_PATH"])
def test_a_token_file_is_read_again_for_each_request(
    kfp: Kfp, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the account's token of a pod, which the kubelet changes every hour."""
    kfp.front.token = "first"
    (tmp_path / "token").write_text("first\n")
    monkeypatch.setenv(name, str(tmp_path / "token"))
    api = connected(kfp.address)
    kfp.front.token = "second"
    (tmp_path / "token").write_text("second\n")
    runs(api)
    (tmp_path / "token").unlink()
    with pytest.raises(UserError, match="KFP cannot be called"):
        runs(api)


def test_a_cookie_is_accepted(kfp: Kfp, monkeypatch: pytest.MonkeyPatch) -> None:
    kfp.front.cookie = "authservice_session=abc"
    monkeypatch.setenv("KFP_COOKIE", "authservice_session=abc")
    runs(connected(kfp.address))


@pytest.mark.parametrize("way", ["redirect", "page"])
def test_a_login_page_is_reported_and_not_parsed_as_an_empty_list(kfp: Kfp, way: str) -> None:
    kfp.front.token, kfp.front.login = "good", way
    error = refused(kfp.address)
    assert error.fact == f"a login page answers at {kfp.address}, not KFP's API"
    assert error.exit_code == 2 and "no token and no cookie" in error.reason and "KFP_COOKIE" in error.fix


@pytest.mark.parametrize("way", ["redirect", "page"])
def test_a_login_that_expires_is_reported(kfp: Kfp, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kfp.front.cookie = "session=1"
    monkeypatch.setenv("KFP_COOKIE", "session=1")
    api = connected(kfp.address)
    kfp.front.cookie, kfp.front.login = "session=2", way
    with pytest.raises(UserError, match="a login page answers"):
        runs(api)


def test_a_refused_account_is_reported_without_its_token(kfp: Kfp, monkeypatch: pytest.MonkeyPatch) -> None:
    kfp.front.token, kfp.front.login = "good", "refuse"
    monkeypatch.setenv("KFP_TOKEN", "bad")
    error = refused(kfp.address)
    assert "(403)" in error.fact or "forbids" in error.fact
    assert "bad" not in str(error), "a token is a secret"


def test_a_multi_user_server_needs_a_namespace() -> None:
    with kfp_server(multi_user=True) as kfp:
        assert "no namespace is configured" in refused(kfp.address).fact
        assert connected(kfp.address, "team-a").namespace == "team-a"
        error = refused(kfp.address, "team-b")
        assert "forbids listing runs in namespace team-b" in error.fact and "--namespace" in error.fix


@pytest.mark.parametrize("tag", ["2.5.0", "v2.16.1", "1.8.22"])
def test_an_older_server_is_refused(kfp: Kfp, tag: str) -> None:
    kfp.front.tag = tag
    assert f"KFP {tag}" in refused(kfp.address).fact


@pytest.mark.parametrize("tag", ["2.17.3", "2.18.0", "master"])
def test_a_newer_server_is_used(kfp: Kfp, tag: str) -> None:
    kfp.front.tag = tag
    assert connected(kfp.address).tag == tag


@pytest.mark.parametrize(
    ("status", "body", "headers"),
    [
        (200, "hello", {"Content_Type": "text/plain"}),
        (200, "[]", {"Content_Type": "application/json"}),
        (200, "{}", {"Content_Type": "application/json"}),
        (404, "404 page not found", {"Content_Type": "text/plain"}),
        (200, '"text"', {}),
    ],
)
def test_what_is_no_kfp_is_reported(status: int, body: str, headers: dict[str, str]) -> None:
    with answering(status, body, **headers) as address:
        assert "is not the API v2beta1 of KFP" in refused(address).fact


def test_a_server_that_is_down_is_unavailable() -> None:
    error = refused("http://127.0.0.1:1")
    assert isinstance(error, Unavailable) and error.exit_code == 75 and "does not answer" in error.fact


def test_a_server_that_answers_503_is_called_again(kfp: Kfp) -> None:
    api = connected(kfp.address)
    kfp.front.fail += [("GET .*/runs", 503), ("GET .*/runs", 429)]
    runs(api)
    kfp.front.fail += [("GET .*/runs", 502)] * 9
    with pytest.raises(Unavailable, match="answers 502 to listing runs"):
        runs(api)


def test_a_call_that_is_not_idempotent_is_made_once(kfp: Kfp) -> None:
    api = connected(kfp.address)
    kfp.front.fail += [("GET .*/runs", 503)]
    before = len(kfp.front.requests)
    with pytest.raises(Unavailable):
        api.call("listing runs", api.client.runs.run_service_list_runs, idempotent=False)
    assert len(kfp.front.requests) == before + 1


def certified(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that signs itself, and its key."""
    from ipaddress import IPv4Address

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "kfp")])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now.replace(year=2100))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    encodings = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "ca.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(key.private_bytes(*encodings))
    return folder / "ca.crt", folder / "key.pem"


def test_a_certificate_is_trusted_by_its_authoritys_file_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(KFP).encode())

        def log_message(self, *args: Any) -> None:
            pass

    authority, key = certified(tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(authority, key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"https://127.0.0.1:{server.server_port}"
        error = refused(address)
        assert "no secure connection" in error.fact and "KFP_CA_FILE" in error.fix and error.exit_code == 2
        monkeypatch.setenv("KFP_CA_FILE", str(authority))
        assert connected(address).tag == "2.17.0"
        server.shutdown()


def test_https_to_a_server_that_speaks_http_is_reported(kfp: Kfp) -> None:
    assert "no secure connection" in refused(kfp.address.replace("http:", "https:")).fact


@pytest.mark.parametrize("name", ["KFP_TOKEN", "KFP_COOKIE"])
def test_a_line_break_at_the_end_of_a_secret_is_stripped_and_one_within_is_not_shown(
    name: str, kfp: Kfp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "a-secret\n")
    runs(connected(kfp.address))
    monkeypatch.setenv(name, "a-secret\nin-two")
    error = refused(kfp.address)
    assert name in error.fact and "secret" not in str(error)


def test_an_empty_token_file_is_reported(kfp: Kfp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text("\n")
    monkeypatch.setenv("KFP_TOKEN_FILE", str(tmp_path / "token"))
    assert "is empty" in refused(kfp.address).fact


def test_a_password_in_the_address_is_refused_and_not_shown() -> None:
    assert "hunter2" not in str(refused("http://bob:hunter2@127.0.0.1:1"))


def test_a_403_of_a_proxy_is_about_the_account() -> None:
    with answering(403, "RBAC: access denied") as address:
        error = refused(address)
    assert "does not accept this account" in error.fact and "KFP_TOKEN" in error.fix and "RBAC" in error.reason
