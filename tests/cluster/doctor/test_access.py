"""The verbs that the doctor asks for are those that the Roles grant; which ones run is the accounts' own test."""

import pytest

from medmim.cluster.doctor import access
from medmim.cluster.doctor.access import NEEDS
from tests.cluster.test_accounts import granted


@pytest.mark.parametrize("account", NEEDS)
def test_the_doctor_asks_for_exactly_what_the_role_grants(account: str) -> None:
    assert NEEDS[account] == granted(account)


def test_what_is_lacking_is_said_as_rules_of_a_role() -> None:
    verbs = [("", "pods", "get"), ("", "pods", "list"), ("ray.io", "rayjobs", "get")]
    assert access._said(verbs) == "get pods, list pods, get rayjobs.ray.io"
    assert access._rules(verbs) == (
        '{apiGroups: [""], resources: ["pods"], verbs: [get, list]}, '
        '{apiGroups: ["ray.io"], resources: ["rayjobs"], verbs: [get]}'
    )
