"""What a KFP API server stores and refuses, as in its source at 2.17.0 (kfp_refusals.yaml)."""

import base64
import json
import threading
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote_plus

import kfp_server_api
import yaml
from google.protobuf.json_format import ParseDict, ParseError
from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineSpec

from tests.support.kfp_nodes import UNSPECIFIED

REFUSALS = {row["name"]: row for row in yaml.safe_load((Path(__file__).parent / "kfp_refusals.yaml").read_text())}
EPOCH = "1970-01-01T00:00:00Z"  # what KFP gives for a time that has not come
LARGEST = 32 << 20
FIELDS = {
    "runs": {"run_id", "display_name", "created_at", "finished_at", "description", "storage_state", "state"},
    "pipelines": {"pipeline_id", "name", "display_name", "created_at", "description", "namespace"},
    "versions": {"pipeline_version_id", "name", "display_name", "created_at", "description"},
    "experiments": {"experiment_id", "name", "display_name", "created_at", "description", "namespace"},
}  # fmt: skip
Object = dict[str, Any]


class Refused(Exception):
    def __init__(self, row: str, /, **values: Any) -> None:
        self.row = REFUSALS[row]
        self.text = self.row["message"].format(**values)


@dataclass
class State:
    multi_user: bool = False
    user: str = "me@example.org"
    namespaces: tuple[str, ...] = ("team-a",)  # of the user
    pipelines: dict[str, Object] = field(default_factory=dict)
    versions: dict[str, Object] = field(default_factory=dict)
    experiments: dict[str, Object] = field(default_factory=dict)
    runs: dict[str, Object] = field(default_factory=dict)
    specs: dict[str, str] = field(default_factory=dict)  # version id -> what was uploaded
    logs: dict[str, str] = field(default_factory=dict)  # pod -> text
    archive: dict[tuple[str, str], str] = field(default_factory=dict)  # (run id, pod or node id) -> text
    stock: bool = True  # Argo has KFP's own settings, templateDefaults.retryStrategy among them
    lock: Any = field(default_factory=threading.RLock)

    def authorized(self, namespace: str) -> str:
        """The namespace that is used: ReplaceNamespace of resource_manager.go, then IsAuthorized."""
        if not self.multi_user:
            return ""
        if not self.user:
            raise Refused("no identity")
        if namespace not in self.namespaces:
            raise Refused("namespace of another user", user=self.user)
        return namespace

    def create_pipeline(self, body: Object) -> Object:
        strict(body, "V2beta1Pipeline")
        name = body.get("name") or body.get("display_name") or ""
        if len(name.encode()) > 128:
            raise Refused("pipeline name too long")
        if not name:
            raise Refused("pipeline without a name")
        space = self.authorized(body.get("namespace", ""))
        if any(one["name"] == name and one.get("namespace", "") == space for one in self.pipelines.values()):
            raise Refused("pipeline name taken", name=name)
        made = {**body, "pipeline_id": new_id(), "name": name, "display_name": body.get("display_name") or name}
        return self._insert(self.pipelines, {**made, "namespace": space, "created_at": now()}, "pipeline_id")

    def upload_version(self, query: dict[str, str], filename: str | None, content: bytes) -> Object:
        if filename is None:
            raise Refused("version without a file")
        if len(content) > LARGEST:
            raise Refused("version too large")
        if not filename.endswith((".yaml", ".yml", ".json")) and content[:2] not in (b"PK", b"\x1f\x8b"):
            raise Refused("version of no format")
        pipeline, name = query.get("pipelineid", ""), query.get("name") or query.get("display_name") or filename
        if not pipeline:
            raise Refused("version of no pipeline")
        if len(name.encode()) > 127:
            raise Refused("version name too long")
        if pipeline not in self.pipelines:
            raise Refused("version of an unknown pipeline")
        check_spec(content.decode())
        if any(one["pipeline_id"] == pipeline and one["name"] == name for one in self.versions.values()):
            raise Refused("version name taken")
        made = {"pipeline_version_id": new_id(), "pipeline_id": pipeline, "name": name, "display_name": name}
        self.specs[made["pipeline_version_id"]] = content.decode()
        return self._insert(self.versions, {**made, "created_at": now()}, "pipeline_version_id")

    def create_experiment(self, body: Object) -> Object:
        strict(body, "V2beta1Experiment")
        name = body.get("display_name", "")
        if not name:
            raise Refused("experiment without a name")
        if len(name.encode()) > 128:
            raise Refused("experiment name too long")
        if self.multi_user and not body.get("namespace"):
            raise Refused("experiment without a namespace")
        space = self.authorized(body.get("namespace", ""))
        if any(one["display_name"] == name and one["namespace"] == space for one in self.experiments.values()):
            raise Refused("experiment name taken", name=name)
        made = {**body, "experiment_id": new_id(), "namespace": space, "created_at": now()}
        return self._insert(self.experiments, made, "experiment_id")

    def create_run(self, body: Object) -> Object:
        strict(body, "V2beta1Run")
        if not body.get("display_name"):
            raise Refused("run without a name")
        experiment = body.get("experiment_id", "")
        if self.multi_user and not experiment:
            raise Refused("run of no experiment")
        if experiment and experiment not in self.experiments:
            raise Refused("run of an unknown experiment", id=experiment)
        space = self.authorized(self.experiments[experiment]["namespace"] if experiment else "")
        named = body.get("pipeline_version_reference", {})
        version = self.versions.get(named.get("pipeline_version_id", ""))
        if version is None:
            raise Refused("run of an unknown version", id=named.get("pipeline_version_id", ""))
        if version["pipeline_id"] != named.get("pipeline_id"):
            raise Refused(
                "run of another pipeline's version", version=version["pipeline_version_id"],
                pipeline=version["pipeline_id"], other=named.get("pipeline_id"),
            )  # fmt: skip
        check_parameters(
            self.specs[version["pipeline_version_id"]], body.get("runtime_config", {}).get("parameters", {})
        )
        run_id = new_id()
        made = {
            **body, "run_id": run_id, "_workflow": f"medmim-train-{run_id[:5]}",
            "state": "PENDING", "storage_state": "AVAILABLE", "created_at": now(),
            "scheduled_at": now(), "finished_at": EPOCH, "state_history": [{"update_time": now(), "state": "PENDING"}],
        }  # fmt: skip
        self._insert(self.runs, made, "run_id")["_namespace"] = space
        return made

    def get_run(self, run_id: str) -> Object:
        if run_id not in self.runs:
            raise Refused("run unknown", id=run_id)
        self.authorized(self.runs[run_id]["_namespace"])
        return self.runs[run_id]

    def terminate(self, run_id: str) -> Object:
        if run_id not in self.runs:
            raise Refused("terminate an unknown run", id=run_id)
        run = self.runs[run_id]
        if run["state"] not in ("PAUSED", "PENDING", "RUNNING", UNSPECIFIED):
            raise Refused("terminate an ended run", id=run_id)
        run["state"] = "CANCELING"  # and its history does not say so: storage/run_store.go, TerminateRun
        if run.get("_workflow_deleted"):  # the database comes first: TerminateRun of resource_manager.go
            raise Refused("terminate a run whose Workflow is gone", id=run_id, workflow=run["_workflow"])
        if run.get("_workflow_unreached"):
            raise Refused("terminate a run while Kubernetes is away", id=run_id, workflow=run["_workflow"])
        return {}

    def delete_run(self, run_id: str) -> Object:
        """With its Workflow, if it has one: that there is none is only logged."""
        self.get_run(run_id)
        del self.runs[run_id]
        return {}

    def retry(self, run_id: str) -> Object:
        """RetryRun of resource_manager.go: the run is running again, and its nodes are listed as they were.

        What failed is shown as failed until its new node is reported; what comes at the end of a graph (the report) and
        has succeeded stays.
        """
        if run_id not in self.runs:
            raise Refused("retry an unknown run", id=run_id)
        run = self.runs[run_id]
        if run["state"] != "FAILED":
            raise Refused("retry a run that has not failed")
        run |= {"state": "RUNNING", "finished_at": EPOCH}
        run["state_history"].append({"update_time": now(), "state": "RUNNING"})
        return {}

    def log(self, run_id: str, node: str) -> str:
        """A pod's log, while the pod is there; else the archive's, as `ReadLog` of resource_manager.go looks for it.

        For one user the server itself asks for pods in namespace "", where there are none.
        """
        live = self.multi_user and run_id in self.runs and node in self.logs
        if live or (run_id, node) in self.archive:
            return self.logs[node] if live else self.archive[run_id, node]
        rows = {True: "no log", False: "no log before the first report"}
        row = rows["_nodes" in self.runs[run_id]] if run_id in self.runs else "no log of an unknown run"
        text = REFUSALS[row]["message"].format(run=run_id, pod=node)
        return json.dumps({"error_message": text, "error_details": text}, separators=(",", ":"))

    def page(self, kind: str, objects: list[Object], query: dict[str, str]) -> tuple[list[Object], str]:
        """One page of a list: filter, order, token; `page_token` must belong to the other criteria."""
        size = int(query.get("page_size") or 0)
        if size < 0:
            raise Refused("page size", size=size)
        criteria = [query.get("sort_by", ""), query.get("filter", "")]
        words = criteria[0].lower().split()
        key = words[0] if words else "created_at"
        if key not in FIELDS[kind]:
            raise Refused("sort field", field=key, type=kind.removesuffix("s").capitalize())
        wanted = predicates(criteria[1])
        for one in wanted:
            if one["key"] not in FIELDS[kind]:
                raise Refused("filter field", field=one["key"])
        found = [one for one in objects if all(matches(one, predicate) for predicate in wanted)]
        found.sort(key=lambda one: str(one.get(key, "")), reverse=words[1:] == ["desc"])
        start = 0
        if query.get("page_token"):
            try:
                start, *of = json.loads(base64.b64decode(query["page_token"], validate=True))
            except ValueError:
                raise Refused("page token") from None
            if any(criteria) and of != criteria:
                raise Refused("other criteria")
        end = start + min(size or 20, 200)
        token = base64.b64encode(json.dumps([end, *criteria]).encode()).decode() if end < len(found) else ""
        return found[start:end], token

    def _insert(self, table: dict[str, Object], made: Object, key: str) -> Object:
        table[made[key]] = made
        return made


def strict(data: Any, model: str) -> None:
    """Refuse what kfp-server-api's model of a message does not have, at any depth; values by its own checks."""
    kind = getattr(kfp_server_api, model, None)
    if kind is None or not getattr(kind, "openapi_types", None) or not isinstance(data, dict):
        return
    types = {kind.attribute_map[name]: of for name, of in kind.openapi_types.items()}
    for key, value in data.items():
        if key not in types and not key.startswith("_"):
            raise Refused("unknown field", field=key)
        of = types.get(key, "")
        if of.startswith("list["):
            for one in value:
                strict(one, of[5:-1])
        elif of.startswith("dict("):
            for one in value.values():
                strict(one, of.split(", ")[1][:-1])
        else:
            strict(value, of)


def check_spec(text: str) -> None:
    """template.New and NewV2SpecTemplate: which documents are a pipeline, and what of it is refused."""
    specs = [
        document
        for document in yaml.load_all(text, yaml.CSafeLoader)
        if isinstance(document, dict) and is_spec(document)
    ]
    if not specs:
        raise Refused("version that is no pipeline")
    if len(specs) > 1:
        raise Refused("version with two specs")
    if specs[0].get("schemaVersion") != "2.1.0":
        raise Refused("version of another schema", schema=specs[0].get("schemaVersion", ""))
    name = specs[0]["pipelineInfo"]["name"]
    if not set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-") or name.startswith("-"):
        raise Refused("version with a bad name inside")


def is_spec(document: Object) -> bool:
    try:
        return bool(ParseDict(document, PipelineSpec()).pipeline_info.name) and "root" in document
    except ParseError:
        return False


def check_parameters(spec: str, given: Object) -> None:
    """validatePipelineJobInputs of template/v2_template.go."""
    wanted = next(iter(yaml.load_all(spec, yaml.CSafeLoader)))["root"].get("inputDefinitions", {}).get("parameters", {})
    for name, one in wanted.items():
        if name not in given and not one.get("isOptional") and "defaultValue" not in one:
            raise Refused("parameter missing", name=name)
        if name in given and one["parameterType"] == "STRING" and not isinstance(given[name], str):
            raise Refused("parameter of another type", name=name)
    for name in given.keys() - wanted.keys():
        raise Refused("parameter too many", name=name)


def predicates(text: str) -> list[Object]:
    """A filter, which KFP unescapes once more than HTTP does: parseAPIFilter of server/list_request_util.go."""
    if not text:
        return []
    try:
        found = json.loads(unquote_plus(text))
        for one in found["predicates"]:
            strict(one, "V2beta1Predicate")
        return list(found["predicates"])
    except (ValueError, TypeError, KeyError, Refused):
        raise Refused("filter", filter=json.dumps(text)) from None


def matches(one: Object, predicate: Object) -> bool:
    has, text = str(one.get(predicate["key"], "")), predicate.get("string_value", predicate.get("stringValue"))
    operations = {
        "EQUALS": lambda: has == text,
        "IS_SUBSTRING": lambda: text.lower() in has.lower(),  # MySQL's LIKE
        "IN": lambda: has in predicate["string_values"]["values"],
    }
    return bool(operations[predicate["operation"]]())


def new_id() -> str:
    return str(uuid.uuid4())


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
