"""Kubernetes as plain dictionaries: few verbs, calls that outlast a short outage, and errors that name the fix."""

import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from medmim.errors import Unavailable, UserError, require, retrying, time_left

Object = dict[str, Any]  # as Kubernetes' API gives it

API = {
    "version": "",
    "namespaces": "/api/v1",
    "pods": "/api/v1",
    "events": "/api/v1",
    "rayjobs": "/apis/ray.io/v1",
    "rayclusters": "/apis/ray.io/v1",
    "leases": "/apis/coordination.k8s.io/v1",
    "jobs": "/apis/batch/v1",
    "podtemplates": "/api/v1",
    "configmaps": "/api/v1",
    "selfsubjectreviews": "/apis/authentication.k8s.io/v1",
    "workflows": "/apis/argoproj.io/v1alpha1",
}
MANAGED_BY_MEDMIM = "app.kubernetes.io/managed-by=medmim"
_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_SECONDS = (5.0, 30.0)  # to connect, to answer
_FRESH = 60.0  # s in which two clocks run alike


class Retryable(Exception):
    """The API server does not answer or is overloaded; the same call may succeed in a moment."""


class Forbidden(UserError):
    """This account may not do what was asked for."""


def parse_time(text: str) -> datetime:
    """A time as Kubernetes writes it, such as 2026-11-25T12:00:00Z."""
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


@dataclass(frozen=True)
class Kube:
    """A cluster as one account sees it.

    Attributes:
        api: The `kubernetes` client's ApiClient.
        namespace: Of all its calls.
        clock: The API server's time in its last answer, and this machine's own clock then.
    """

    api: Any
    namespace: str
    clock: list[tuple[datetime, float]] = field(default_factory=list, repr=False, compare=False)

    def get(self, kind: str, name: str) -> Object | None:
        """The object, or None where there is none."""
        found: Object | None = self._call("GET", "get", kind, name)[0]
        return found

    def list(self, kind: str, selector: str = "", fields: str = "") -> list[Object]:
        """The objects that match a label selector and a field selector."""
        given = {"labelSelector": selector, "fieldSelector": fields}
        query = urlencode({key: value for key, value in given.items() if value})
        found: list[Object] = (self._call("GET", "list", kind, query=query)[0] or {}).get("items", [])
        return found

    def create(self, kind: str, body: Object) -> Object | None:
        """The new object, or None where one of that name is there already."""
        made: Object | None = self._call("POST", "create", kind, body=body)[0]
        return made

    def patch(self, kind: str, name: str, body: Object) -> Object | None:
        """Merge a change into an object; None where it is gone."""
        changed: Object | None = self._call("PATCH", "patch", kind, name, body)[0]
        return changed

    def delete(self, kind: str, name: str, uid: str) -> None:
        """Delete the object of that UID, and what it owns; nothing where it is gone."""
        body = {"propagationPolicy": "Background", "preconditions": {"uid": uid}}
        self._call("DELETE", "delete", kind, name, body)

    def user(self) -> str:
        """The name of the user behind these calls, as the API server knows it."""
        path = f"{API['selfsubjectreviews']}/selfsubjectreviews"
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
        said = self._retry("POST", "create", "selfsubjectreviews", path, body)[0]  # every account may ask
        return str(said["status"]["userInfo"]["username"])

    def check_namespace(self) -> None:
        """Check that the namespace exists: in one that does not, an account with cluster-wide rights lists nothing.

        Raises:
            UserError: It does not exist.
        """
        if self._retry("GET", "get", "namespaces", f"{API['namespaces']}/namespaces/{self.namespace}")[0] is None:
            raise _no_namespace(self.namespace, "no namespace has that name")

    def log(self, pod: str, container: str, since: int | None = None, last_lines: int | None = None) -> str:
        """A container's log with a time before each line; empty while there is none."""
        options = {"container": container, "timestamps": "true"}
        options |= {"sinceSeconds": str(max(1, since))} if since is not None else {}
        options |= {"tailLines": str(last_lines)} if last_lines is not None else {}
        query = urlencode(options)
        return self._call("GET", "get", "pods", f"{pod}/log", query=query)[0] or ""

    def now(self) -> datetime:
        """The API server's clock: that of this machine may be wrong. Each answer has it, so it is seldom asked for."""
        if not self.clock or time.monotonic() - self.clock[0][1] > _FRESH:
            self._retry("GET", "get", "version", "/version")  # every account may read it
        told, then = self.clock[0]
        return told + timedelta(seconds=time.monotonic() - then)

    def _call(
        self, method: str, verb: str, kind: str, name: str = "", body: Object | None = None, query: str = ""
    ) -> tuple[Any, Mapping[str, str]]:
        path = f"{API[kind]}/namespaces/{self.namespace}/{kind}{'/' if name else ''}{name}{'?' if query else ''}{query}"
        return self._retry(method, verb, kind, path, body)

    def _retry(
        self, method: str, verb: str, kind: str, path: str, body: Object | None = None
    ) -> tuple[Any, Mapping[str, str]]:
        try:
            return retrying(Retryable)(self._once, method, verb, kind, path, body)
        except Retryable as error:
            raise Unavailable(
                f"the Kubernetes API at {self.api.configuration.host} does not answer",
                reason=str(error)[:300],
                fix="check KUBECONFIG, its context and the network, then run the same command again",
            ) from None

    def _once(self, method: str, verb: str, kind: str, path: str, body: Object | None) -> tuple[Any, Mapping[str, str]]:
        is_log = path.partition("?")[0].endswith("/log")
        status, answer, headers = self.request(method, path, body)
        if "Date" in headers:
            self.clock[:] = [(parsedate_to_datetime(headers["Date"]), time.monotonic())]
        if status < 300:
            return (answer if is_log else json.loads(answer)), headers
        if is_log and status in (400, 404, 500):  # not started; its pod is gone; its node does not answer
            return "", {}
        if status == 429 or status >= 500:
            raise Retryable(f"{status} {answer[:300]}")
        if verb in ("get", "patch", "delete") and status == 404:
            return None, {}
        if verb in ("create", "delete") and status == 409:  # exists already; has another UID
            return None, {}
        raise _refusal(status, answer, verb, kind, self.namespace)

    def request(
        self, method: str, path: str, body: Object | None = None, seconds: tuple[float, float] = _SECONDS
    ) -> tuple[int, str, Mapping[str, str]]:
        """One request, tried once: status, text and headers of the answer, refusals too.

        Args:
            method: Of HTTP; PATCH is a merge patch.
            path: With its query.
            body: Becomes JSON.
            seconds: To connect, and between two bytes of the answer.

        Raises:
            Retryable: The server does not answer.
            UserError: The server's certificate is not trusted.
        """
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        seconds = (min(seconds[0], time_left() + 1), min(seconds[1], time_left() + 1))
        headers = {
            "Accept": "*/*" if path.partition("?")[0].endswith("/log") else "application/json",
            "Content-Type": "application/merge-patch+json" if method == "PATCH" else "application/json",
        }
        try:
            answer, status, _ = self.api.call_api(
                path, method, header_params=headers, body=body, auth_settings=["BearerToken"],
                _preload_content=False, _return_http_data_only=False, _request_timeout=seconds,
            )  # fmt: skip
            # the client leaves the body to us: its own decoding wants a model class for each kind
            return status, answer.data.decode("utf-8", "replace"), answer.headers
        except ApiException as error:
            if error.status:
                text = error.body or error.reason
                if isinstance(text, bytes):
                    text = text.decode("utf-8", "replace")
                return error.status, str(text), error.headers or {}
            reason = str(error.reason)
        except HTTPError as error:
            reason = str(error)
        if "CERTIFICATE_VERIFY_FAILED" in reason:
            raise self._untrusted(reason)
        raise Retryable(reason)

    def _untrusted(self, reason: str) -> UserError:
        return UserError(
            f"the certificate of the Kubernetes API at {self.api.configuration.host} is not trusted",
            reason=reason[-200:],
            fix="use the kubeconfig of that very cluster: its certificate-authority must match",
        )


def connect(namespace: str | None = None) -> Kube:
    """The cluster of this pod's account, or of KUBECONFIG's current context.

    Raises:
        UserError: Neither exists, or the file cannot be used.
    """
    client = require("kubernetes.client", "cluster")
    config = require("kubernetes.config", "cluster")
    settings = client.Configuration()
    if os.environ.get("KUBERNETES_SERVICE_HOST") and (_ACCOUNT / "token").exists():
        config.load_incluster_config(client_configuration=settings)
        own = (_ACCOUNT / "namespace").read_text(encoding="utf-8").strip()
    else:
        own = _from_file(config, settings)
    settings.retries = False  # _retry does
    return Kube(client.ApiClient(settings), namespace or own)


def _from_file(config: Any, settings: Any) -> str:
    import yaml

    path = os.environ.get("KUBECONFIG") or "~/.kube/config"
    try:
        with _logged_errors() as errors:
            config.load_kube_config(path, client_configuration=settings)  # else it reads KUBECONFIG as at its import
        _, active = config.list_kube_config_contexts(path)
    except (config.ConfigException, yaml.YAMLError, OSError, TypeError, AttributeError, KeyError) as error:
        raise UserError(
            f"no Kubernetes cluster: {path} cannot be used",
            reason="it is no kubeconfig" if isinstance(error, TypeError) else str(error).replace("\n", " ")[:300],
            fix="set KUBECONFIG to the file that your cluster's administrator gave you; `kubectl get pods` must work",
        ) from None
    if errors:
        raise UserError(
            f"not logged in to the cluster of {path}",
            reason=f"its login command fails: {'; '.join(errors)[:300]}",
            fix="install that command or log in again: `kubectl get pods` must work",
        )
    return str(active["context"].get("namespace", "default"))


@contextmanager
def _logged_errors() -> Iterator[list[str]]:
    """The errors logged meanwhile: the client only logs that a login command failed, and goes on without an account."""
    messages: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage().strip())

    collector = Collector(logging.ERROR)
    logging.getLogger().addHandler(collector)
    try:
        yield messages
    finally:
        logging.getLogger().removeHandler(collector)


def _refusal(status: int, text: str, verb: str, kind: str, namespace: str) -> UserError:
    """The API server's refusal as a fact, its reason and the fix."""
    try:
        message = str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        message = text.strip()[:300]
    group = API[kind].split("/")[2] if API[kind].startswith("/apis") else ""
    resource = f"{kind}.{group}" if group else kind
    if status == 401 or "system:anonymous" in message:
        return UserError(
            "the Kubernetes API does not know this account",
            reason=message,
            fix="log in to the cluster again, or set KUBECONFIG to a file with valid credentials",
        )
    if status == 403 and "exceeded quota" in message:
        return UserError(
            f"the quota of namespace {namespace} does not allow this",
            reason=message,
            fix="ask for less in platform.pods, end other jobs, or have the ResourceQuota raised",
        )
    if status == 403 and "cannot" in message:
        return Forbidden(
            f"this account may not {verb} {resource} in namespace {namespace}",
            reason=message,
            fix=f'add to its Role: {{apiGroups: ["{group}"], resources: ["{kind}"], verbs: ["{verb}"]}}',
        )
    if status == 404 and group in ("ray.io", "argoproj.io") and "page not found" in text:
        return UserError(
            f"this cluster has no {resource} of {API[kind].rpartition('/')[2]}",
            reason="KubeRay's CRDs are missing or of another version" if group == "ray.io" else message,
            fix="install KubeRay 1.5 or newer (its chart brings operator and CRDs)" if group == "ray.io" else "",
        )
    if status == 404:
        return _no_namespace(namespace, message)
    return UserError(
        f"the cluster refuses to {verb} {resource} in namespace {namespace}",
        reason=message,
        fix="is it Kubernetes' API that KUBECONFIG names, with https://? Else ask the cluster's administrator",
    )


def _no_namespace(name: str, reason: str) -> UserError:
    return UserError(
        f"namespace {name} does not exist",
        reason=reason,
        fix="check platform.pods.namespace, --namespace and KUBECONFIG",
    )
