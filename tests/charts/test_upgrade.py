"""From the packaged chart before: what Kubernetes cannot change in place is as it was, and nothing gets a new name.

`tests/node/test_chart.py` does such an upgrade where pods run. When the chart gets its next version, `helm package` the
present one (`helm_python.package(CHART, destination=...)`), put the file in place of `charts.chart.LAST`, and bump.
"""

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import yaml

from tests.support.chart import CHART, EXAMPLES, LAST, VALUES, Object, containers, helm, named, pods, render, rendered

# https://kubernetes.io/docs/reference/kubernetes-api: what an update of each kind is refused for. Of a claim, requests
# may grow, which is the user's to say and none of a chart's new version.
FIXED: dict[str, tuple[tuple[str, ...], ...]] = {
    "Deployment": (("spec", "selector"),),
    "Job": (("spec", "selector"), ("spec", "template"), ("spec", "completions")),
    "PersistentVolumeClaim": (("spec",),),
    "Service": (("spec", "clusterIP"), ("spec", "clusterIPs"), ("spec", "ipFamilies"), ("spec", "type")),
    "RoleBinding": (("roleRef",),),
    "ClusterRoleBinding": (("roleRef",),),
    "ConfigMap": (("immutable",),),
}
REPLACED = {
    ("CronJob", "platform", "medmim-promoter"),  # suspended for ever; a PodTemplate now
    ("NetworkPolicy", "platform", "medmim-migrate"),  # of a hook; MLflow's own pods migrate now
}
HOOK, KEEP = "helm.sh/hook", "helm.sh/resource-policy"


def annotations(one: Object) -> Object:
    return one["metadata"].get("annotations") or {}


def by_name(objects: list[Object]) -> dict[tuple[str, str, str], Object]:
    """The release's own objects; hooks are made anew each time."""
    own = [one for one in objects if HOOK not in annotations(one)]
    return {(one["kind"], one["metadata"].get("namespace", ""), one["metadata"]["name"]): one for one in own}


def secrets(objects: list[Object]) -> set[tuple[str, str]]:
    """Secrets without which a pod does not start: of which variable, mount or pull."""
    found = set()
    for at, _, spec in pods([one for one in objects if one["kind"] != "PodTemplate"]):  # of which no pod runs by itself
        for one in containers(spec):
            refs = [env["valueFrom"]["secretKeyRef"] for env in one.get("env", []) if "secretKeyRef" in str(env)]
            found |= {(at, ref["name"]) for ref in refs if not ref.get("optional")}
        found |= {(at, one["secret"]["secretName"]) for one in spec["volumes"] if "secret" in one}
        found |= {(at, one["name"]) for one in spec.get("imagePullSecrets", [])}
    return found


def dig(one: Object, path: tuple[str, ...]) -> Any:
    for key in path:
        one = one.get(key) or {}
    return one


def faults(before: list[Object], after: list[Object]) -> list[str]:
    """Why an upgrade from one to the other would be refused, lose something or wait for something new."""
    old, new = by_name(before), by_name(after)
    wrong = [f"{'/'.join(key)} is gone" for key in old if key not in new and key not in REPLACED]
    for key in old.keys() & new.keys():
        for path in FIXED.get(key[0], ()):
            if dig(old[key], path) != dig(new[key], path):
                wrong.append(f"{'/'.join(key)}: {'.'.join(path)} changes")
        if annotations(old[key]).get(KEEP) != annotations(new[key]).get(KEEP):
            wrong.append(f"{'/'.join(key)}: {KEEP} changes")
    had, pulled = (
        secrets(before),
        {one["name"] for _, _, spec in pods(before) for one in spec.get("imagePullSecrets", [])},
    )
    known_pods = {at for at, _, _ in pods(before)}
    for at, name in sorted(secrets(after) - had):
        if at in known_pods or name not in pulled:  # a new pod pulls the image as the others do
            wrong.append(f"{at} needs Secret {name} now")
    return wrong


def known(values: Object, chart: Object) -> Object:
    """Of some values those that a chart has; a map without any key of its own takes all."""
    return {
        key: known(value, chart[key]) if isinstance(value, dict) and chart[key] else value
        for key, value in values.items()
        if key in chart
    }


@cache
def the_same(name: str) -> Object:
    """An example's values, as far as the version before knew them: with these it is upgraded."""
    with helm.Chart.load(LAST) as chart:
        values = known(VALUES[name], chart.values)
    runs = [{key: value for key, value in one.items() if key != "queue"} for one in values["runNamespaces"]]
    return {**values, "runNamespaces": runs}


@cache
def packaged(name: str) -> list[Object]:
    return render(the_same(name), path=LAST)


def test_the_package_is_of_a_version_before() -> None:
    with helm.Chart.load(LAST) as chart:
        before = chart.version
    now = yaml.safe_load((CHART / "Chart.yaml").read_text("utf-8"))["version"]
    assert [int(part) for part in before.split(".")] < [int(part) for part in now.split(".")]
    assert LAST.name == f"medmim-{before}.tgz"
    assert f"medmim-{now}.tgz" in (CHART / "examples" / "airgap.yaml").read_text("utf-8")


@pytest.mark.parametrize("name", [name for name in EXAMPLES if EXAMPLES[name].get("mlflow", {}).get("enabled", True)])
def test_an_upgrade_changes_nothing_that_cannot_be_changed_and_renames_nothing(name: str) -> None:
    assert len(by_name(packaged(name))) > 15
    assert faults(packaged(name), render(the_same(name))) == []


def _selector(objects: list[Object]) -> None:
    named(objects, "Deployment", "medmim-mlflow")["spec"]["selector"]["matchLabels"]["app"] = "mlflow"


def _claim(objects: list[Object]) -> None:
    named(objects, "PersistentVolumeClaim", "medmim-mlflow")["spec"]["accessModes"] = ["ReadWriteMany"]


def _kept(objects: list[Object]) -> None:
    del named(objects, "PersistentVolumeClaim", "medmim-mlflow")["metadata"]["annotations"]


def _headless(objects: list[Object]) -> None:
    named(objects, "Service", "medmim-mlflow")["spec"]["clusterIP"] = "None"


def _renamed(objects: list[Object]) -> None:
    named(objects, "Deployment", "medmim-mlflow")["metadata"]["name"] = "medmim-tracking"


def _role(objects: list[Object]) -> None:
    named(objects, "RoleBinding", "medmim-sweep", "medmim-runs")["roleRef"]["name"] = "medmim-step"


def _secret(objects: list[Object]) -> None:
    spec = named(objects, "Deployment", "medmim-mlflow")["spec"]["template"]["spec"]
    spec["volumes"].append({"name": "tls", "secret": {"secretName": "tls"}})


@pytest.mark.parametrize(
    ("worse", "fault"),
    [
        (_selector, "spec.selector changes"),
        (_claim, "PersistentVolumeClaim/platform/medmim-mlflow: spec changes"),
        (_kept, "resource-policy changes"),
        (_headless, "spec.clusterIP changes"),
        (_renamed, "Deployment/platform/medmim-mlflow is gone"),
        (_role, "roleRef changes"),
        (_secret, "Deployment/medmim-mlflow needs Secret tls now"),
    ],
)
def test_a_breaking_upgrade_is_detected(worse: Callable[[list[Object]], None], fault: str) -> None:
    after = copy.deepcopy(rendered("laptop"))
    worse(after)
    assert fault in " ".join(faults(packaged("laptop"), after))
