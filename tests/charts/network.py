"""NetworkPolicies, evaluated: may this pod connect to that one on that port?

The semantics of https://kubernetes.io/docs/concepts/services-networking/network-policies/: a pod that some policy of a
direction selects is closed in that direction but for what the policies' rules name; both ends must agree.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Any

Object = dict[str, Any]


@dataclass(frozen=True)
class Pod:
    """One end: a pod, or an address outside the cluster where the namespace is empty."""

    namespace: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    ip: str = "10.1.0.9"
    ports: Mapping[str, int] = field(default_factory=dict)


def selects(selector: Object, labels: Mapping[str, str]) -> bool:
    """Whether a label selector selects; an empty one selects all."""
    assert set(selector) <= {"matchLabels", "matchExpressions"}
    wanted = all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
    for one in selector.get("matchExpressions", []):
        assert one["operator"] in ("In", "Exists"), "not evaluated here"
        within = labels.get(one["key"]) in one["values"] if one["operator"] == "In" else one["key"] in labels
        wanted = wanted and within
    return wanted


def about(policies: list[Object], pod: Pod, direction: str) -> list[Object]:
    """The policies of that direction that select the pod."""
    return [
        one
        for one in policies
        if one["metadata"]["namespace"] == pod.namespace
        and direction in one["spec"]["policyTypes"]
        and selects(one["spec"]["podSelector"], pod.labels)
    ]


def may(policies: list[Object], source: Pod, target: Pod, port: int, protocol: str = "TCP") -> bool:
    """Whether a connection is allowed at both ends."""
    for pod, other, direction, peers in ((source, target, "Egress", "to"), (target, source, "Ingress", "from")):
        closing = about(policies, pod, direction) if pod.namespace else []
        rules = [rule for one in closing for rule in one["spec"].get(direction.lower(), [])]
        if closing and not any(
            _port(rule, target, port, protocol) and _peer(rule, peers, pod, other) for rule in rules
        ):
            return False
    return True


def _port(rule: Object, target: Pod, port: int, protocol: str) -> bool:
    if "ports" not in rule:
        return True
    named = [(target.ports.get(one["port"], one["port"]), one.get("protocol", "TCP")) for one in rule["ports"]]
    return (port, protocol) in named


def _peer(rule: Object, key: str, here: Pod, other: Pod) -> bool:
    if not rule.get(key):
        return True
    return any(_matches(peer, here, other) for peer in rule[key])


def _matches(peer: Object, here: Pod, other: Pod) -> bool:
    if "ipBlock" in peer:
        return ip_address(other.ip) in ip_network(peer["ipBlock"]["cidr"])
    if not other.namespace:
        return False
    if "namespaceSelector" in peer:
        inside = selects(peer["namespaceSelector"], {"kubernetes.io/metadata.name": other.namespace})
    else:
        inside = other.namespace == here.namespace
    return inside and selects(peer.get("podSelector", {}), other.labels)
