"""The CronJob of gc: off unless it is asked for, then it removes nothing until that is asked for, too."""

from typing import Any

import pytest

from tests.support.chart import EXAMPLES, VALUES, Object, containers, named, render, rendered


def cron_job(**values: Any) -> tuple[list[Object], Object]:
    """All objects, and the CronJob's spec."""
    objects = render({**EXAMPLES["onprem-gpu"], "gc": {"enabled": True, **values}})
    return objects, named(objects, "CronJob", "medmim-gc")["spec"]


@pytest.mark.parametrize("name", [name for name in VALUES if not VALUES[name].get("gc", {}).get("enabled")])
def test_without_being_asked_for_there_is_none(name: str) -> None:
    assert not [one for one in rendered(name) if one["metadata"]["name"] == "medmim-gc"]


def test_it_only_reports_until_the_values_say_that_it_removes() -> None:
    for remove in (False, True):
        _, spec = cron_job(remove=remove, graceDays=14)
        (container,) = containers(spec["jobTemplate"]["spec"]["template"]["spec"])
        assert container["args"] == ["medmim", "gc", "--grace-days", "14", *(["--yes"] if remove else [])]


def test_two_never_run_at_once_and_it_has_keys_of_its_own_and_no_right_in_the_cluster() -> None:
    objects, spec = cron_job()
    assert spec["concurrencyPolicy"] == "Forbid"
    pod = spec["jobTemplate"]["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False and pod["serviceAccountName"] == "medmim-gc"
    (container,) = containers(pod)
    secrets = {
        one["valueFrom"]["secretKeyRef"]["name"]
        for one in container["env"]
        if "secretKeyRef" in one.get("valueFrom", {})
    }
    assert secrets == {"medmim-gc-s3", "medmim-gc-mlflow"}
    subjects = [one for made in objects if made["kind"] == "RoleBinding" for one in made["subjects"]]
    assert "medmim-gc" not in {one["name"] for one in subjects}
    assert named(objects, "ServiceAccount", "medmim-gc")["automountServiceAccountToken"] is False
