"""A contract server: speaks HTTP as KFP's API server 2.17 does, so that the real kfp.Client can be driven against it.

No pipeline runs here: a test sets the states of a run (`begin`, `omit`, `end`, ...). Requests and answers are checked
against the models of kfp-server-api; kfp_refusals.yaml has what is refused, and how.
"""

import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from email.parser import BytesParser
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from tests.support import kfp_nodes
from tests.support.kfp_nodes import UNSPECIFIED
from tests.support.kfp_state import Object, Refused, State, now, strict


class Front:
    """What is in front of the API: a login, an outage, a lost answer. Tests change it while the server runs."""

    token = ""  # that a request must bear
    cookie = ""  # ... or this
    login = "redirect"  # what a request without either gets; or "page", or "refuse"
    tag = "2.17.0"
    pages = False  # ml-pipeline-ui has web pages and passes the API on; ml-pipeline has none
    fail: list[tuple[str, int]]  # (pattern of method and path, status): each is answered once, and nothing done
    lose: list[str]  # patterns: each is done once, and its answer lost
    slow: list[tuple[str, float]]  # (pattern, seconds): each is done once, so much later
    garble: list[tuple[str, Callable[[str], tuple[int, str]]]]  # (pattern, answer -> status and text): done, once

    def __init__(self) -> None:
        self.fail, self.lose, self.slow, self.garble = [], [], [], []
        self.requests: list[str] = []


class Kfp:
    def __init__(self, state: State, front: Front, address: str) -> None:
        self.state, self.front, self.address = state, front, address

    def changes(self) -> list[str]:
        """The requests so far that change something."""
        return [one for one in self.front.requests if not one.startswith("GET")]

    def run(self, name: str) -> Object:
        return next(one for one in self.state.runs.values() if one["display_name"] == name)

    def begin(self, run: Object, step: str, log: str = "", state: str = "RUNNING", again: int = 0) -> None:
        """A step whose pod has that state; `again`: in which try of the whole graph, which Argo retries as well."""
        with self.state.lock:
            node = kfp_nodes.begin(run, step, state, self.state.stock, again)
            if run["state"] in ("PENDING", UNSPECIFIED):
                self._state(run, "RUNNING")
            if log:
                self.state.logs[kfp_nodes.pod_name(run, node)] = log
            if log and state not in kfp_nodes.GOING:
                self.state.archive |= dict.fromkeys(((run["run_id"], one) for one in kfp_nodes.named(run, node)), log)

    def node(self, run: Object, step: str, again: int = 0) -> str:
        """The name of the node of a step's pod, which Argo writes on the pod as workflows.argoproj.io/node-name."""
        return kfp_nodes.chain(run, step, self.state.stock, again)[-1][0]

    def pod(self, run: Object, step: str, again: int = 0) -> str:
        return kfp_nodes.pod_name(run, self.node(run, step, again))

    def omit(self, run: Object, *steps: str) -> None:
        """Steps that never begin, since one before them failed; in the order of the graph."""
        with self.state.lock:
            kfp_nodes.omit(run, steps, self.state.stock)

    def end(self, run: Object, state: str) -> None:
        """A run as the persistence agent reports its end: a Workflow is Succeeded or Failed, cancelled or not."""
        self._state(run, state)
        run["finished_at"] = now()

    def report_canceling(self, run: Object) -> None:
        self._state(run, "CANCELING")

    def report_unspecified(self, run: Object) -> None:
        """A run as the persistence agent reports it before Argo's controller has looked at its Workflow."""
        self._state(run, UNSPECIFIED)

    def delete_workflow(self, run: Object) -> None:
        """As by kubectl, or with its namespace: KFP never hears of it."""
        run["_workflow_deleted"] = True

    def unreach_workflow(self, run: Object, away: bool = True) -> None:
        """KFP does not get through to Kubernetes' API server, or does again."""
        run["_workflow_unreached"] = away

    def _state(self, run: Object, state: str) -> None:
        run["state"] = state
        run["state_history"].append({"update_time": now(), "state": state})


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: State
    front: Front

    def do_GET(self) -> None:
        where = urlsplit(self.path)
        query, body = dict(parse_qsl(where.query)), self.rfile.read(int(self.headers.get("Content-Length") or 0))
        named = f"{self.command} {unquote(where.path)}"
        self.front.requests.append(named)
        if self._unauthorized() or self._failed(named):
            return
        if where.path == "/" and self.front.pages:
            self._send(200, "<!doctype html><html><title>Kubeflow Pipelines</title></html>", "text/html; charset=utf-8")
            return
        if where.path == "/":
            self._send(404, '{"code":5, "message":"Not Found", "details":[]}', "application/json")
            return
        for one in [one for one in self.front.slow if re.search(one[0], named)]:
            self.front.slow.remove(one)
            time.sleep(one[1])
        try:
            with self.state.lock:
                answer, kind = self._answer(unquote(where.path), query, body)
        except Refused as error:
            self._refuse(error)
            return
        if self._once(self.front.lose, named):
            self.close_connection = True
            self.connection.close()
            return
        for one in [one for one in self.front.garble if re.search(one[0], named)]:
            self.front.garble.remove(one)
            self._send(*one[1](answer), kind)
            return
        self._send(200, answer, kind)

    do_POST = do_DELETE = do_GET

    def _answer(self, path: str, query: Mapping[str, str], body: bytes) -> tuple[str, str]:
        if found := re.fullmatch(r"/apis/v1alpha1/runs/([^/]+)/nodes/([^/]+)/log", path):
            return self.state.log(*found.groups()), "text/plain; charset=utf-8"
        request, state = f"{self.command} {path.removeprefix('/apis/v2beta1')}", self.state
        if request == "GET /healthz":
            health = {"commit_sha": "0", "tag_name": self.front.tag, "multi_user": state.multi_user}
            return json.dumps(health), "application/json"
        if request == "POST /pipelines/upload_version":
            return _checked(state.upload_version(dict(query), *self._file(body)), "V2beta1PipelineVersion")
        if request == "POST /pipelines":
            return _checked(state.create_pipeline(json.loads(body)), "V2beta1Pipeline")
        if request == "POST /experiments":
            return _checked(state.create_experiment(json.loads(body)), "V2beta1Experiment")
        if request == "POST /runs":
            return _checked(state.create_run(json.loads(body)), "V2beta1Run")
        if found := re.fullmatch(r"POST /runs/([^/:]+):terminate", request):
            return _checked(state.terminate(found[1]), "object")
        if found := re.fullmatch(r"DELETE /runs/([^/:]+)", request):
            return _checked(state.delete_run(found[1]), "object")
        if found := re.fullmatch(r"POST /runs/([^/:]+):retry", request):
            return _checked(state.retry(found[1]), "object")
        if found := re.fullmatch(r"GET /runs/([^/:]+)", request):
            return _checked(state.get_run(found[1]), "V2beta1Run")
        if found := re.fullmatch(r"GET /pipelines/([^/]+)/versions", request):
            return self._list("versions", query, lambda one: one["pipeline_id"] == found[1])
        if found := re.fullmatch(r"GET /(pipelines|experiments|runs)", request):
            if found[1] == "runs" and state.multi_user and not query.get("namespace"):
                raise Refused("runs without a namespace")
            space = state.authorized(query.get("namespace", ""))
            return self._list(found[1], query, lambda one: one.get("_namespace", one.get("namespace", "")) == space)
        raise AssertionError(f"the contract server does not know {request}")

    def _list(self, kind: str, query: Mapping[str, str], mine: Any) -> tuple[str, str]:
        page, token = self.state.page(
            kind, [one for one in getattr(self.state, kind).values() if mine(one)], dict(query)
        )
        key = {"versions": "pipeline_versions"}.get(kind, kind)
        message = {"versions": "PipelineVersions"}.get(kind, kind.capitalize())
        answer = {key: [_public(one) for one in page], "total_size": len(page), "next_page_token": token}
        return _checked({name: value for name, value in answer.items() if value}, f"V2beta1List{message}Response")

    def _file(self, body: bytes) -> tuple[str | None, bytes]:
        head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        for part in BytesParser(policy=HTTP).parsebytes(head + body).iter_parts():
            if part.get_param("name", header="Content-Disposition") == "uploadfile":
                content = part.get_payload(decode=True)
                return part.get_filename() or "", content if isinstance(content, bytes) else b""
        return None, b""

    def _unauthorized(self) -> bool:
        front, headers = self.front, self.headers
        accepted = [front.token and headers.get("Authorization") == f"Bearer {front.token}"]
        accepted += [front.cookie and headers.get("Cookie") == front.cookie]
        if not (front.token or front.cookie) or any(accepted):
            return False
        if front.login == "redirect":
            self._send(302, "", "text/html", Location="/dex/auth?client_id=kubeflow")
        elif front.login == "page":
            self._send(200, "<!doctype html><html><title>Log in to dex</title></html>", "text/html; charset=utf-8")
        else:
            self._send(403, "RBAC: access denied", "text/plain")
        return True

    def _failed(self, named: str) -> bool:
        for one in self.front.fail:
            if re.search(one[0], named):
                self.front.fail.remove(one)
                body = {"code": 14, "message": "ServiceUnavailable: try again later", "details": []}
                self._send(one[1], json.dumps(body), "application/json")
                return True
        return False

    def _once(self, patterns: list[str], named: str) -> bool:
        for one in patterns:
            if re.search(one, named):
                patterns.remove(one)
                return True
        return False

    def _refuse(self, error: Refused) -> None:
        row, text = error.row, error.text
        if row["code"] is not None:
            detail = {"@type": "type.googleapis.com/google.rpc.Status", "code": row["code"], "message": text}
            body = {"code": row["code"], "message": f"Failed to process the request: {text}", "details": [detail]}
            strict({key: body[key] for key in ("code", "message")}, "GoogleRpcStatus")
            self._send(row["status"], json.dumps(body), "application/json")
        elif "plain text" in row["when"]:
            self._send(row["status"], f"{text}\n", "text/plain; charset=utf-8")
        else:
            self._send(row["status"], json.dumps({"error_message": text, "error_details": text}), "application/json")

    def _send(self, status: int, text: str, kind: str, **headers: str) -> None:
        body = text.encode()
        self.send_response(status)
        for key, value in {"Content-Type": kind, "Content-Length": str(len(body)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


def _public(one: Any) -> Any:
    """As Go's protojson writes it: without what is empty, the zero of an enumeration included."""
    if isinstance(one, list):
        return [_public(each) for each in one]
    if not isinstance(one, dict):
        return one
    return {key: _public(value) for key, value in one.items() if key[0] != "_" and value not in ("", UNSPECIFIED)}


def _checked(answer: Object, model: str) -> tuple[str, str]:
    try:
        strict(_public(answer), model)
    except Refused as error:
        raise AssertionError(f"the contract server answers what {model} does not have: {error.text}") from None
    return json.dumps(_public(answer)), "application/json"


@contextmanager
def kfp_server(multi_user: bool = False) -> Iterator[Kfp]:
    state, front = State(multi_user), Front()
    handler = type("Bound", (Handler,), {"state": state, "front": front})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield Kfp(state, front, f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
