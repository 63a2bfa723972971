"""A KFP API server through `kfp.Client`: who asks, and what its answers mean to people.

`kfp.Client` brings addresses, tokens, cookies and certificates; of its own calls none is used, since they print, wait
for minutes and take a login page for an empty answer. Calls go through the API classes that it makes.
"""

import json
import logging
import os
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from tenacity import (
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    stop_after_delay,
    stop_all,
    wait_exponential_jitter,
)

from medmim.cluster.kfp import errors
from medmim.cluster.kfp.errors import Access
from medmim.errors import Unavailable, UserError, patience

IN_CLUSTER = "http://ml-pipeline.kubeflow:8888"  # where KFP's own manifests put it
_TOKEN_OF_POD = "/var/run/secrets/kubeflow/pipelines/token"  # noqa: S105  a path; `KF_PIPELINES_SA_TOKEN_PATH` of kfp
_NAMESPACE_OF_POD = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_CONTEXT = Path("~/.config/kfp/context.json")  # the SDK's own settings
_SINGLE_USER = "default"  # a server for one user ignores it; without one kfp.Client asks the server and writes a file
_TRIES = 4  # and more while there is patience
_SECONDS = (5, 60)  # to connect, to answer
_OLDEST = (2, 17)  # an older server drops fields of pods that it does not know, secrets among them, without a word


@dataclass(frozen=True)
class Api:
    """A server that has answered.

    Attributes:
        client: The `kfp.Client`.
        access: How it was reached.
        tag: Its version.
        many_users: Whether runs and pipelines lie in namespaces of users.
    """

    client: Any
    access: Access
    tag: str = ""
    many_users: bool = False

    @property
    def namespace(self) -> str:
        """Whose runs; empty where the server knows one user only."""
        return self.access.namespace if self.many_users else ""

    @property
    def transport(self) -> Any:
        """The generated `ApiClient` that all of the client's APIs share."""
        return self.client.runs.run_service_get_run.__self__.api_client

    def link(self, place: str) -> str:
        """The page of the user interface for `runs/details/ID` and the like."""
        return f"{(self.access.ui or self.access.host).rstrip('/')}/#/{place}"

    def call(self, doing: str, ask: Callable[..., Any], *, again: bool = True, **arguments: Any) -> Any:
        """One request by a generated API function.

        Args:
            doing: What people call it, such as `listing runs`.
            ask: A function of `client.runs`, `client.pipelines`, ...
            again: Whether asking twice does no harm; else it is repeated only while nothing was sent.
            arguments: Those of the function.

        Returns:
            The model that the function returns.

        Raises:
            UserError: What the server refuses; `status` is HTTP's.
            Unavailable: It does not answer, or answers 5xx.
        """
        return Retrying(
            retry=retry_if_exception_type(Unavailable if again else errors.Unsent),
            stop=stop_all(stop_after_attempt(_TRIES), stop_after_delay(patience())),
            wait=wait_exponential_jitter(initial=0.3, max=5),
            reraise=True,
        )(self._once, doing, ask, arguments)

    def _once(self, doing: str, ask: Callable[..., Any], arguments: dict[str, Any]) -> Any:
        from kfp_server_api import ApiException
        from urllib3.exceptions import HTTPError

        try:
            found = ask(**arguments, _request_timeout=_SECONDS)
        except ApiException as error:
            raise errors.refusal(self.access, doing, error.status or 0, error.body or error.reason) from None
        except HTTPError as error:
            raise errors.silence(self.access, error) from None
        except OSError as error:  # a token's file that is gone
            raise UserError(f"KFP cannot be asked: {error}", fix="check KFP_TOKEN_FILE") from None
        except (ValueError, TypeError, KeyError) as error:  # an answer that is no such model
            raise errors.foreign(self.access, str(error)) from None
        answer = self.transport.last_response
        kind = answer.getheader("Content-Type", "") if hasattr(answer, "getheader") else answer.headers["Content-Type"]
        if "html" in (kind or ""):
            raise errors.login(self.access)
        if arguments.get("_preload_content", True) and not _is_object(answer.data):
            raise errors.foreign(self.access, str(answer.data)[:200])
        return found


def access(host: str | None = None, namespace: str | None = None) -> Access:
    """Options first, then the environment, then the SDK's own settings, then where a pod finds KFP.

    KFP_ENDPOINT or KF_PIPELINES_ENDPOINT, KFP_TOKEN or KFP_TOKEN_FILE (KF_PIPELINES_SA_TOKEN_PATH in a pod),
    KFP_COOKIE, KFP_CA_FILE, KF_PIPELINES_UI_ENDPOINT, KFP_NAMESPACE.

    Raises:
        UserError: Nobody says where KFP is, or what is said cannot be.
    """
    env, pod = os.environ.get, bool(os.environ.get("KUBERNETES_SERVICE_HOST"))
    at = host or env("KFP_ENDPOINT") or env("KF_PIPELINES_ENDPOINT") or (IN_CLUSTER if pod else "")
    if not at:
        raise UserError(
            "nobody says where KFP is",
            fix=f"give --host or set KFP_ENDPOINT to its address; from outside the cluster: {errors.FORWARD}",
        )
    if not re.match(r"https?://[^\s/]+", at):
        raise UserError(
            f"KFP's address is '{at}'", fix="give it with http:// or https://, such as http://localhost:8888"
        )
    if urlsplit(at).username or urlsplit(at).password:
        raise UserError(
            "KFP's address holds a user or a password, and links would show it",
            fix="give the bare address, and what identifies you as KFP_TOKEN or KFP_COOKIE",
        )
    token_file = env("KFP_TOKEN_FILE") or env("KF_PIPELINES_SA_TOKEN_PATH") or ""
    if not token_file and pod and Path(_TOKEN_OF_POD).exists():
        token_file = _TOKEN_OF_POD
    for name, path in (("KFP_TOKEN_FILE", token_file), ("KFP_CA_FILE", env("KFP_CA_FILE"))):
        if path and not os.access(path, os.R_OK):
            raise UserError(f"{name}: {path} cannot be read", fix="give a file that is there, or unset it")
    if token_file and not Path(token_file).read_text().strip():
        raise UserError(f"KFP_TOKEN_FILE: {token_file} is empty", fix="write a token into it, or unset it")
    return Access(
        host=at.rstrip("/"),
        namespace=namespace or env("KFP_NAMESPACE") or _remembered(),
        token=_header("KFP_TOKEN"),
        token_file=token_file,
        cookie=_header("KFP_COOKIE"),
        ca=env("KFP_CA_FILE") or "",
        ui=env("KF_PIPELINES_UI_ENDPOINT") or "",
    )


def _header(name: str) -> str:
    """A secret of the environment that goes into a header; files and Secrets often end it with a line break."""
    value = os.environ.get(name, "").strip()
    if not value.isprintable() or not value.isascii():
        raise UserError(f"{name} holds characters that no header may have", fix="set it again, in one line")
    return value


def connect(access: Access) -> Api:
    """Ask the server who it is.

    Raises:
        UserError: It is not KFP, an older one, wants a login, or serves many users and no namespace is known.
        Unavailable: It does not answer.
    """
    api = Api(_client(access), access)
    answer = api.call("asking for its version", api.client.healthzs.healthz_service_get_healthz, _preload_content=False)
    try:
        said = dict(json.loads(answer.data))
    except (ValueError, TypeError):
        raise errors.foreign(access, str(answer.data)[:200]) from None
    if "tag_name" not in said:  # which the generated model leaves out
        raise errors.foreign(access, json.dumps(said)[:200])
    tag, many = str(said["tag_name"]), bool(said.get("multi_user"))
    version = numbers(tag)
    if version and version < _OLDEST:
        raise UserError(
            f"KFP {tag} at {access.host}",
            reason="the pipelines are compiled for 2.17; an older server drops what it does not know, secrets of pods "
            "among it, without a word",
            fix="upgrade Kubeflow Pipelines to 2.17",
        )
    if many and not access.namespace:
        raise UserError(
            f"KFP at {access.host} serves many users, and no namespace is named",
            fix="give --namespace (or KFP_NAMESPACE): the namespace of your profile",
        )
    return Api(api.client, access, tag, many)


def numbers(version: str) -> tuple[int, int] | None:
    """Major and minor of `2.17.0`, `v2.17.0` or `kfp-2.17.0`; None of a branch's name."""
    found = re.match(r"(?:v|kfp-)?(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else None


def where(**equal: str) -> str:
    """A filter as KFP's lists take it: every field equals its value."""
    return filtered(*({"operation": "EQUALS", "key": key, "string_value": value} for key, value in equal.items()))


def filtered(*predicates: dict[str, Any]) -> str:
    """A filter of predicates that must all hold; quoted, since KFP unquotes it once more than HTTP does."""
    return quote(json.dumps({"predicates": predicates}))


def _client(access: Access) -> Any:
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import kfp
        import urllib3
        from kfp.client import ServiceAccountTokenVolumeCredentials

        try:
            client = kfp.Client(
                host=access.host,
                namespace=access.namespace or _SINGLE_USER,
                existing_token=access.token or None,
                credentials=ServiceAccountTokenVolumeCredentials(access.token_file) if access.token_file else None,
                cookies=access.cookie or None,
                ssl_ca_cert=access.ca or None,
                ui_host=access.ui or None,
            )
        except (ValueError, TypeError, OSError) as error:
            raise UserError(
                "kfp's own settings cannot be read", reason=str(error)[:200], fix=f"mend or remove {_CONTEXT}"
            ) from None
    pool = Api(client, access).transport.rest_client.pool_manager
    pool.connection_pool_kw["retries"] = urllib3.Retry(0, redirect=0, raise_on_redirect=False)  # ours; no login page
    return client


def _remembered() -> str:
    """The namespace that the SDK's user set once, or the pod's."""
    try:
        found = str(json.loads(_CONTEXT.expanduser().read_text()).get("namespace") or "")
    except (OSError, ValueError, AttributeError):
        found = ""
    return found or (_NAMESPACE_OF_POD.read_text().strip() if _NAMESPACE_OF_POD.exists() else "")


def _is_object(data: Any) -> bool:
    try:
        return isinstance(json.loads(data), dict)
    except (ValueError, TypeError):
        return False
