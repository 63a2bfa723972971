"""Whether KFP and the object store answer as they must, and whether clocks agree; the one HTTP request to a server."""

import os
import re
import socket
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from medmim import hints
from medmim.cluster.doctor.api import Unchecked, read, send
from medmim.cluster.kfp import access as kfp_access
from medmim.cluster.kfp.client import COMPILED_FOR, major_minor
from medmim.cluster.kfp.pods import namespace_of_server
from medmim.cluster.kube import Kube
from medmim.cluster.ray import jobs_api
from medmim.doctor import check
from medmim.doctor.check import Check
from medmim.errors import Unavailable, UserError, within
from medmim.redact import shown

_SECONDS = (2, 5)  # to connect, to answer
_SKEW = (5.0, 60.0)  # s: a warning, a failure. The sweep allows a Lease 60 s; S3 refuses a request after 15 minutes
_WITHIN = re.compile(r"[^.]+(\.[^.]+)?(\.svc(\.cluster\.local)?)?")  # name, name.namespace and longer
_S3_TRUST = ("AWS_CA_BUNDLE", "SSL_CERT_FILE")


class Unresolved(Unavailable):
    """A server whose name does not resolve here; it may be one that only pods resolve."""

    def __init__(self, host: str, port: int, fix: str) -> None:
        super().__init__(f"the name {host} does not resolve here", fix=fix)
        self.host, self.port = host, port


def unchecked_outside(kube: Kube, run: Callable[[], Check]) -> Callable[[], Check]:
    """The check, but `Unchecked` where a server's name is that of a Service, and this machine is no pod."""

    def checked() -> Check:
        try:
            return run()
        except Unresolved as error:
            if os.environ.get("KUBERNETES_SERVICE_HOST") or not _WITHIN.fullmatch(error.host):
                raise
            name, _, rest = error.host.partition(".")
            space = rest.split(".")[0] or kube.namespace
            if read(kube, f"/api/v1/namespaces/{space}/services/{name}") is None:
                fact = f"{error.host} does not resolve here, and the cluster has no Service {name} in {space}"
                raise UserError(fact, fix="install it there, or correct its address") from None
            raise Unchecked(
                f"{error.host} is a Service of the cluster, and this machine is outside",
                fix=f"kubectl -n {space} port-forward svc/{name} {error.port}, and set its address to "
                f"http://localhost:{error.port} in this environment; or run the doctor in a pod",
            ) from None

    return checked


def store(uri: str) -> Check:
    """Whether the object store is an S3 bucket that does what medmim needs."""
    if not uri.startswith("s3://"):
        raise UserError(
            f"the store is {uri or 'not configured'}",
            reason="pods share no folder",
            fix="set MEDMIM_STORE in ConfigMap medmim, or platform.store, to s3://BUCKET/PREFIX",
        )
    request("GET", _endpoint(uri), trust=_S3_TRUST)  # a name or a port that is wrong fails in seconds
    return check.store(uri)


def kfp(uri: str, kube: Kube | None = None) -> Check:
    """Whether KFP's API answers the login that `medmim submit` sends, and its version.

    Where it serves one user: also whether it runs pods in this namespace.
    """
    at, login = shown(uri), kfp_access.resolve(uri)
    headers = kfp_access.headers(login)
    trust = ("KFP_CA_FILE",)
    answer = request("GET", f"{uri}/apis/v2beta1/healthz", headers=headers, trust=trust)
    forward = (
        "bypass the login: kubectl -n kubeflow port-forward svc/ml-pipeline 8888, and "
        "KF_PIPELINES_ENDPOINT=http://localhost:8888"
    )
    sent = f"sent {kfp_access.credentials(login)}"
    fix = f"set KFP_TOKEN, KFP_TOKEN_FILE or KFP_COOKIE (docs/runs.md), or {forward}"
    if answer.is_redirect or "html" in answer.headers.get("Content-Type", ""):
        raise UserError(f"a login page answers at {at}, not KFP's API", sent, fix)
    if answer.status_code in (401, 403):
        raise UserError(f"{at} answers {answer.status_code}: it does not accept this login", sent, fix)
    if answer.status_code >= 500:
        raise Unavailable(
            f"{at} answers {answer.status_code}", fix="kubectl -n kubeflow get pods; see ml-pipeline's log"
        )
    try:
        health = dict(answer.json())
    except ValueError:
        health = {}
    if answer.status_code != 200 or not health:
        raise UserError(f"{at} is no KFP API: {answer.status_code} to healthz", fix="set KF_PIPELINES_ENDPOINT")
    own = "" if health.get("multi_user") else namespace_of_server(uri, kube)
    if kube and own not in ("", kube.namespace):
        raise UserError(
            f"KFP at {at} serves one user and runs all pods in its own namespace, {own}, not in {kube.namespace}",
            fix=f"check that one: --namespace {own}; the chart's runNamespaces must have it",
        )
    tag = str(health.get("tag_name", "unknown"))
    mode = ", multi-user" if health.get("multi_user") else ""
    found, wanted = major_minor(tag), ".".join(map(str, COMPILED_FOR))
    if found and found < COMPILED_FOR:
        raise UserError(
            f"KFP {tag} at {at}",
            reason="an older server silently drops fields of pods that it does not know, secrets among them",
            fix=f"upgrade Kubeflow Pipelines to {wanted}",
        )
    if found != COMPILED_FOR:
        fix = f"the pipelines are compiled for {wanted}: try `{hints.command('submit', 'demo')}` first"
        return Check("kfp", "warn", f"{tag} at {at}{mode}", fix)
    return Check("kfp", "ok", f"{tag} at {at}{mode}")


def ray(address: str) -> Check:
    """Whether the Jobs API of a running Ray cluster answers, and what is promised of a RayJob and not there."""
    with within(_SECONDS[1]):
        jobs_api.connect(address)
    return Check(
        "ray",
        "warn",
        f"{shown(address)} answers; there is no sweep, no new attempt when its head is lost, no time to save for a "
        "node that leaves, no deadline, no archive of logs",
        "platform.ray: rayjob has these; docs/cluster.md compares the two",
    )


def clock(kube: Kube, addresses: dict[str, str]) -> Check:
    """How far clocks differ: this machine's, the API server's, and those of other servers.

    Args:
        kube: The cluster.
        addresses: What to call a server -> where it answers; one that does not fails in its own line.
    """
    dates = {}
    before = datetime.now(UTC)
    date = send(kube, "GET", "/version")[2].get("Date", "")
    dates["the API server"] = skew(date, before, datetime.now(UTC))
    for name, uri in addresses.items():
        before = datetime.now(UTC)
        try:
            bucket = uri.startswith("s3://")
            answer = request("GET", _endpoint(uri), trust=_S3_TRUST) if bucket else request("GET", uri)
        except UserError:
            continue
        dates[name] = skew(answer.headers.get("Date", ""), before, datetime.now(UTC))
    known = {name: seconds for name, seconds in dates.items() if seconds is not None}
    text = ", ".join(f"{name} {seconds:+.0f} s" for name, seconds in known.items()) + " from this machine"
    worst = max(apart([0.0, *known.values()]), 0.0)
    fix = "set the clocks by NTP, on this machine and on the nodes"
    if worst > _SKEW[1]:
        raise UserError(
            f"clocks differ by {worst:.0f} s: {text}",
            reason="Leases would seem to have expired, and signed requests be refused",
            fix=fix,
        )
    return Check("clock", "ok" if worst <= _SKEW[0] else "warn", text, "" if worst <= _SKEW[0] else fix)


def skew(date: str, before: datetime, after: datetime) -> float | None:
    """Seconds that a server's clock is ahead; 0 where its answer's second fits into the time that the request took.

    Args:
        date: The answer's Date header, in whole seconds; none or nonsense gives None.
        before: This machine's clock before the request.
        after: ... and after the answer.
    """
    try:
        begin = parsedate_to_datetime(date).astimezone(UTC)
    except ValueError:
        return None
    ahead = (begin - after).total_seconds()
    behind = (before - begin).total_seconds() - 1  # the header cuts off up to a second
    return ahead if ahead > 0 else -behind if behind > 0 else 0.0


def apart(offsets: Iterable[float]) -> float:
    """Seconds between the earliest and the latest of some clocks."""
    listed = sorted(offsets)
    return listed[-1] - listed[0]


def _endpoint(uri: str) -> str:
    from medmim.store.s3 import connect

    return connect(uri).endpoint


def request(
    method: str,
    url: str,
    body: dict[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
    login: tuple[str, str] | None = None,
    trust: Iterable[str] = ("MLFLOW_TRACKING_SERVER_CERT_PATH",),
    seconds: tuple[int, int] = _SECONDS,
) -> Any:
    """One HTTP request, tried once, no redirect followed.

    Args:
        method: GET sends the body as parameters, the others as JSON.
        url: Where.
        body: What.
        headers: More of them.
        login: User and password.
        trust: Variables of the environment, the first of which that is set names the authority's file.
        seconds: To connect, and between two bytes of the answer.

    Raises:
        Unresolved: The server's name does not resolve here.
        Unavailable: No answer.
    """
    import requests

    where = urlsplit(url)
    address = f"{where.scheme}://{where.netloc.rpartition('@')[2]}"
    try:
        return requests.request(
            method,
            url,
            json=body if method != "GET" else None,
            params=body if method == "GET" else None,
            headers=headers,
            auth=login,
            timeout=seconds,
            allow_redirects=False,
            verify=next((os.environ[name] for name in trust if os.environ.get(name)), True),
        )
    except requests.exceptions.SSLError as error:
        raise UserError(
            f"the certificate of {address} is not trusted",
            reason=str(error)[-200:],
            fix=f"set {' or '.join(trust)} to the file of the authority that signed it",
        ) from None
    except (requests.exceptions.RequestException, ValueError) as error:
        fix = "check address, server and network"
        try:
            socket.getaddrinfo(where.hostname, None)
        except OSError:
            raise Unresolved(
                where.hostname or "", where.port or (443 if where.scheme == "https" else 80), fix
            ) from None
        raise Unavailable(f"{address} does not answer", str(error)[-200:], fix) from None
