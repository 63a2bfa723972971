"""What the chart renders is what Kubernetes, the pipeline and MLflow's server understand."""

import fnmatch
import json
from functools import cache
from pathlib import Path

import jsonschema
import pytest
import yaml

from medmim import __version__
from medmim.recipe import names
from tests.support.chart import (
    ALL_ON,
    CHART,
    EXAMPLES,
    PLATFORM,
    VALUES,
    Object,
    containers,
    helm,
    named,
    render,
    rendered,
)

kubernetes_validate = pytest.importorskip("kubernetes_validate")
kubernetes_validate.utils.schema_contents = cache(
    kubernetes_validate.utils.schema_contents
)  # else read for each object

WITH_MLFLOW = [name for name in EXAMPLES if EXAMPLES[name].get("mlflow", {}).get("enabled", True)]
KUBERNETES = ("1.31", "1.34", "1.36")
CUSTOM = yaml.load(Path(__file__).with_name("prometheus.yaml").read_text("utf-8"), yaml.CSafeLoader)


def server(objects: list[Object]) -> Object:
    """The container of MLflow's server."""
    spec = named(objects, "Deployment", "medmim-mlflow")["spec"]["template"]["spec"]
    (found,) = spec["containers"]
    return dict(found)


def flag(container: Object, name: str) -> str | None:
    return next((word.partition("=")[2] for word in container["args"] if word.startswith(f"--{name}=")), None)


@cache
def valid(text: str) -> None:
    """Once for all examples: most of what they render is the same."""
    for version in KUBERNETES:
        kubernetes_validate.validate(json.loads(text), version, strict=True)


@pytest.mark.parametrize("name", VALUES)
def test_every_object_is_valid_in_three_versions_of_kubernetes(name: str) -> None:
    seen = set()
    for one in rendered(name):
        if one["kind"] in CUSTOM:
            jsonschema.validate(one, CUSTOM[one["kind"]])
            continue
        valid(json.dumps({**one, "metadata": {**one["metadata"], "namespace": "any"}}))
        at = (one["kind"], one["metadata"].get("namespace"), one["metadata"]["name"])
        assert at not in seen, f"{at} is rendered twice"
        seen.add(at)


def test_an_unknown_field_is_detected() -> None:
    broken = json.loads(json.dumps(named(rendered("default"), "Deployment", "medmim-mlflow")))
    broken["spec"]["template"]["spec"]["containers"][0]["redinessProbe"] = {}
    for version in KUBERNETES:
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(broken, version, strict=True)
    monitor = json.loads(json.dumps(named(rendered("onprem-gpu"), "ServiceMonitor", "medmim-mlflow")))
    monitor["spec"]["endpoints"][0]["basicAuth"]["user"] = {}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(monitor, CUSTOM["ServiceMonitor"])


def test_helm_lint_reports_nothing() -> None:
    for values in VALUES.values():
        report = helm.lint(CHART, values, strict=True, namespace=PLATFORM)
        messages = [one for one in report["messages"] if one["severity"] > 1]  # 1: an icon is recommended
        assert not messages and not report["errors"]


def test_the_chart_is_of_the_packages_version() -> None:
    facts = yaml.load((CHART / "Chart.yaml").read_text("utf-8"), yaml.CSafeLoader)
    assert facts["appVersion"] == __version__
    assert facts["kubeVersion"] == f">={KUBERNETES[0]}.0-0"


def test_every_switch_is_on_somewhere() -> None:
    """Else a broken template could go undetected."""
    (templates,) = [{str(path.relative_to(CHART)) for path in (CHART / "templates").rglob("*.yaml")}]
    with helm.Chart.load(CHART) as chart:
        shown = set()
        for values in VALUES.values():
            out = chart.render(values, name="medmim", namespace=PLATFORM)
            shown |= {name.removeprefix("medmim/") for name, text in out.items() if text.strip()}
    assert templates <= shown


def test_values_and_schema_have_the_same_keys_and_each_is_documented() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text("utf-8"))
    values = yaml.load((CHART / "values.yaml").read_text("utf-8"), yaml.CSafeLoader)

    def compare(at: str, known: Object, given: Object) -> None:
        if "$ref" in known:
            known = schema["definitions"][known["$ref"].rpartition("/")[2]]
        if not isinstance(given, dict) or "properties" not in known:
            return
        assert known["additionalProperties"] is False, at
        assert set(known["properties"]) - {"global"} == set(given), at
        for key, value in given.items():
            compare(f"{at}.{key}", known["properties"][key], value)

    accounts = values.pop("accounts")
    assert set(schema["properties"].pop("accounts")["properties"]) == set(accounts)
    for section in ("mlflow", "inference", "console", "jobs"):
        values[section]["resources"] = {"requests": {}, "limits": {}}
    for role in ("step", "head", "worker"):
        values["runPods"][role] = {"metadata": {"labels": {}, "annotations": {}}, "spec": None}
    compare("values", schema, values)
    lines = (CHART / "values.yaml").read_text("utf-8").splitlines()
    sections = [i for i, line in enumerate(lines) if line[:1].isalpha()]
    bare = [lines[i] for i in sections if "#" not in lines[i] and not lines[i - 1].startswith("#")]
    assert not bare, f"not documented: {bare}"


@pytest.mark.parametrize("name", WITH_MLFLOW)
def test_mlflow_accepts_its_own_host_names_and_no_others(name: str) -> None:
    objects, ingress = rendered(name), EXAMPLES[name].get("mlflow", {}).get("ingress", {})
    hosts = str(flag(server(objects), "allowed-hosts")).split(",")

    def allowed(host: str) -> bool:  # as mlflow.server.security_utils.is_allowed_host_header does
        return any(fnmatch.fnmatch(host, one) if "*" in one else host == one for one in hosts)

    for service in ("medmim-mlflow", f"medmim-mlflow.{PLATFORM}", f"medmim-mlflow.{PLATFORM}.svc.cluster.local"):
        assert allowed(service) and allowed(f"{service}:5000")
    for run in EXAMPLES[name]["runNamespaces"]:
        uri = named(objects, "ConfigMap", "medmim", run["name"])["data"]["MLFLOW_TRACKING_URI"]
        assert allowed(uri.removeprefix("http://"))
    assert allowed("localhost:5000")  # kubectl port-forward
    for host in ("evil.example", "medmim-mlflow.evil.example", "evil.example:5000", "10.1.2.3:5000"):
        assert not allowed(host)
    if ingress.get("enabled"):
        assert allowed(ingress["host"])
        assert flag(server(objects), "cors-allowed-origins") == f"https://{ingress['host']}"


def test_metrics_are_scraped_only_where_they_are_served() -> None:
    for name in ["default", "all-on", *WITH_MLFLOW]:
        objects = rendered(name)
        monitors = {one["metadata"]["name"] for one in objects if one["kind"] == "ServiceMonitor"}
        scraped = "medmim-mlflow" in monitors
        assert scraped == (flag(server(objects), "expose-prometheus") is not None)
        if scraped:
            assert "$(POD_IP):5000" in str(flag(server(objects), "allowed-hosts"))  # by which Prometheus scrapes
            assert "POD_IP" in {one["name"] for one in server(objects)["env"]}


def test_each_alert_has_its_section_in_the_runbook() -> None:
    runbook = (CHART.parents[1] / "docs" / "runbook.md").read_text("utf-8")
    alerts = {
        rule["alert"]
        for name in ("all-on", "onprem-gpu")
        for group in named(rendered(name), "PrometheusRule", "medmim")["spec"]["groups"]
        for rule in group["rules"]
    }
    assert {line.removeprefix("## ") for line in runbook.splitlines() if line.startswith("## Medmim")} == alerts


def test_a_step_finds_in_its_namespace_what_the_pipeline_refers_to() -> None:
    objects = rendered("onprem-gpu")
    for run in ("radiology", "research"):
        data = named(objects, "ConfigMap", "medmim", run)["data"]
        by_value = {"MEDMIM_RAW_CLAIM", "MLFLOW_TRACKING_SERVER_CERT_PATH"}
        assert set(names.SETTINGS_KEYS) - by_value <= set(data)
        assert data["AWS_CA_BUNDLE"] == "/etc/medmim/ca/ca.crt"
        assert "ca.crt" in named(objects, "ConfigMap", "medmim-ca", run)["data"]
        (env,) = [
            containers(one["spec"]["jobTemplate"]["spec"]["template"]["spec"])[0]["env"]
            for one in objects
            if one["kind"] == "CronJob" and one["metadata"]["namespace"] == run
        ]
        secrets = {one["valueFrom"]["secretKeyRef"]["name"] for one in env if "secretKeyRef" in one["valueFrom"]}
        assert secrets <= {names.S3_SECRET, names.TRACKING_SECRET}


def test_pods_are_of_the_images_user() -> None:
    context = named(rendered("default"), "Deployment", "medmim-mlflow")["spec"]["template"]["spec"]["securityContext"]
    assert context["runAsUser"] == context["fsGroup"] == names.USER


def test_sqlite_has_one_writer_and_its_disk_outlives_the_release() -> None:
    objects = rendered("laptop")
    spec = named(objects, "Deployment", "medmim-mlflow")["spec"]
    assert spec["strategy"] == {"type": "Recreate"} and spec["replicas"] == 1
    assert [one["name"] for one in spec["template"]["spec"]["initContainers"]] == ["prepare"]
    assert not [one for one in objects if one["kind"] == "Job"], "no hook beside a server that writes"
    disk = named(objects, "PersistentVolumeClaim", "medmim-mlflow")
    assert disk["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


def test_an_external_database_is_migrated_before_the_new_server_starts_and_without_a_hook() -> None:
    """Argo CD runs a pre-upgrade hook before it has made any account: the first sync would never end."""
    objects = rendered("onprem-gpu")
    assert not [
        one for one in objects if "helm.sh/hook" in one["metadata"].get("annotations", {}) and one["kind"] == "Job"
    ]
    spec = named(objects, "Deployment", "medmim-mlflow")["spec"]
    (prepare,) = spec["template"]["spec"]["initContainers"]
    assert "$(" not in str(prepare["args"][:2]), "a password would be on the command line"
    assert [one["valueFrom"] for one in prepare["env"] if one["name"] == "MLFLOW_BACKEND_STORE_URI"] == [
        {"secretKeyRef": {"name": "medmim-mlflow-db", "key": "uri"}}
    ]
    assert "strategy" not in spec
    claims = {one["metadata"]["name"] for one in objects if one["kind"] == "PersistentVolumeClaim"}
    assert claims == {"medmim-cache"}, "none of MLflow's"


def test_schedules_never_overlap_and_each_namespace_is_swept() -> None:
    objects = render(ALL_ON | {"runNamespaces": [{"name": "a"}, {"name": "b"}]})
    jobs = [one for one in objects if one["kind"] == "CronJob"]
    assert {one["spec"]["concurrencyPolicy"] for one in jobs} == {"Forbid"}
    for one in jobs:  # by which the runbook selects them
        template = one["spec"]["jobTemplate"]
        assert template["metadata"]["labels"] == template["spec"]["template"]["metadata"]["labels"]
    swept = {}
    for one in jobs:
        if one["metadata"]["name"] == "medmim-sweep":
            container = one["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]
            swept[one["metadata"]["namespace"]] = (one["spec"]["schedule"], container["args"])
    assert swept == {n: ("*/10 * * * *", ["medmim", "runs", "sweep", "-n", n]) for n in ("a", "b")}


def test_nothing_runs_by_default_that_needs_a_setting_or_an_approval() -> None:
    for name in EXAMPLES:
        jobs = [one for one in rendered(name) if one["kind"] == "CronJob"]
        assert {one["metadata"]["name"] for one in jobs if not one["spec"].get("suspend")} == {"medmim-sweep"}
        for run in EXAMPLES[name]["runNamespaces"]:
            assert named(rendered(name), "ConfigMap", "medmim", run["name"])["data"]["MEDMIM_APPROVAL"] == "required"
    assert named(rendered("all-on"), "ConfigMap", "medmim", "team-a")["data"]["MEDMIM_APPROVAL"] == "none"
