"""Alerts query what exists: real metrics, by labels that they have, of objects that the chart makes."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.chart import PLATFORM, VALUES, Object, named, render, rendered

promql = pytest.importorskip("promql_parser", reason="promql-parser is not installed")

METRICS = yaml.load(Path(__file__).with_name("metrics.yaml").read_text("utf-8"), yaml.CSafeLoader)
KINDS = {
    "deployment": "Deployment",
    "cronjob": "CronJob",
    "persistentvolumeclaim": "PersistentVolumeClaim",
    "service": "Service",
}
ALERTED = [name for name in VALUES if any(one["kind"] == "PrometheusRule" for one in rendered(name))]


def rules(objects: list[Object]) -> dict[str, str]:
    """Alert -> its expression."""
    groups = named(objects, "PrometheusRule", "medmim")["spec"]["groups"]
    return {rule["alert"]: rule["expr"] for group in groups for rule in group["rules"]}


def selectors(expression: str) -> list[Any]:
    """Every metric that an expression names, each with its matchers; raises where it is no PromQL."""
    found: list[Any] = []

    def visit(part: Any) -> None:
        if isinstance(part, promql.VectorSelector):
            found.append(part)

    promql.walk(promql.parse(expression), visit)
    return found


def faults(expression: str, objects: list[Object]) -> list[str]:
    """What of it Prometheus could not evaluate, or would never match an object of the chart."""
    try:
        found = selectors(expression)
    except ValueError as error:
        return [str(error)]
    made = {(one["kind"], one["metadata"].get("namespace"), one["metadata"]["name"]) for one in objects}
    wrong = [] if found else ["no metric"]
    for one in found:
        if one.name not in METRICS:
            wrong.append(f"no exporter has {one.name}")
            continue
        labels = {matcher.name: matcher.value for matcher in one.matchers.matchers}
        wrong += [f"{one.name} has no label {label}" for label in labels if label not in METRICS[one.name]]
        for label, name in labels.items():
            for namespace in labels["namespace"].split("|") if label in KINDS else []:
                if (KINDS[label], namespace, name) not in made:
                    wrong.append(f"the chart makes no {KINDS[label]} {name} in {namespace}")
    return wrong


@pytest.mark.parametrize("name", ALERTED)
def test_each_expression_is_promql_on_metrics_labels_and_objects_that_exist(name: str) -> None:
    objects = rendered(name)
    assert {alert: faults(expression, objects) for alert, expression in rules(objects).items()} == {
        alert: [] for alert in rules(objects)
    }


@pytest.mark.parametrize(
    ("alert", "right", "wrong", "fault"),
    [
        ("MedmimMlflowDown", "==", "=== ", "invalid promql"),
        ("MedmimMlflowDown", "replicas_available", "available_replicas", "no exporter has"),
        ("MedmimMlflowDown", "medmim-mlflow", "mlflow", "makes no Deployment mlflow in platform"),
        ("MedmimMlflowDiskFull", "persistentvolumeclaim=", "pvc=", "has no label pvc"),
        ("MedmimSweepLate", "team-a", "team-b", "makes no CronJob medmim-sweep in team-b"),
        ("MedmimNightlyFailed", "condition", "reason", "has no label reason"),
        ("MedmimInferenceDown", "medmim-inference", "medmim-serve", "makes no Deployment medmim-serve in platform"),
        ("MedmimInferenceModelRefused", "medmim-inference", "serve", "makes no Service serve in platform"),
        ("MedmimInferenceModelRefused", "events_total", "events", "no exporter has medmim_model_events"),
        ("MedmimInferenceFailing", "status=", "code=", "has no label code"),
    ],
)
def test_a_wrong_expression_is_detected(alert: str, right: str, wrong: str, fault: str) -> None:
    objects = rendered("all-on")
    expression = rules(objects)[alert]
    assert right in expression
    assert fault in " ".join(faults(expression.replace(right, wrong), objects))


def test_the_model_server_shows_the_metrics_that_alerts_ask_for() -> None:
    from medmim_inference.metrics import Metrics

    metrics = Metrics()
    metrics.requests.labels(200).inc()
    shown = {one.name: set(one.labels) for family in metrics.registry.collect() for one in family.samples}
    asked = {name: set(labels) for name, labels in METRICS.items() if name.startswith("medmim_")}
    assert len(asked) == 2
    assert {name: shown[name] for name in asked} == {
        name: labels - {"namespace", "service", "pod"} for name, labels in asked.items()
    }
    assert metrics.registry.get_sample_value("medmim_model_events_total", {"event": "refused"}) == 0, (
        "of a series that begins with 1 nothing increases"
    )


def test_a_sweep_that_never_succeeded_is_late_too() -> None:
    """Such a CronJob has no last successful time, and a comparison with an absent metric never alerts."""
    values = {"alerts": {"enabled": True}, "runNamespaces": [{"name": "a"}, {"name": "b"}]}
    expression = rules(render(values))["MedmimSweepLate"]
    assert [one.name for one in selectors(expression)] == [
        "kube_cronjob_status_last_successful_time",
        "kube_cronjob_created",
    ]
    assert {str(one.matchers) for one in selectors(expression)} == {'{namespace=~"a|b",cronjob="medmim-sweep"}'}
    assert {
        "lhs": str(promql.parse(expression).lhs.rhs.expr.op),
        "rhs": promql.parse(expression).rhs.val,
    } == {"lhs": "or", "rhs": 1800}


def test_the_alert_of_the_nightly_run_means_jobs_of_its_cron_job() -> None:
    """The controller names a job after its CronJob and the minute; a person's `nightly-now` does not match."""
    objects = rendered("all-on")
    (selector,) = selectors(rules(objects)["MedmimNightlyFailed"])
    pattern = {matcher.name: matcher.value for matcher in selector.matchers.matchers}["job_name"]
    job = named(objects, "CronJob", "medmim-nightly", PLATFORM)["metadata"]["name"]
    assert re.fullmatch(pattern, f"{job}-29384120") and not re.fullmatch(pattern, "nightly-now")
