"""What the platform wants of a step's pod, in the words of KFP, which takes no pod template.

https://github.com/kubeflow/pipelines/blob/2.17.0/kubernetes_platform/proto/kubernetes_executor_config.proto
"""

import copy
from typing import Any

from medmim.cluster.kube import Object
from medmim.cluster.pod_templates import STEP_CONTAINER
from medmim.errors import UserError

_POD = ("nodeSelector", "tolerations", "imagePullSecrets", "securityContext", "volumes", "containers")
_CONTAINER = ("name", "env", "volumeMounts", "imagePullPolicy")
_VOLUME = {  # kind -> what KFP can say of it
    "configMap": ("name", "optional"),
    "secret": ("secretName", "optional"),
    "persistentVolumeClaim": ("claimName",),
    "emptyDir": ("medium", "sizeLimit"),
}
_MOUNTS = ("configMapAsVolume", "secretAsVolume", "pvcMount", "emptyDirMounts")
_CONTEXT = ("runAsUser", "runAsGroup", "runAsNonRoot")
_FIX = "say it in the chart's runPods.head and runPods.worker alone, whose pods take all that Kubernetes knows"


def apply(executor: Object, container: Object, template: Object) -> None:
    """Write a partial pod template into a step of the compiled pipeline.

    Args:
        executor: The step in the platform spec; it is changed.
        container: The step's container in the pipeline spec; its `env` is changed.
        template: The template.

    Raises:
        UserError: KFP can say a part of it to no step; every such part at once.
    """
    metadata, spec = template.get("metadata") or {}, template.get("spec") or {}
    if problems := _beyond_kfp(spec):
        raise UserError("the cluster's runPods ask of steps what KFP cannot give them", problems=problems, fix=_FIX)
    for part in ("labels", "annotations"):
        executor.setdefault("podMetadata", {}).setdefault(part, {}).update(metadata.get(part) or {})
    context = executor.setdefault("securityContext", {})
    for key, value in (spec.get("securityContext") or {}).items():
        if value is None:
            context.pop(key, None)
        elif key in _CONTEXT:
            context[key] = value
    if spec.get("nodeSelector"):
        executor.setdefault("nodeSelector", {}).setdefault("labels", {}).update(spec["nodeSelector"])
    if spec.get("tolerations"):
        executor.setdefault("tolerations", []).extend(copy.deepcopy(spec["tolerations"]))
    for one in spec.get("imagePullSecrets") or []:
        named = {"secretName": one["name"], "secretNameParameter": _constant(one["name"])}
        executor.setdefault("imagePullSecret", []).append(named)
    for own in spec.get("containers") or []:
        if own.get("imagePullPolicy"):
            executor["imagePullPolicy"] = own["imagePullPolicy"]
        for variable in own.get("env") or []:
            _set_variable(executor, container, variable)
        volumes = {one["name"]: one for one in spec.get("volumes") or []}
        for mount in own.get("volumeMounts") or []:
            _mount(executor, volumes[mount["name"]], mount)


def _beyond_kfp(spec: Object) -> list[str]:
    found = [f"spec.{key}" for key, value in spec.items() if key not in _POD and value is not None]
    volumes = {}
    for one in spec.get("volumes") or []:
        volumes[one["name"]] = one
        kind = _kind(one)
        if kind is None:
            found.append(f"volume {one['name']}: neither {', '.join([*_VOLUME][:-1])} nor {[*_VOLUME][-1]}")
        else:
            said = [key for key, value in (one[kind] or {}).items() if value is not None]
            found += [f"volume {one['name']}: {kind}.{key}" for key in said if key not in _VOLUME[kind]]
    for own in spec.get("containers") or []:
        if own["name"] != STEP_CONTAINER:
            found.append(f"container {own['name']}: a step has {STEP_CONTAINER} alone")
        found += [f"container {own['name']}: {key}" for key in own if key not in _CONTAINER]
        for variable in own.get("env") or []:
            source = variable.get("valueFrom")
            if source is not None and not set(source) & {"secretKeyRef", "configMapKeyRef", "fieldRef"}:
                found.append(
                    f"variable {variable['name']}: neither a value, secretKeyRef, configMapKeyRef nor fieldRef"
                )
        for mount in own.get("volumeMounts") or []:
            if mount["name"] not in volumes:
                found.append(f"mount {mount['mountPath']}: no volume {mount['name']}")
                continue
            kind = _kind(volumes[mount["name"]])
            known = ["name", "mountPath"]
            known += ["subPath"] if kind == "persistentVolumeClaim" else []
            known += ["readOnly"] if kind in ("configMap", "secret") else []  # which they are in any case
            found += [f"mount {mount['mountPath']}: {key}" for key, said in mount.items() if said and key not in known]
    return found


def _kind(volume: Object) -> str | None:
    return next((one for one in _VOLUME if one in volume), None)


def _set_variable(executor: Object, container: Object, variable: Object) -> None:
    name, source = variable["name"], variable.get("valueFrom") or {}
    container["env"] = [one for one in container.get("env") or [] if one["name"] != name]
    if "fieldPathAsEnv" in executor:
        executor["fieldPathAsEnv"] = [one for one in executor["fieldPathAsEnv"] if one["name"] != name]
    for part in ("secretAsEnv", "configMapAsEnv"):
        for one in executor.get(part) or []:
            one["keyToEnv"] = [pair for pair in one["keyToEnv"] if pair["envVar"] != name]
        executor[part] = [one for one in executor.get(part) or [] if one["keyToEnv"]]
    if not source:
        container["env"].append({"name": name, "value": variable.get("value", "")})
    elif "fieldRef" in source:
        field = {"name": name, "fieldPath": source["fieldRef"]["fieldPath"]}
        executor.setdefault("fieldPathAsEnv", []).append(field)
    elif "secretKeyRef" in source:
        ref = source["secretKeyRef"]
        executor.setdefault("secretAsEnv", []).append(
            {
                "secretName": ref["name"],
                "secretNameParameter": _constant(ref["name"]),
                "keyToEnv": [{"envVar": name, "secretKey": ref["key"]}],
                "optional": bool(ref.get("optional")),
            }
        )
    else:
        ref = source["configMapKeyRef"]
        executor.setdefault("configMapAsEnv", []).append(
            {
                "configMapName": ref["name"],
                "configMapNameParameter": _constant(ref["name"]),
                "keyToEnv": [{"envVar": name, "configMapKey": ref["key"]}],
                "optional": bool(ref.get("optional")),
            }
        )
    if not container["env"]:
        del container["env"]


def _mount(executor: Object, volume: Object, mount: Object) -> None:
    kind, path = _kind(volume), mount["mountPath"]
    for part in _MOUNTS:  # two mounts of one path are no pod
        if part in executor:
            executor[part] = [one for one in executor[part] if one["mountPath"] != path]
    if kind == "configMap":
        own = volume["configMap"]
        part, named = (
            "configMapAsVolume",
            {"configMapName": own["name"], "configMapNameParameter": _constant(own["name"])},
        )
    elif kind == "secret":
        own = volume["secret"]
        name = own["secretName"]
        part, named = "secretAsVolume", {"secretName": name, "secretNameParameter": _constant(name)}
    elif kind == "persistentVolumeClaim":
        claim = volume["persistentVolumeClaim"]["claimName"]
        executor.setdefault("pvcMount", []).append(
            {
                "mountPath": path,
                "constant": claim,
                "pvcNameParameter": _constant(claim),
                **({"subPath": mount["subPath"]} if mount.get("subPath") else {}),
            }
        )
        return
    else:
        own = volume["emptyDir"] or {}
        more = {key: own[key] for key in ("medium", "sizeLimit") if own.get(key)}
        executor.setdefault("emptyDirMounts", []).append({"volumeName": volume["name"], "mountPath": path, **more})
        return
    executor.setdefault(part, []).append({**named, "mountPath": path, "optional": bool(own.get("optional"))})


def _constant(text: str) -> dict[str, Any]:
    return {"runtimeValue": {"constant": text}}
