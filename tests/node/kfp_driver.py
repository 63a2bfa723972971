"""What KFP 2.17's driver and Argo make of the compiled pipeline, as plain pods: its control flow, its executor input,
its template for user containers, and the platform spec put on top.

Followed: backend/src/v2/driver/{driver,k8s}.go and backend/src/v2/compiler/argocompiler/{container,security_context}.go
of kubeflow/pipelines 2.17.0. Left out: the launcher, which uploads artifacts and reports to KFP's own database. Instead
the kubelet passes the executor's output file on as the pod's termination message.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import yaml
from google.protobuf.json_format import ParseDict
from kfp.kubernetes.kubernetes_executor_config_pb2 import KubernetesExecutorConfig

Object = dict[str, Any]

OUTPUT = "/tmp/kfp_outputs/output_metadata.json"
# KFP's own scratch folders in each user container
SCRATCH = {path.strip("/."): path for path in ("/gcs", "/s3", "/minio", "/.local", "/.cache", "/.config")}


class Failed(Exception):
    """A task ended with an error; what depends on it is left out."""


class Pipeline:
    """A compiled pipeline."""

    def __init__(self, path: Path) -> None:
        self.spec, platform = yaml.safe_load_all(path.read_text())
        self.platform: Object = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]

    def run(self, arguments: Mapping[str, str], step: Callable[[str, Object], Mapping[str, str]]) -> None:
        """Run all tasks in order, one at a time; an exit task runs whatever happened before it.

        Args:
            arguments: Of the pipeline.
            step: Runs the pod of a task (its name, its input parameters); returns its output parameters.
        """
        self._dag(self.spec["root"]["dag"]["tasks"], arguments, step)

    def _dag(self, tasks: Object, given: Mapping[str, str], step: Callable[[str, Object], Mapping[str, str]]) -> None:
        outputs: dict[str, Mapping[str, str]] = {}
        failed = False
        for name in TopologicalSorter({n: t.get("dependentTasks", []) for n, t in tasks.items()}).static_order():
            task = tasks[name]
            exits = task.get("triggerPolicy", {}).get("strategy") == "ALL_UPSTREAM_TASKS_COMPLETED"
            if failed and not exits:
                continue
            values = dict(_inputs(task["inputs"]["parameters"], given, outputs))
            component = self.spec["components"][task["componentRef"]["name"]]
            try:
                if "dag" in component:
                    self._dag(component["dag"]["tasks"], values, step)
                else:
                    outputs[name] = step(name, values)
            except Failed:
                failed = True
        if failed:
            raise Failed

    def pod(self, name: str, values: Object, image: str, account: str, root: str) -> Object:
        """The pod of a task.

        Args:
            name: The task.
            values: Its input parameters.
            image: In the place of the IR's placeholder.
            account: Service account of the run.
            root: KFP's pipeline root.
        """
        component = self.spec["components"][f"comp-{name}"]
        label = component["executorLabel"]
        container = self.spec["deploymentSpec"]["executors"][label]["container"]
        given = json.dumps(_executor_input(component, values, f"{root}/{name}"))
        main: Object = {
            "name": "main",
            "image": image,
            "imagePullPolicy": "IfNotPresent",
            "command": container["command"],
            "args": [given if word == "{{$}}" else word for word in container["args"]],
            "env": [_field("KFP_POD_NAME", "metadata.name"), _field("KFP_POD_UID", "metadata.uid")],
            "resources": _resources(container["resources"]),
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "volumeMounts": [{"name": name, "mountPath": path} for name, path in SCRATCH.items()],
            "terminationMessagePath": OUTPUT,
        }
        spec: Object = {
            "serviceAccountName": account,
            "restartPolicy": "Never",
            "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [main],
            "volumes": [{"name": name, "emptyDir": {}} for name in SCRATCH],
        }
        _extend(spec, main, self.platform[label])
        labels = {"pipeline/runid": str(uuid5(NAMESPACE_URL, root))}
        labels |= self.platform[label].get("podMetadata", {}).get("labels", {})
        return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels}, "spec": spec}


def output_of(pod: Object) -> dict[str, str]:
    """The output parameters that an ended pod left.

    Raises:
        Failed: It ended with an error.
    """
    ended = pod["status"]["containerStatuses"][0]["state"]["terminated"]
    if ended["exitCode"] != 0:
        raise Failed(pod["metadata"]["name"])
    values: dict[str, str] = json.loads(ended["message"]).get("parameterValues", {})
    return values


def _inputs(
    wanted: Object, given: Mapping[str, str], outputs: Mapping[str, Mapping[str, str]]
) -> Iterator[tuple[str, str]]:
    for name, source in wanted.items():
        if "componentInputParameter" in source:
            yield name, given[source["componentInputParameter"]]
        else:
            made = source["taskOutputParameter"]
            yield name, outputs[made["producerTask"]][made["outputParameterKey"]]


def _executor_input(component: Object, values: Object, root: str) -> Object:
    """What the driver writes in the place of `{{$}}`: provisionOutputs in driver.go."""
    made = component.get("outputDefinitions", {})
    artifacts = {
        name: {"artifacts": [{"name": name, "uri": f"{root}/{name}", "type": kind["artifactType"], "metadata": {}}]}
        for name, kind in made.get("artifacts", {}).items()
    }
    parameters = {name: {"outputFile": f"/tmp/kfp/outputs/{name}"} for name in made.get("parameters", {})}
    outputs = {"parameters": parameters, "artifacts": artifacts, "outputFile": OUTPUT}
    return {"inputs": {"parameterValues": values}, "outputs": outputs}


def _resources(asked: Object) -> Object:
    """initPodSpecPatch in driver.go."""
    return {
        f"{kind.lower()}s": {what.lower(): asked[f"resource{what}{kind}"] for what in ("Cpu", "Memory")}
        for kind in ("Request", "Limit")
    }


def _extend(spec: Object, main: Object, config: Object) -> None:
    """extendPodSpecPatch in k8s.go, as far as our pipeline goes; anything else fails rather than being left out."""
    ParseDict(config, KubernetesExecutorConfig())
    known = {"configMapAsEnv", "configMapAsVolume", "emptyDirMounts", "fieldPathAsEnv", "podMetadata"}
    known |= {"secretAsEnv", "securityContext"}
    assert config.keys() <= known, config.keys() - known
    for one in config.get("secretAsEnv", []):
        for pair in one["keyToEnv"]:
            ref = {"name": one["secretName"], "key": pair["secretKey"], "optional": one["optional"]}
            main["env"].append({"name": pair["envVar"], "valueFrom": {"secretKeyRef": ref}})
    for one in config.get("configMapAsVolume", []):
        source = {"name": one["configMapName"], "optional": one["optional"]}
        spec["volumes"].append({"name": one["configMapName"], "configMap": source})
        main["volumeMounts"].append({"name": one["configMapName"], "mountPath": one["mountPath"]})
    for one in config.get("configMapAsEnv", []):
        for pair in one["keyToEnv"]:
            ref = {"name": one["configMapName"], "key": pair["configMapKey"], "optional": one["optional"]}
            main["env"].append({"name": pair["envVar"], "valueFrom": {"configMapKeyRef": ref}})
    for one in config.get("fieldPathAsEnv", []):
        main["env"].append({"name": one["name"], "valueFrom": {"fieldRef": {"fieldPath": one["fieldPath"]}}})
    for one in config.get("emptyDirMounts", []):
        source = {key: one[key] for key in ("medium", "sizeLimit") if one.get(key)}
        spec["volumes"].append({"name": one["volumeName"], "emptyDir": source})
        main["volumeMounts"].append({"name": one["volumeName"], "mountPath": one["mountPath"]})
    context = config.get("securityContext", {})
    main["securityContext"] |= {key: context[key] if key == "runAsNonRoot" else int(context[key]) for key in context}


def _field(name: str, path: str) -> Object:
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}
