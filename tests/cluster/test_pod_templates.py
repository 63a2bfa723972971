"""What the platform says of pods: how it is merged, and what of it is refused."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medmim.cluster import pod_templates
from medmim.cluster.pod_templates import PodTemplates, merge, parse
from medmim.errors import UserError
from tests.support import kube_server

WORDS = st.sampled_from(["a", "b", "c"])
ENV = st.lists(st.builds(lambda name, value: {"name": name, "value": value}, WORDS, WORDS), max_size=3)
MOUNTS = st.lists(st.builds(lambda name, at: {"name": name, "mountPath": f"/{at}"}, WORDS, WORDS), max_size=2)


def unique(items: list[dict[str, Any]], key: str) -> list[dict[str, Any]]:
    """Kubernetes takes no two of one name."""
    return list({one[key]: one for one in items}.values())


CONTAINERS = st.lists(
    st.builds(
        lambda name, env, mounts, policy: {
            "name": name, "env": unique(env, "name"), "volumeMounts": unique(mounts, "mountPath"), **policy,
        },
        WORDS, ENV, MOUNTS, st.sampled_from([{}, {"imagePullPolicy": "Never"}]),
    ),
    max_size=3,
).map(lambda found: unique(found, "name"))  # fmt: skip
TEMPLATES = st.builds(
    lambda labels, containers, tolerations, selector: {
        "metadata": {"labels": labels},
        "spec": {
            "containers": containers,
            "tolerations": unique([{"key": one} for one in tolerations], "key"),
            "nodeSelector": selector,
        },
    },
    st.dictionaries(WORDS, WORDS, max_size=2),
    CONTAINERS,
    st.lists(WORDS, max_size=2),
    st.dictionaries(WORDS, WORDS, max_size=2),
)


def by(items: list[dict[str, Any]], key: str) -> dict[str, Any]:
    return {one[key]: one for one in items}


@given(TEMPLATES, TEMPLATES)
def test_a_merge_says_all_of_the_patch_and_keeps_what_it_does_not_name(base: Any, patch: Any) -> None:
    before = copy.deepcopy((base, patch))
    merged = merge(base, patch)
    assert (base, patch) == before, "neither is changed"
    assert merged["metadata"]["labels"] == base["metadata"]["labels"] | patch["metadata"]["labels"]
    assert merged["spec"]["nodeSelector"] == base["spec"]["nodeSelector"] | patch["spec"]["nodeSelector"]
    tolerated = merged["spec"]["tolerations"]
    assert len(by(tolerated, "key")) == len(tolerated)
    assert {one["key"] for one in base["spec"]["tolerations"] + patch["spec"]["tolerations"]} == {*by(tolerated, "key")}
    ours, theirs = by(base["spec"]["containers"], "name"), by(patch["spec"]["containers"], "name")
    names = [one["name"] for one in merged["spec"]["containers"]]
    assert names == [*ours, *(name for name in theirs if name not in ours)], "each once, ours first and in order"
    for container in merged["spec"]["containers"]:
        own, more = ours.get(container["name"], {}), theirs.get(container["name"], {})
        for part, key in (("env", "name"), ("volumeMounts", "mountPath")):
            assert by(container[part], key) == by(own.get(part, []), key) | by(more.get(part, []), key)
        assert container.get("imagePullPolicy") == more.get("imagePullPolicy", own.get("imagePullPolicy"))


@given(TEMPLATES, TEMPLATES, TEMPLATES)
def test_merges_are_idempotent_and_may_be_grouped_at_will(base: Any, patch: Any, last: Any) -> None:
    assert merge(base, {}) == base and merge({}, base) == base
    once = merge(base, patch)
    assert merge(once, patch) == once
    assert merge(once, last) == merge(base, merge(patch, last))


def test_null_takes_a_key_away_and_a_variable_is_replaced_whole() -> None:
    """Else a value and a valueFrom would stand side by side, which the API server refuses."""
    base = {"securityContext": {"runAsUser": 10001, "runAsNonRoot": True}, "env": [{"name": "A", "value": "1"}]}
    secret = {"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "a"}}}
    merged = merge(base, {"securityContext": {"runAsUser": None}, "env": [secret]})
    assert merged == {"securityContext": {"runAsNonRoot": True}, "env": [secret]}
    assert merge({}, {"securityContext": {"runAsUser": None}}) == {"securityContext": {}}


def test_a_platform_that_wants_nothing_changes_nothing() -> None:
    pod = {"spec": {"containers": [{"name": "ray-head"}]}}
    for text in ("", "gpu: {}\n", "s3Secret: true"):
        assert parse(text) == PodTemplates()
        assert parse(text).apply("head", pod) == pod


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[", "no YAML"),
        ("- a", "no mapping"),
        ("heads: []", "heads: unknown"),
        ("head: {spec: {}}", "head: no list"),
        ("head: [{kind: Pod}]", "head: kind is no part"),
        ("head: [{spec: x}]", "head: spec is no mapping"),
        ("head: [{spec: {containers: x}}]", "head: containers is no list"),
        ("head: [{spec: {containers: [x]}}]", "x is no mapping"),
        ("gpu: amd.com/gpu", "gpu: is no mapping"),
        ("head: [{metadata: {name: x}}]", "metadata.name: not to be set"),
        ("worker: [{metadata: {labels: {app.kubernetes.io/managed-by: me}}}]", "medmim's own"),
        (
            "worker: [{spec: {volumes: [{name: mine, emptyDir: {}}, {name: cache, emptyDir: {}}]}}]",
            "volume cache: medmim's",
        ),
        ("worker: [{spec: {containers: [{image: x}]}}]", "an entry of containers has no name"),
        ("worker: [{spec: {containers: [{name: x, volumeMounts: [{name: y}]}]}}]", "volumeMounts has no mountPath"),
    ],
)
def test_a_text_that_is_no_set_of_templates_is_refused_with_its_place(text: str, named: str) -> None:
    with pytest.raises(UserError) as raised:
        parse(text)
    assert raised.value.exit_code == 2 and "helm upgrade" in raised.value.fix
    assert named in str(raised.value) or any(named in one for one in raised.value.problems)


def test_all_problems_of_a_text_are_told_at_once() -> None:
    with pytest.raises(UserError) as raised:
        parse(json.dumps({"heads": [], "worker": [{"kind": "Pod"}], "head": 1}))
    assert len(raised.value.problems) == 3


def test_a_step_reads_its_environment_and_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its account need not read ConfigMaps."""
    monkeypatch.setenv(pod_templates.SETTING, json.dumps({"gpu": {"resource": "amd.com/gpu"}}))
    nobody: Any = None
    assert pod_templates.of_namespace(nobody).gpu == "amd.com/gpu"
    monkeypatch.delenv(pod_templates.SETTING)
    monkeypatch.setenv("KFP_POD_NAME", "a-step")
    assert pod_templates.of_namespace(nobody) == PodTemplates()


def test_who_may_not_read_what_the_platform_says_is_told_the_right_and_starts_no_pods(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without tolerations, proxies and queue, its pods would wait, fail or jump the queue."""
    monkeypatch.delenv(pod_templates.SETTING, raising=False)
    monkeypatch.delenv("KFP_POD_NAME", raising=False)

    refusal = 'configmaps "medmim" is forbidden: User "me" cannot get resource "configmaps"'
    with kube_server.connected(tmp_path, monkeypatch) as (server, kube):
        server.refused = lambda method, path: (403, refusal) if "/configmaps/" in path else None
        with pytest.raises(UserError, match="what the platform wants of pods is not known") as raised:
            pod_templates.of_namespace(kube)
    assert 'resources: ["configmaps"], verbs: ["get"]' in raised.value.fix
