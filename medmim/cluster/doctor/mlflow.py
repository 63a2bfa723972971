"""Whether MLflow answers under the name that pods use, lets this user in, and writes."""

import os
import secrets
from typing import Any
from urllib.parse import urlsplit

from medmim.cluster.doctor.servers import request, without_password
from medmim.cluster.ray.pods import TRACKING_KEYS
from medmim.doctor.check import Check
from medmim.errors import Unavailable, UserError


def mlflow(uri: str, configured: str) -> Check:
    """Whether MLflow answers, under the name that pods use too, and writes.

    A registered model is made and removed: unlike an experiment or a run, nothing of it stays.

    Args:
        uri: Its address from here.
        configured: Its address in the cluster, if it is another.
    """
    if not uri.startswith(("http://", "https://")):
        raise UserError(
            f"MLflow is {without_password(uri) or 'not set'}",
            reason="pods share no database",
            fix="set MLFLOW_TRACKING_URI in ConfigMap medmim, or platform.tracking, to http(s)://HOST:PORT",
        )
    for address in dict.fromkeys([uri, configured or uri]):
        host = urlsplit(address).netloc.rpartition("@")[2]
        _call(uri, "POST", "experiments/search", {"max_results": 1}, host)
    version = request("GET", f"{uri}/version", headers=_bearer(), login=_login()).text.strip()[:20]
    name = f"medmim-doctor-{secrets.token_hex(4)}"
    _call(uri, "POST", "registered-models/create", {"name": name})
    try:
        said = _call(uri, "GET", "registered-models/get", {"name": name})
    finally:
        _call(uri, "DELETE", "registered-models/delete", {"name": name})
    if said.get("registered_model", {}).get("name") != name:
        raise UserError(
            f"MLflow at {without_password(uri)} gives back something else than was written", fix="look at its log"
        )
    return Check("mlflow", "ok", f"{version}, {without_password(uri)}: lets {host} in, writes, reads, deletes")


def _call(uri: str, method: str, path: str, body: dict[str, Any], host: str = "") -> dict[str, Any]:
    headers = _bearer() | ({"Host": host} if host else {})
    answer = request(method, f"{uri.rstrip('/')}/api/2.0/mlflow/{path}", body, headers, _login())
    at, said = without_password(uri), answer.text[:200].replace("\n", " ")
    if answer.status_code == 403 and "Host" in said:
        raise UserError(
            f"MLflow at {at} does not let the host name {host} in",
            reason=said,
            fix=f"add {host} to --allowed-hosts (or MLFLOW_SERVER_ALLOWED_HOSTS) of its server; the list replaces "
            "MLflow's own",
        )
    page = "html" in answer.headers.get("Content-Type", "") and said.lstrip().startswith(
        "<"
    )  # MLflow's own 401 is text
    if answer.is_redirect or page:
        raise UserError(f"a login page answers at {at}, not MLflow", fix="ask its Service, not the ingress in front")
    if answer.status_code in (401, 403):
        raise _refused(at, path, answer.status_code, said)
    if answer.status_code >= 500:
        raise Unavailable(f"MLflow at {at} answers {answer.status_code} to {path}", said, "look at its log, disk first")
    if answer.status_code != 200:
        raise UserError(f"MLflow at {at} answers {answer.status_code} to {path}", said, "check MLFLOW_TRACKING_URI")
    try:
        return dict(answer.json())
    except ValueError:
        raise UserError(f"what answers at {at} is not MLflow", said, "check MLFLOW_TRACKING_URI") from None


def _refused(at: str, path: str, status: int, said: str) -> UserError:
    """Why a server with users says no: nobody logs in, a wrong password, or too few rights."""
    login = _login()
    who = f"user {login[0]}" if login else "the bearer of MLFLOW_TRACKING_TOKEN" if _bearer() else ""
    source = f"pods take {' and '.join(TRACKING_KEYS)} from Secret medmim-mlflow of their namespace"
    if not who:
        unset = " and ".join(key for key in TRACKING_KEYS if not os.environ.get(key))
        return UserError(
            f"MLflow at {at} has users, and nobody logs in: {status}",
            f"{unset} {'are' if ' and ' in unset else 'is'} not set here",
            f"export a user's name and password here; {source}",
        )
    if status == 401:
        return UserError(
            f"MLflow at {at} does not let {who} in: 401",
            "the password is wrong, or the server knows no such user" if login else said,
            f"set what the server knows, here and there: {source}; a new password: charts/medmim/README.md, Users",
        )
    return UserError(
        f"MLflow at {at} lets {who} in, but refuses {path}: {status}",
        said,
        f"an administrator takes the denial back, or gives steps a user of their own (charts/medmim/README.md, Users); "
        f"{source}",
    )


def _login() -> tuple[str, str] | None:
    user, password = map(os.environ.get, TRACKING_KEYS)
    return (user, password) if user and password else None


def _bearer() -> dict[str, str]:
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    return {"Authorization": f"Bearer {token}"} if token else {}
