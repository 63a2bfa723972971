"""Whether pods can pull the image, and whether the Secrets and ConfigMaps that they refer to exist with their keys."""

from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

import yaml

from medmim.cluster.doctor.api import Unchecked, items, read
from medmim.cluster.kube import Kube, Object
from medmim.cluster.pod_templates import PodTemplates
from medmim.cluster.ray.diagnose import UNPULLED
from medmim.doctor.check import Check
from medmim.errors import UserError
from medmim.recipe import names

Keys = Mapping[str, tuple[str, ...]]  # name of a Secret -> its keys

_PULLING = (names.STEP_ACCOUNT, names.RAY_ACCOUNT)
_REGISTRY = (".dockerconfigjson", ".dockercfg")
_STOCK: Keys = {"mlpipeline-minio-artifact": ("accesskey", "secretkey")}  # of KFP's own manifests


def images(kube: Kube, named: Iterable[str]) -> Check:
    """Whether images are named by digest, and whether pods could pull them. Starts none: reads those that there are."""
    found = [_image(kube, one) for one in dict.fromkeys(named)]
    worst = next((one for one in found if one.status != "ok"), found[0])
    return Check("image", worst.status, "; ".join(one.found for one in found), worst.fix)


def _image(kube: Kube, named: str) -> Check:
    if not named:
        raise UserError(
            "no image is named",
            reason="steps start Ray jobs with it",
            fix="set MEDMIM_IMAGE in ConfigMap medmim to registry/medmim@sha256:..., or platform.pods.image",
        )
    pulled = ""
    for pod in items(kube, f"/api/v1/namespaces/{kube.namespace}/pods"):
        status, name = pod.get("status", {}), pod["metadata"]["name"]
        for one in [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]:
            if _spec_image(pod, one["name"]) != named:
                continue
            waiting = one.get("state", {}).get("waiting", {})
            if waiting.get("reason") in UNPULLED:
                raise _pull_error(kube, name, f"{waiting['reason']}: {waiting.get('message', '')}", named)
            pulled = pulled or (name if one.get("imageID") or "running" in one.get("state", {}) else "")
    for event in items(kube, f"/api/v1/namespaces/{kube.namespace}/events?fieldSelector=type%3DWarning"):
        message, pod_name = str(event.get("message", "")), event["involvedObject"].get("name", "")
        if not pulled and f'"{named}"' in message and "pull" in message:
            raise _pull_error(kube, pod_name, message, named)
    seen = f"pod {pulled} has it" if pulled else "no pod here uses it yet"
    if "@sha256:" not in named:
        fix = "name it by digest (registry/medmim@sha256:...): a tag may mean another image tomorrow"
        return Check("image", "warn", f"{named} is a tag; {seen}", fix)
    return Check("image", "ok", f"{named}; {seen}")


def has_login(kube: Kube) -> bool:
    """Whether pods get a login for MLflow. Raises `Unchecked` where this account may not look."""
    return _keys(kube, "secrets", names.TRACKING_SECRET) is not None


def secrets(kube: Kube, templates: PodTemplates) -> Check:
    """Whether the secrets and ConfigMaps that pods refer to exist with their keys; names only, no value."""
    wanted: Keys = {names.S3_SECRET: names.S3_KEYS} if templates.s3_secret else {}
    complete, problems, fixes = [], [], []
    for name, keys in {names.TRACKING_SECRET: names.LOGIN_KEYS, **wanted}.items():
        found = _keys(kube, "secrets", name)
        if found is None and name not in wanted:
            continue
        if name == names.TRACKING_SECRET and names.TRACKING_KEYS[-1] in (found or ()):  # a token needs no user
            keys = names.TRACKING_KEYS[-1:]
        missing = [key for key in keys if key not in (found or ())]
        if not missing:
            complete.append(name)
            continue
        literals = " ".join(f"--from-literal={key}=..." for key in keys)
        problems.append(f"no secret {name}" if found is None else f"secret {name} has no key {', '.join(missing)}")
        apply = f"kubectl -n {kube.namespace} create secret generic {name} {literals}"
        fixes.append(apply if found is None else f"{apply} --dry-run=client -o yaml | kubectl apply -f -")
    for name in _pull_secrets(kube, templates):
        found = _keys(kube, "secrets", name)
        if found is None or not set(found) & set(_REGISTRY):
            problems.append(f"no pull secret {name}" if found is None else f"{name} is not a registry secret")
            fixes.append(f"kubectl -n {kube.namespace} create secret docker-registry {name} --docker-server=...")
        else:
            complete.append(name)
    for kind, name in _mounted(templates):
        if _keys(kube, kind, name) is None:
            problems.append(f"no {kind.removesuffix('s')} {name}, which runPods.volumes of the chart mounts")
            fixes.append(f"make it in {kube.namespace}, or correct the chart's runPods.volumes")
        else:
            complete.append(name)
    if problems:
        raise UserError("; ".join(problems), fix="; ".join(fixes))
    return Check("secrets", "ok", ", ".join(complete) or "none is referred to")


def _pull_secrets(kube: Kube, templates: PodTemplates) -> list[str]:
    """Names of the Secrets to pull with: of the accounts of steps and Ray pods, and of the pods themselves."""
    found = [read(kube, f"/api/v1/namespaces/{kube.namespace}/serviceaccounts/{name}") or {} for name in _PULLING]
    found += [one.get("spec") or {} for role in (templates.step, templates.head, templates.worker) for one in role]
    return list(dict.fromkeys(one["name"] for part in found for one in part.get("imagePullSecrets") or []))


def _mounted(templates: PodTemplates) -> list[tuple[str, str]]:
    """Secrets and ConfigMaps that the platform's volumes are of, unless they may be absent."""
    volumes = [
        volume
        for role in (templates.step, templates.head, templates.worker)
        for one in role
        for volume in (one.get("spec") or {}).get("volumes") or []
    ]
    secrets = [("secrets", one["secret"], "secretName") for one in volumes if "secret" in one]
    maps = [("configmaps", one["configMap"], "name") for one in volumes if "configMap" in one]
    return list(
        dict.fromkeys((kind, str(one.get(key))) for kind, one, key in [*secrets, *maps] if not one.get("optional"))
    )


def launcher(kube: Kube, kfp: str) -> Check:
    """Whether the namespace has what KFP's own containers in each pod read; a Kubeflow profile has, others have not.

    Without the Secret of Argo's log archive, which is mounted into every pod, none leaves its state Init. Without the
    ConfigMap kfp-launcher, KFP's artifacts go to the root that is built into it.

    Args:
        kube: The cluster.
        kfp: Address of KFP's API; its own namespace is in it.
    """
    host = (urlsplit(kfp).hostname or "").split(".")
    home = host[1] if host[0] == "ml-pipeline" and len(host) > 1 else names.KFP_NAMESPACE
    try:
        wanted, unread = _of_the_archive(kube, home), ""
    except Unchecked as error:
        wanted, unread = _STOCK, error.fact
    problems, fixes = [], []
    for name, keys in wanted.items():
        found = _keys(kube, "secrets", name)
        missing = [key for key in keys if key not in (found or ())]
        if missing:
            problems.append(f"no secret {name}" if found is None else f"secret {name} has no key {', '.join(missing)}")
            copied = f"kubectl -n {home} get secret {name} -o jsonpath='{{.data.KEY}}' | base64 -d"
            literals = " ".join(f'--from-literal={key}="$({copied.replace("KEY", key)})"' for key in keys)
            fixes.append(f"kubectl -n {kube.namespace} create secret generic {name} {literals}")
    if problems and not unread:
        raise UserError("; ".join(problems), "Argo mounts it into each pod, which then stays in Init", "; ".join(fixes))
    root = _keys(kube, "configmaps", "kfp-launcher")
    if root is None:
        problems.append("no ConfigMap kfp-launcher: KFP's artifacts go to minio://mlpipeline/v2/artifacts")
        value = f"$(kubectl -n {home} get configmap kfp-launcher -o jsonpath='{{.data.defaultPipelineRoot}}')"
        create = f"kubectl -n {kube.namespace} create configmap kfp-launcher"
        fixes.append(f'{create} --from-literal=defaultPipelineRoot="{value}"')
    if problems:
        whether = f" (needed by KFP's own settings; whether yours are others, nobody can say here: {unread})"
        return Check("launcher", "warn", "; ".join(problems) + (whether if unread else ""), "; ".join(fixes))
    return Check("launcher", "ok", ", ".join([*wanted, "kfp-launcher"]))


def _of_the_archive(kube: Kube, home: str) -> Keys:
    """The Secrets with their keys that Argo's archive of logs names: for this namespace, else for all, else KFP's own.

    https://argo-workflows.readthedocs.io/en/latest/artifact-repository-ref/
    """
    own = read(kube, f"/api/v1/namespaces/{kube.namespace}/configmaps/artifact-repositories")
    chosen = ((own or {}).get("metadata", {}).get("annotations") or {}).get(
        "workflows.argoproj.io/default-artifact-repository"
    )
    text = ((own or {}).get("data") or {}).get(chosen)
    if text is None:
        shared = read(kube, f"/api/v1/namespaces/{home}/configmaps/workflow-controller-configmap")
        text = ((shared or {}).get("data") or {}).get("artifactRepository")
    if text is None:
        return _STOCK
    try:
        s3 = (yaml.safe_load(text) or {}).get("s3") or {}
        found: dict[str, tuple[str, ...]] = {}
        for one in (s3.get("accessKeySecret"), s3.get("secretKeySecret")):
            if one:
                found[one["name"]] = (*found.get(one["name"], ()), one["key"])
    except (yaml.YAMLError, AttributeError, KeyError, TypeError):
        return _STOCK
    return found


def _keys(kube: Kube, kind: str, name: str) -> list[str] | None:
    """The keys of a Secret or ConfigMap; None where it is absent. The values of the answer go no further than here."""
    found = read(kube, f"/api/v1/namespaces/{kube.namespace}/{kind}/{name}")
    return None if found is None else sorted({**(found.get("data") or {}), **(found.get("binaryData") or {})})


def _spec_image(pod: Object, container: str) -> str:
    """The image as the pod's spec names it; its status may name the same one in another way."""
    listed = [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]
    return next((str(one["image"]) for one in listed if one["name"] == container), "")


def _pull_error(kube: Kube, pod: str, reason: str, named: str) -> UserError:
    return UserError(
        f"pod {pod} cannot pull {named}",
        reason=reason[:300],
        fix=f"check name and digest, and the chart's imagePullSecrets; kubectl -n {kube.namespace} describe pod {pod}",
    )
