"""How much a Ray job takes, and which nodes can ever hold its workers. No cluster: nodes as they are written."""

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medmim.cluster.doctor import room
from medmim.cluster.ray import pods
from medmim.recipe.schema import Platform


def platform(workers: int = 1, **asked: Any) -> Platform:
    return Platform.model_validate_json(json.dumps({"ray": "rayjob", "workers": workers, "pods": asked}))


def node(taints: tuple[dict[str, str], ...] = (), **labels: str) -> dict[str, Any]:
    has = {"cpu": "8", "memory": "64Gi", "nvidia.com/gpu": "4", "ephemeral-storage": "200Gi", "pods": "110"}
    ready = {"type": "Ready", "status": "True"}
    return {
        "metadata": {"name": "n", "labels": labels},
        "spec": {"taints": list(taints)},
        "status": {"allocatable": has, "conditions": [ready]},
    }


def unfit(found: dict[str, Any], asked: Platform) -> list[str]:
    return list(room._unfit(found, pods.worker(asked.pods, "i")["spec"], asked))


@given(workers=st.integers(1, 64), gpus=st.integers(0, 8), cpus=st.integers(1, 32), gib=st.integers(1, 512))
def test_a_quota_counts_head_workers_and_submitter(workers: int, gpus: int, cpus: int, gib: int) -> None:
    need = room._need(platform(workers, gpus=gpus, cpus=cpus, memory=f"{gib}Gi", head_cpus=2, head_memory="6Gi"))
    count = -(-workers // max(1, gpus))
    assert need["pods"] == count + 2
    assert need["requests.cpu"] == need["cpu"] == 2 + count * cpus + Decimal("0.05")
    assert need["limits.memory"] == (6 + count * gib + 1) * 2**30
    assert need.get("requests.nvidia.com/gpu", 0) == count * gpus


def test_a_node_that_fits_has_nothing_against_it() -> None:
    asked = platform(gpus=4, cpus=8, memory="64Gi", accelerator="H100", node_selector={"zone": "a"})
    assert not unfit(node(zone="a", **{"nvidia.com/gpu.product": "H100"}), asked)


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"gpus": 5}, "too small for"),
        ({"cpus": 9}, "too small for"),
        ({"memory": "65Gi"}, "too small for"),
        ({"accelerator": "H100"}, "nvidia.com/gpu.product is absent, not H100"),
        ({"node_selector": {"zone": "b"}}, "zone is a, not b"),
    ],
)
def test_each_reason_against_a_node_is_named(asked: dict[str, Any], why: str) -> None:
    (told,) = unfit(node(zone="a"), platform(**asked))
    assert told.startswith(why)


def test_nodes_that_take_nothing_are_named() -> None:
    found = node()
    found["spec"]["unschedulable"] = True
    found["status"]["conditions"][0]["status"] = "Unknown"
    assert unfit(found, platform()) == ["cordoned", "not ready"]


@pytest.mark.parametrize(
    ("toleration", "holds"),
    [
        ({"key": "gpu"}, True),
        ({}, True),
        ({"key": "gpu", "operator": "Equal", "value": "yes"}, True),
        ({"key": "gpu", "operator": "Equal", "value": "no"}, False),
        ({"key": "gpu", "effect": "NoExecute"}, False),
        ({"key": "other"}, False),
    ],
)
def test_taints_are_tolerated_as_kubernetes_does(toleration: dict[str, str], holds: bool) -> None:
    tainted = node(({"key": "gpu", "value": "yes", "effect": "NoSchedule"},))
    assert (not unfit(tainted, platform(tolerations=[toleration]))) == holds
    assert not unfit(node(({"key": "gpu", "effect": "PreferNoSchedule"},)), platform())
