"""What a set-up asks of all pods (a private registry, its own authority, an identity) reaches each of them."""

import pytest

from tests.support.chart import VALUES, pods, rendered


@pytest.mark.parametrize("name", VALUES)
def test_every_account_and_every_pod_pulls_with_the_registrys_secrets(name: str) -> None:
    """KFP's pods and Ray's name no pull secret: Kubernetes gives them those of their account."""
    wanted = VALUES[name].get("imagePullSecrets")
    accounts = [one for one in rendered(name) if one["kind"] == "ServiceAccount"]
    assert accounts
    assert {str(one.get("imagePullSecrets")) for one in accounts} == {str(wanted)}
    assert {str(spec.get("imagePullSecrets")) for _, _, spec in pods(rendered(name))} == {str(wanted)}
