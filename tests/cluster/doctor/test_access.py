"""The verbs that the doctor checks are those that the Roles grant; that they suffice is the accounts' own test."""

from typing import Any

import pytest

from medmim.cluster.doctor import access
from medmim.cluster.doctor.access import NEEDS
from medmim.cluster.kube import Kube
from medmim.errors import UserError
from tests.cluster.test_accounts import granted


@pytest.mark.parametrize("account", NEEDS)
def test_the_doctor_checks_exactly_what_the_role_grants(account: str) -> None:
    assert NEEDS[account] == granted(account)


def test_missing_verbs_are_written_as_rules_of_a_role() -> None:
    verbs = [("", "pods", "get"), ("", "pods", "list"), ("ray.io", "rayjobs", "get")]
    assert access._listed(verbs) == "get pods, list pods, get rayjobs.ray.io"
    assert access._rules(verbs) == (
        '{apiGroups: [""], resources: ["pods"], verbs: [get, list]}, '
        '{apiGroups: ["ray.io"], resources: ["rayjobs"], verbs: [get]}'
    )


@pytest.mark.parametrize("granted", [False, True])
def test_a_right_that_must_be_denied_is_reviewed_where_it_would_hold(
    monkeypatch: pytest.MonkeyPatch, granted: bool
) -> None:
    reviewed = []

    def answer(kube: Kube, method: str, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        reviewed.append(body["spec"]["resourceAttributes"])
        return 201, {"status": {"allowed": granted and len(reviewed) == 2}}

    monkeypatch.setattr(access, "ask", answer)
    rights = ["not create serviceaccounts/token", "not get roles.rbac.authorization.k8s.io platform"]
    if granted:
        with pytest.raises(UserError, match="rights that it must not have") as raised:
            access.denied(Kube(None, "runs"), rights)
        assert raised.value.problems == ("it may get roles.rbac.authorization.k8s.io in platform",)
    else:
        assert access.denied(Kube(None, "runs"), rights).status == "ok"
    keys = ("namespace", "group", "resource", "subresource", "verb")
    assert [tuple(one[key] for key in keys) for one in reviewed] == [
        ("runs", "", "serviceaccounts", "token", "create"),
        ("platform", "rbac.authorization.k8s.io", "roles", "", "get"),
    ]


@pytest.mark.parametrize("right", ["create pods", "not pods", "", "not get pods here now"])
def test_a_right_that_is_not_written_as_denied_is_refused(right: str) -> None:
    with pytest.raises(UserError, match="is no denied right"):
        access.denied(Kube(None, "runs"), [right])
