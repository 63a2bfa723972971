"""Whether MLflow answers under the name that pods use, accepts this user, and writes: a model and an artifact."""

import os
import re
import secrets
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from medmim.cluster.doctor.servers import request
from medmim.doctor.check import Check
from medmim.errors import Unavailable, UserError
from medmim.recipe.names import LOGIN_KEYS, TRACKING_SECRET
from medmim.redact import shown

EXPERIMENT = "medmim-check"  # of the artifact; one for each user, since whoever makes an experiment manages it
_SECONDS = (2, 20)  # to connect, to answer: the first call after a start opens the registry, the first artifact S3
_PROXIED = "mlflow-artifacts"  # scheme of artifacts that clients send through the server


class Denied(UserError):
    """The server has users, and this login, or none, is not accepted."""


class _Exists(UserError):
    """What was to be made exists."""


def mlflow(uri: str, configured: str) -> Check:
    """Whether MLflow answers, under the name that pods use too, and writes to its database and its artifact store.

    A registered model and an artifact are made, read and removed. The empty experiment of the artifact stays, since
    MLflow only hides what is deleted of experiments and runs: one for each user.

    Args:
        uri: Its address from here.
        configured: Its address in the cluster, if it is another.

    Raises:
        UserError: It rejects the name, the user or a request, or is not MLflow.
        Unavailable: It does not answer, or fails.
    """
    if not uri.startswith(("http://", "https://")):
        raise UserError(
            f"MLflow is {shown(uri) or 'not configured'}",
            reason="pods share no database",
            fix="set MLFLOW_TRACKING_URI in ConfigMap medmim, or platform.tracking, to http(s)://HOST:PORT",
        )
    for address in dict.fromkeys([uri, configured or uri]):
        host = urlsplit(address).netloc.rpartition("@")[2]
        ask(uri, host)
    version = request("GET", f"{uri}/version", headers=_bearer(), login=_login()).text.strip()[:20]
    name = f"medmim-doctor-{secrets.token_hex(4)}"
    _model(uri, name)
    location = _experiment(uri)
    text = f"{version}, {shown(uri)}: accepts {host}; writes, reads, deletes a model"
    if urlsplit(location).scheme != _PROXIED:
        fix = "start its server with --artifacts-destination and without --no-serve-artifacts, as the chart does"
        return Check("mlflow", "warn", f"{text}; artifacts not checked: clients write {location} themselves", fix)
    _artifact(uri, urlsplit(location).path.strip("/"), name)
    return Check("mlflow", "ok", f"{text} and an artifact")


def ask(uri: str, host: str = "") -> None:
    """Ask what each run asks first.

    Args:
        uri: MLflow's address from here.
        host: The name under which pods ask it, if it is another.

    Raises:
        Denied: It requires a login, or denies that of this environment.
        UserError: It rejects the name, or is not MLflow.
        Unavailable: It does not answer, or fails.
    """
    _call(uri, "POST", "experiments/search", {"max_results": 1}, host=host)


def _model(uri: str, name: str) -> None:
    """Make, read and remove a registered model."""
    _call(uri, "POST", "registered-models/create", {"name": name})
    try:
        found = _call(uri, "GET", "registered-models/get", {"name": name})
    finally:
        _call(uri, "DELETE", "registered-models/delete", {"name": name})
    if found.get("registered_model", {}).get("name") != name:
        raise _changed(uri, "a model")


def _experiment(uri: str) -> str:
    """Where the artifacts of this user's experiment lie; it is made once."""
    login = _login()
    name = f"{EXPERIMENT}-{re.sub(r'[^a-zA-Z0-9_.@-]', '-', login[0])}" if login else EXPERIMENT
    with suppress(_Exists):
        _call(uri, "POST", "experiments/create", {"name": name})
    found = _call(uri, "GET", "experiments/get-by-name", {"experiment_name": name})["experiment"]
    if found.get("lifecycle_stage") == "deleted":  # its name stays taken
        _call(uri, "POST", "experiments/restore", {"experiment_id": found["experiment_id"]})
    return str(found["artifact_location"])


def _artifact(uri: str, folder: str, name: str) -> None:
    """Upload, read and remove an artifact through the server, as its client does."""
    path, content = f"artifacts/{folder}/{name}/check.json", {"name": name}
    _request(uri, "PUT", path, content, api=_PROXIED)
    try:
        found = _call(uri, "GET", path, {}, api=_PROXIED)
    finally:
        _request(uri, "DELETE", path, {}, api=_PROXIED)
    if found != content:
        raise _changed(uri, "an artifact")


def _changed(uri: str, what: str) -> UserError:
    return UserError(f"MLflow at {shown(uri)} returns {what} other than it was written", fix="look at its log")


def _call(uri: str, method: str, path: str, body: dict[str, Any], *, api: str = "mlflow", host: str = "") -> Any:
    """The JSON object that MLflow answers. Raises as `_request`."""
    answer = _request(uri, method, path, body, api=api, host=host)
    try:
        return dict(answer.json())
    except (ValueError, TypeError):
        at = shown(uri)
        raise UserError(f"what answers at {at} is not MLflow", answer.text[:200], "check MLFLOW_TRACKING_URI") from None


def _request(uri: str, method: str, path: str, body: dict[str, Any], *, api: str, host: str = "") -> Any:
    """The answer to one request.

    Raises:
        UserError: MLflow denies it, or something else answers.
        Unavailable: It fails, or does not answer.
    """
    headers = _bearer() | ({"Host": host} if host else {})
    url = f"{uri.rstrip('/')}/api/2.0/{api}/{path}"
    answer = request(method, url, body, headers, _login(), seconds=_SECONDS)
    at, text, status = shown(uri), answer.text[:200].replace("\n", " "), answer.status_code
    if status == 403 and "Host" in text:
        raise UserError(
            f"MLflow at {at} rejects the host name {host}",
            reason=text,
            fix=f"add {host} to --allowed-hosts (or MLFLOW_SERVER_ALLOWED_HOSTS) of its server; the list replaces "
            "MLflow's own",
        )
    # MLflow's own 401 is text that claims to be HTML
    page = "html" in answer.headers.get("Content-Type", "") and text.lstrip().startswith("<")
    if answer.is_redirect or page:
        raise UserError(f"a login page answers at {at}, not MLflow", fix="use its Service, not the ingress in front")
    if status in (401, 403):
        raise _denied(at, path, status, text)
    if status >= 500:
        fix = "look at its log: is its artifact store there?" if api == _PROXIED else "look at its log, disk first"
        raise Unavailable(f"MLflow at {at} answers {status} to {path}", text, fix)
    if "RESOURCE_ALREADY_EXISTS" in text:
        raise _Exists(f"MLflow at {at} has it already: {path}", text)
    if status != 200:
        raise UserError(f"MLflow at {at} answers {status} to {path}", text, "check MLFLOW_TRACKING_URI")
    return answer


def _denied(at: str, path: str, status: int, text: str) -> Denied:
    """Why a server with users says no: no login, a wrong password, or too few permissions."""
    login = _login()
    who = f"user {login[0]}" if login else "the bearer of MLFLOW_TRACKING_TOKEN" if _bearer() else ""
    source = f"pods take {' and '.join(LOGIN_KEYS)} from Secret {TRACKING_SECRET} of their namespace"
    if not who:
        unset = " and ".join(key for key in LOGIN_KEYS if not os.environ.get(key))
        return Denied(
            f"MLflow at {at} requires a login: {status}",
            f"{unset} {'are' if ' and ' in unset else 'is'} not set here",
            f"export a user's name and password here; {source}",
        )
    if status == 401:
        return Denied(
            f"MLflow at {at} rejects the login of {who}: 401",
            "the password is wrong, or the server has no such user" if login else text,
            f"set the password that the server knows, here and there: {source}; a new password: "
            "charts/medmim/README.md, Users",
        )
    return Denied(
        f"MLflow at {at} accepts {who}, but denies {path}: {status}",
        text,
        "an administrator revokes the denial, or gives steps a user of their own (charts/medmim/README.md, Users); "
        f"{source}",
    )


def _login() -> tuple[str, str] | None:
    user, password = map(os.environ.get, LOGIN_KEYS)
    return (user, password) if user and password else None


def _bearer() -> dict[str, str]:
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    return {"Authorization": f"Bearer {token}"} if token else {}
