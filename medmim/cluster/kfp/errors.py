"""The errors of a KFP API server as errors of medmim: what it refused, or that it did not answer, and the fix."""

import json
import re
from typing import Any

from medmim.cluster.kfp.access import FORWARD, Access, credentials
from medmim.errors import Unavailable, UserError

# What KFP answers 5xx to and would answer again, or that it has begun and would refuse when asked again.
_FINAL = re.compile(
    r'invalid ?input ?error|NotFoundError|workflows\.argoproj\.io "[^"]*" not found|error terminating its workflow',
    re.IGNORECASE,
)


_GATEWAY = (502, 504)  # of what is in front of KFP: its own error is 500 or 503


class Refusal(UserError):
    """The server understood the request and refused it.

    Attributes:
        status: Of HTTP.
    """

    def __init__(self, status: int, fact: str, reason: str = "", fix: str = "") -> None:
        super().__init__(fact, reason, fix)
        self.status = status


class NotKfp(UserError):
    """The answer is not KFP's, or was cut off."""


class NotSent(Unavailable):
    """Nothing was sent: there was no connection."""


class Unanswered(Unavailable):
    """A request was sent, and no answer came from KFP: it may still be served, by a server that is slow."""


def from_response(access: Access, doing: str, status: int, body: Any) -> UserError:
    """The error of an answer other than 2xx.

    KFP's own body is `{code, message, details}`, that of uploads `{error_message, error_details}` or plain text.
    """
    text = body.decode("utf-8", "replace") if isinstance(body, bytes) else str(body)
    message = _message(text)
    if status == 0:
        return untrusted(access, text)
    page = _is_page(text)
    if 300 <= status < 400 or page and status < 500 and status != 404:
        return login_page(access)
    if status == 401 or (status == 403 and not text.lstrip().startswith("{")):  # from a proxy in front of it
        return Refusal(
            status,
            f"KFP at {access.host} does not accept this account ({status})",
            reason="; ".join(part for part in (message, f"sent {credentials(access)}") if part),
            fix="set KFP_TOKEN or KFP_TOKEN_FILE (kubectl create token ACCOUNT --audience=pipelines.kubeflow.org), or "
            "KFP_COOKIE; in a pod mount a token of that audience",
        )
    if status == 403:
        return Refusal(
            status,
            f"KFP at {access.host} forbids {doing}" + (f" in namespace {access.namespace}" if access.namespace else ""),
            reason=message,
            fix="give the --namespace of your own profile, or be made a contributor of that one",
        )
    if status == 429 or (status >= 500 and not _FINAL.search(message)):
        return (Unanswered if status in _GATEWAY else Unavailable)(
            f"KFP at {access.host} answers {status} to {doing}",
            reason=message,
            fix="kubectl -n kubeflow logs deploy/ml-pipeline; then run the same command again",
        )
    if status == 404 and (page or "code" not in text):
        return not_kfp(access, f"404 to {doing}")
    fix = "change what the reason names; `medmim submit --dry-run` shows what is sent"
    return Refusal(status, f"KFP at {access.host} refuses {doing} ({status})", message, fix)


def _is_page(text: str) -> bool:
    return "<html" in text.lower()[:500]


def _message(text: str) -> str:
    try:
        body = json.loads(text)
        return str(body.get("message") or body.get("error_message") or body.get("error") or "")[:600]
    except (ValueError, AttributeError):
        shown = re.sub(r"<[^>]*>", " ", text) if _is_page(text) else text
        return " ".join(shown.split())[:300]


def no_answer(access: Access, error: Exception) -> UserError:
    """The error of a request without an answer: no connection, a timeout, an untrusted certificate."""
    from urllib3.exceptions import ConnectTimeoutError, NewConnectionError, ReadTimeoutError

    cause = getattr(error, "reason", None) or error
    if "CERTIFICATE_VERIFY_FAILED" in str(cause) or "SSLError" in type(cause).__name__:
        return untrusted(access, str(cause))
    if isinstance(cause, ReadTimeoutError):
        waited = re.search(r"read timeout=([\d.]+)", str(cause))
        return Unanswered(
            f"KFP at {access.host} does not answer",
            reason=f"it accepts connections, and then says nothing{f' for {float(waited[1]):.0f} s' if waited else ''}",
            fix="kubectl -n kubeflow get pods, and the log of ml-pipeline; or check the address: from outside the "
            f"cluster {FORWARD}",
        )
    kind = NotSent if isinstance(cause, NewConnectionError | ConnectTimeoutError) else Unanswered
    return kind(
        f"KFP at {access.host} does not answer",
        reason=str(cause)[-200:],
        fix=f"check the address; from outside the cluster: {FORWARD}",
    )


def untrusted(access: Access, reason: str) -> UserError:
    """The error of a TLS connection that failed."""
    return UserError(
        f"no secure connection to KFP at {access.host}",
        reason=reason.replace("\n", " ")[-200:],
        fix="set KFP_CA_FILE to the file of the authority that signed its certificate; is it https:// at all?",
    )


def login_page(access: Access) -> UserError:
    """The error of a web page or a redirect in the place of JSON."""
    return UserError(
        f"a login page answers at {access.host}, not KFP's API",
        reason=f"sent {credentials(access)}",
        fix="set KFP_COOKIE to the cookie that a login in the browser leaves (authservice_session=..., "
        f"oauth2_proxy_kubeflow=...), or KFP_TOKEN; or bypass the login: {FORWARD}",
    )


def not_kfp(access: Access, reason: str) -> "NotKfp":
    """The error of a server that is something else than KFP."""
    return NotKfp(
        f"what answers at {access.host} is not the API v2beta1 of KFP",
        reason=reason,
        fix="check --host: the address of ml-pipeline, or of Kubeflow with /pipeline at its end",
    )
