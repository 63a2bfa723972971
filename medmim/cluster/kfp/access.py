"""How to reach a KFP API server: its address and the login, from options, the environment or the pod."""

import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from medmim.errors import UserError
from medmim.recipe import names

_TOKEN_OF_POD = "/var/run/secrets/kubeflow/pipelines/token"  # noqa: S105  a path; `KF_PIPELINES_SA_TOKEN_PATH` of kfp
_NAMESPACE_OF_POD = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
SDK_CONTEXT = Path("~/.config/kfp/context.json")  # the SDK's own settings
FORWARD = "kubectl -n kubeflow port-forward svc/ml-pipeline 8888:8888, then --host http://localhost:8888"


@dataclass(frozen=True)
class Access:
    """How to reach a KFP API server.

    Attributes:
        host: Its address, with http:// or https://.
        namespace: The user's own, where KFP serves many users; may be empty.
        token: Bearer token; or
        token_file: a file that holds one, read again for each request, as projected tokens change.
        cookie: What a login leaves in a browser, such as `authservice_session=...` of Dex.
        ca: File of the authority that signed the server's certificate.
        ui: Address of KFP's web pages; where it is not given, the host if that has any.
    """

    host: str
    namespace: str = ""
    token: str = field(default="", repr=False)
    token_file: str = ""
    cookie: str = field(default="", repr=False)
    ca: str = ""
    ui: str = ""


def resolve(host: str | None = None, namespace: str | None = None) -> Access:
    """How to reach KFP: by options, else the environment, the SDK's own settings, or the address within a cluster.

    KFP_ENDPOINT or KF_PIPELINES_ENDPOINT, KFP_TOKEN or KFP_TOKEN_FILE (KF_PIPELINES_SA_TOKEN_PATH in a pod),
    KFP_COOKIE, KFP_CA_FILE, KF_PIPELINES_UI_ENDPOINT, KFP_NAMESPACE.

    Raises:
        UserError: KFP's address is not configured, or a setting is invalid.
    """
    env, pod = os.environ.get, bool(os.environ.get("KUBERNETES_SERVICE_HOST"))
    at = host or env("KFP_ENDPOINT") or env("KF_PIPELINES_ENDPOINT") or (names.KFP_ENDPOINT if pod else "")
    if not at:
        raise UserError(
            "KFP's address is not configured",
            fix=f"give --host or set KFP_ENDPOINT to its address; from outside the cluster: {FORWARD}",
        )
    if not re.match(r"https?://[^\s/]+", at):
        raise UserError(
            f"KFP's address '{at}' is no URL", fix="give it with http:// or https://, such as http://localhost:8888"
        )
    if urlsplit(at).username or urlsplit(at).password:
        raise UserError(
            "KFP's address holds a user or a password, and links would show it",
            fix="give the bare address, and the credentials as KFP_TOKEN or KFP_COOKIE",
        )
    token_file = env("KFP_TOKEN_FILE") or env("KF_PIPELINES_SA_TOKEN_PATH") or ""
    if not token_file and pod and Path(_TOKEN_OF_POD).exists():
        token_file = _TOKEN_OF_POD
    for name, path in (("KFP_TOKEN_FILE", token_file), ("KFP_CA_FILE", env("KFP_CA_FILE"))):
        if path and not os.access(path, os.R_OK):
            raise UserError(f"{name}: {path} cannot be read", fix="give a file that exists, or unset it")
    if token_file and not Path(token_file).read_text(encoding="utf-8").strip():
        raise UserError(f"KFP_TOKEN_FILE: {token_file} is empty", fix="write a token into it, or unset it")
    return Access(
        host=at.rstrip("/"),
        namespace=namespace or env("KFP_NAMESPACE") or _default_namespace(),
        token=_header("KFP_TOKEN"),
        token_file=token_file,
        cookie=_header("KFP_COOKIE"),
        ca=env("KFP_CA_FILE") or "",
        ui=env("KF_PIPELINES_UI_ENDPOINT") or "",
    )


def headers(access: Access) -> dict[str, str]:
    """The HTTP headers by which a request logs in; a token file is read now."""
    token = access.token or (Path(access.token_file).read_text(encoding="utf-8").strip() if access.token_file else "")
    found = {"Authorization": f"Bearer {token}" if token else "", "Cookie": access.cookie}
    return {name: value for name, value in found.items() if value}


def credentials(access: Access) -> str:
    """What a request logs in with, for a message; no secret."""
    given = {"a token": access.token, f"the token in {access.token_file}": access.token_file, "a cookie": access.cookie}
    return " and ".join(name for name, value in given.items() if value) or "no token and no cookie"


def _header(name: str) -> str:
    """A secret of the environment for an HTTP header; files and Secrets often end it with a line break."""
    value = os.environ.get(name, "").strip()
    if not value.isprintable() or not value.isascii():
        raise UserError(f"{name} holds characters that are not allowed in a header", fix="set it again, in one line")
    return value


def _default_namespace() -> str:
    """The namespace of the SDK's settings, or of this pod."""
    try:
        found = str(json.loads(SDK_CONTEXT.expanduser().read_text(encoding="utf-8")).get("namespace") or "")
    except (OSError, ValueError, AttributeError):
        found = ""
    return found or (_NAMESPACE_OF_POD.read_text(encoding="utf-8").strip() if _NAMESPACE_OF_POD.exists() else "")
