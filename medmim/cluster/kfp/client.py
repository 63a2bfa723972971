"""A KFP API server through `kfp.Client`: one way to call it, with its errors.

`kfp.Client` provides addresses, tokens, cookies and certificates; its own calls are not used, since they print, wait
for minutes and parse a login page as an empty answer. Calls go through the API classes that it makes.
"""

import json
import logging
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import quote

from medmim.cluster.kfp import errors
from medmim.cluster.kfp.access import SDK_CONTEXT, Access
from medmim.errors import Unavailable, UserError, patience, retrying, time_left, within
from medmim.progress import waiting_for
from medmim.recipe import names

# kfp.Client takes "kubeflow" for none, and then asks the server itself, without a timeout, and writes a file. Each call
# here names the namespace of its own.
_ANY_NAMESPACE = "default"
_SECONDS = (5, 60)  # to connect, to answer
_SECONDS_OF_HEALTH = 20  # for the first question, which no database answers
_SHORTEST = 0.1  # s of a request whose time is over
_SECONDS_OF_PAGES = (5, 5)
# Major and minor. Also the oldest that works: an older server silently drops fields of pods that it does not know.
COMPILED_FOR = tuple(map(int, names.KFP_VERSION.split(".")[:2]))


@dataclass(frozen=True)
class Api:
    """A server that answered.

    Attributes:
        client: The `kfp.Client`.
        access: How it was reached.
        tag: Its version.
        multi_user: Whether runs and pipelines lie in namespaces of users.
    """

    client: Any
    access: Access
    tag: str = ""
    multi_user: bool = False

    @property
    def namespace(self) -> str:
        """That of the runs; empty where the server has one user only."""
        return self.access.namespace if self.multi_user else ""

    @property
    def transport(self) -> Any:
        """The generated `ApiClient` that all of the client's APIs share."""
        return self.client.runs.run_service_get_run.__self__.api_client

    @cached_property
    def pages(self) -> str:
        """Address of KFP's web pages; empty where only its API is known: Service ml-pipeline has none."""
        from kfp_server_api import ApiException
        from urllib3.exceptions import HTTPError

        if self.access.ui:
            return self.access.ui.rstrip("/")
        try:
            answer = self.transport.call_api(
                "/", "GET", auth_settings=["Bearer"], _preload_content=False, _return_http_data_only=True,
                _request_timeout=_SECONDS_OF_PAGES,
            )  # fmt: skip
            answer.drain_conn()  # else the next call needs a connection of its own, and this one ends in a reset
        except (ApiException, HTTPError, OSError):
            return ""
        return self.access.host if "html" in answer.headers.get("Content-Type", "") else ""

    def link(self, page: str) -> str:
        """Address of a page of KFP's user interface, such as `runs/details/ID`; empty where none is known."""
        return f"{self.pages}/#/{page}" if self.pages else ""

    def call(
        self,
        doing: str,
        function: Callable[..., Any],
        *,
        idempotent: bool = True,
        seconds: float = _SECONDS[1],
        **arguments: Any,
    ) -> Any:
        """One request by a generated API function. After three seconds a line says that it is waited for.

        Args:
            doing: Names it in errors, such as `listing runs`.
            function: Of `client.runs`, `client.pipelines`, ...
            idempotent: Whether it may be sent twice; else it is repeated only while nothing was sent.
            seconds: After which it is given up, all tries together, unless MEDMIM_PATIENCE says otherwise.
            arguments: Those of the function.

        Returns:
            The model that the function returns.

        Raises:
            UserError: What the server refuses; `status` is HTTP's.
            Unavailable: It does not answer, or answers 5xx.
        """
        temporary = Unavailable if idempotent else errors.NotSent
        with within(patience() or seconds), waiting_for(f"KFP at {self.access.host}"):
            return retrying(temporary)(self._once, doing, function, arguments)

    def _once(self, doing: str, function: Callable[..., Any], arguments: dict[str, Any]) -> Any:
        try:
            return self._asked(doing, function, arguments)
        except errors.NotKfp as error:
            if not self.tag:
                raise
            # It was KFP before: its answer was cut off, or an ingress has none of its pods to ask.
            raise errors.Unanswered(error.fact, error.reason, error.fix) from None

    def _asked(self, doing: str, function: Callable[..., Any], arguments: dict[str, Any]) -> Any:
        from kfp_server_api import ApiException
        from urllib3.exceptions import HTTPError

        try:
            connect, answer = (min(longest, max(time_left(), _SHORTEST)) for longest in _SECONDS)
            found = function(**arguments, _request_timeout=(connect, answer))
        except ApiException as error:
            raise errors.from_response(self.access, doing, error.status or 0, error.body or error.reason) from None
        except HTTPError as error:
            raise errors.no_answer(self.access, error) from None
        except OSError as error:  # a token file that is gone
            raise UserError(f"KFP cannot be called: {error}", fix="check KFP_TOKEN_FILE") from None
        except (ValueError, TypeError, KeyError) as error:  # an answer that is no such model
            raise errors.not_kfp(self.access, str(error)) from None
        answer = self.transport.last_response
        kind = answer.getheader("Content-Type", "") if hasattr(answer, "getheader") else answer.headers["Content-Type"]
        if "html" in (kind or ""):
            raise errors.login_page(self.access)
        if arguments.get("_preload_content", True) and not _is_object(answer.data):
            raise errors.not_kfp(self.access, str(answer.data)[:200])
        return found


def connect(access: Access) -> Api:
    """The server, once it has reported its version.

    Raises:
        UserError: It is not KFP, is an older one, requires a login, or is multi-user and no namespace is configured.
        Unavailable: It does not answer.
    """
    api = Api(_client(access), access)
    health_of = api.client.healthzs.healthz_service_get_healthz
    answer = api.call("reading its version", health_of, seconds=_SECONDS_OF_HEALTH, _preload_content=False)
    try:
        health = dict(json.loads(answer.data))
    except (ValueError, TypeError):
        raise errors.not_kfp(access, str(answer.data)[:200]) from None
    if "tag_name" not in health:  # which the generated model leaves out
        raise errors.not_kfp(access, json.dumps(health)[:200])
    tag, multi_user = str(health["tag_name"]), bool(health.get("multi_user"))
    version = major_minor(tag)
    if version and version < COMPILED_FOR:
        oldest = ".".join(map(str, COMPILED_FOR))
        raise UserError(
            f"KFP {tag} at {access.host}",
            reason=f"the pipelines are compiled for {oldest}; an older server silently drops what it does not know, "
            "secrets of pods among it",
            fix=f"upgrade Kubeflow Pipelines to {oldest}",
        )
    if multi_user and not access.namespace:
        raise UserError(
            f"KFP at {access.host} is multi-user, and no namespace is configured",
            fix="give --namespace (or KFP_NAMESPACE): the namespace of your profile",
        )
    return Api(api.client, access, tag, multi_user)


def major_minor(version: str) -> tuple[int, int] | None:
    """(2, 17) of `2.17.0`, `v2.17.0` or `kfp-2.17.0`; None of a branch's name."""
    found = re.match(r"(?:v|kfp-)?(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else None


def where(**equal: str) -> str:
    """A filter of KFP's lists: every field equals its value."""
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
                namespace=_ANY_NAMESPACE,
                existing_token=access.token or None,
                credentials=ServiceAccountTokenVolumeCredentials(access.token_file) if access.token_file else None,
                cookies=access.cookie or None,
                ssl_ca_cert=access.ca or None,
                ui_host=access.ui or None,
            )
        except (ValueError, TypeError, OSError) as error:
            raise UserError(
                "kfp's own settings cannot be read", reason=str(error)[:200], fix=f"fix or remove {SDK_CONTEXT}"
            ) from None
    pool = Api(client, access).transport.rest_client.pool_manager
    pool.connection_pool_kw["retries"] = urllib3.Retry(
        0, redirect=0, raise_on_redirect=False
    )  # `call` retries; a redirect is a login page
    return client


def _is_object(data: Any) -> bool:
    try:
        return isinstance(json.loads(data), dict)
    except (ValueError, TypeError):
        return False
