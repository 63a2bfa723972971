"""medmim registry promote and rollback --on-cluster, over a cluster whose Job ends as the test says.

Who may create the Job, and what may be in it, is asked of a real API server in tests/cluster/test_promotion.py.
"""

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from medmim.cli.registry import app
from medmim.cluster import jobs, kube, promotion
from medmim.errors import UserError
from tests.support.job_cluster import JobCluster

FACTS = {
    "name": "demo", "version": "4", "digest": "d", "uri": "s3://b/model/d", "decision": 7, "verdict": "promoted",
    "changed": True, "aliases": {"champion": "4"},
}  # fmt: skip
LOG = ["store s3://b", json.dumps(FACTS), "promoted by hand: the gate did not pass this model"]
PROMOTE = ["promote", "demo-candidate", "3", "--why", "costs $(HOME)", "--on-cluster"]


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Commands on a cluster; the namespaces that were asked for are kept."""
    monkeypatch.setattr(jobs.time, "sleep", lambda seconds: None)
    asked: list[str | None] = []

    def on(cluster: JobCluster) -> list[str | None]:
        def connect(namespace: str | None = None) -> JobCluster:
            asked.append(namespace)
            return cluster

        monkeypatch.setattr(kube, "connect", connect)
        return asked

    return on


def test_the_result_is_printed_as_that_of_this_machine_and_the_rest_of_the_log_beside_it(
    on: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDMIM_PROMOTER_NAMESPACE", "medmim")
    cluster = JobCluster("Complete", 0, LOG)
    asked = on(cluster)
    done = CliRunner().invoke(app, PROMOTE, catch_exceptions=False)
    assert (done.exit_code, done.stdout) == (0, "version 4 of demo is champion now (decision 7, promoted)\n")
    assert LOG[0] in done.stderr and LOG[2] in done.stderr and "anna" not in done.output
    (job,) = cluster.jobs.values()
    (container,) = job["spec"]["template"]["spec"]["containers"]
    words = ["medmim", "registry", "promote", "--json", "--why=costs $$(HOME)", "--", "demo-candidate", "3"]
    assert container["args"] == words and container["env"] == [{"name": "MEDMIM_USER", "value": "anna@example.org"}]
    done = CliRunner().invoke(app, [*PROMOTE, "--json", "-n", "other"], catch_exceptions=False)
    assert json.loads(done.stdout) == FACTS and asked == ["medmim", "other"]


def test_its_exit_code_is_the_commands(on: Any) -> None:
    cluster = JobCluster("Failed", 2, ["error: demo-candidate has no version 3"])
    on(cluster)
    done = CliRunner().invoke(app, [*PROMOTE, "--despite-gate", "--despite-terms"], catch_exceptions=False)
    assert (done.exit_code, done.stdout) == (2, "") and "has no version 3" in done.stderr
    (job,) = cluster.jobs.values()
    given = job["spec"]["template"]["spec"]["containers"][0]["args"]
    assert {"--despite-gate", "--despite-terms"} <= set(given[: given.index("--")])


def test_a_job_whose_log_is_gone_is_done_all_the_same(on: Any) -> None:
    on(JobCluster("Complete", 0, []))
    done = CliRunner().invoke(app, PROMOTE, catch_exceptions=False)
    assert (done.exit_code, done.stdout) == (0, "") and "registry list" in done.stderr


def test_the_same_rollback_is_done_once_and_the_same_promotion_as_often_as_it_is_asked_for(on: Any) -> None:
    """A person whose terminal died runs the command again: a second rollback would undo the first."""
    cluster = JobCluster("Complete", 0, LOG)
    on(cluster)
    rollback = ["rollback", "demo", "--why", "it hallucinates", "--on-cluster"]
    for count in (1, 1):
        assert CliRunner().invoke(app, rollback, catch_exceptions=False).exit_code == 0
        assert len(cluster.jobs) == count
    assert CliRunner().invoke(app, [*rollback[:3], "again", "--on-cluster"], catch_exceptions=False).exit_code == 0
    assert len(cluster.jobs) == 2
    for count in (3, 4):
        assert CliRunner().invoke(app, PROMOTE, catch_exceptions=False).exit_code == 0
        assert len(cluster.jobs) == count


def test_the_job_of_a_terminal_that_was_closed_is_found(on: Any) -> None:
    cluster = JobCluster("Failed", 75, ["error: the store does not answer"])
    on(cluster)
    assert CliRunner().invoke(app, PROMOTE, catch_exceptions=False).exit_code == 75
    (job,) = cluster.jobs.values()
    del job["status"]  # as it was while it went on
    done = CliRunner().invoke(app, PROMOTE, catch_exceptions=False)
    assert done.exit_code == 75 and len(cluster.jobs) == 1 and "does this already" in done.stderr
    job["spec"]["template"]["spec"]["containers"][0]["args"][-1] = "4"
    job.pop("status", None)  # of somebody else, who typed that label
    CliRunner().invoke(app, PROMOTE, catch_exceptions=False)
    assert len(cluster.jobs) == 2


def test_another_persons_same_command_is_another_job() -> None:
    template = JobCluster("Complete", 0, []).get("podtemplates", "medmim-promoter")
    made = [promotion.job(template, ["registry", "promote", "x"], user) for user in ("anna", "anna", "bob")]
    requests = [one["metadata"]["labels"][promotion.REQUEST] for one in made]
    assert requests[0] == requests[1] != requests[2] and len({one["metadata"]["name"] for one in made}) == 3


def test_a_namespace_alone_promotes_nothing(on: Any) -> None:
    cluster = JobCluster("Complete", 0, LOG)
    on(cluster)
    with pytest.raises(UserError, match="is for --on-cluster"):
        CliRunner().invoke(app, [*PROMOTE[:-1], "-n", "medmim"], catch_exceptions=False)
    assert cluster.jobs == {}
