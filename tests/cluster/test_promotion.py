"""Promoting by a Job, on a real API server: who may, as whom, and what the chart's policy lets into the Job."""

import copy
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml

from medmim.cluster import jobs, kube, promotion
from medmim.cluster.kube import Kube
from medmim.errors import UserError
from medmim.recipe import names
from tests.cluster.conftest import kubectl
from tests.support.chart import render
from tests.support.waiting import until

pytestmark = pytest.mark.cluster

Object = dict[str, Any]
ANNA, LEAD, NOBODY = "anna@example.org", "lead", "nobody@example.org"
WORDS = ["registry", "promote", "--json", "--why=it costs $(AWS_SECRET_ACCESS_KEY) and $5", "--", "demo-candidate", "3"]
VALUES: Object = {
    "promotion": {"promoters": [{"kind": "User", "name": ANNA}, {"kind": "Group", "name": LEAD}]},
    "jobs": {
        "nodeSelector": {"type": "simulated"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
        "podAnnotations": {"team": "a"},
    },
}


@pytest.fixture(scope="module")
def release(kubeconfig: Any) -> Iterator[str]:
    """A namespace with the promoter's part of the chart."""
    name = "medmim-promotion"
    kubectl(kubeconfig, "create", "namespace", name)
    kubectl(kubeconfig, "label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
    made = [one for one in render(VALUES, name) if "promot" in one["metadata"]["name"]]
    kubectl(kubeconfig, "apply", "-f", "-", stdin=yaml.safe_dump_all(made))
    refused = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "a-job"}}
    refused["spec"] = {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    anna = kube.connect(name)
    monkeypatch.undo()
    anna.api.set_default_header("Impersonate-User", ANNA)
    path = f"/apis/batch/v1/namespaces/{name}/jobs?dryRun=All"
    until(lambda: "medmim-promotion" in anna.request("POST", path, refused)[1])  # the policy is in force
    yield name
    kubectl(kubeconfig, "delete", "namespace", name, "--wait=false")
    for kind in ("validatingadmissionpolicybinding", "validatingadmissionpolicy"):
        kubectl(kubeconfig, "delete", kind, f"medmim-promotion-{name}")


@pytest.fixture
def as_user(kubeconfig: Any, release: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Kube]:
    """The cluster as a user sees it; promotions are theirs from now on."""
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    connect = kube.connect

    def as_user(user: str = "", group: str = "") -> Kube:
        made = connect(release)
        if user:
            made.api.set_default_header("Impersonate-User", user)
        if group:
            made.api.set_default_header("Impersonate-Group", group)
        monkeypatch.setattr(kube, "connect", lambda namespace=None: made)
        return made

    return as_user


@pytest.fixture(autouse=True)
def _no_jobs_left(kubeconfig: Any, release: str) -> Iterator[None]:
    yield
    kubectl(kubeconfig, "-n", release, "delete", "jobs", "--all", "--cascade=foreground")


def policy(kubeconfig: Any, release: str) -> Object:
    words = ["get", "validatingadmissionpolicy", f"medmim-promotion-{release}", "-o", "json"]
    found: Object = json.loads(kubectl(kubeconfig, *words))
    return found


def found(admin: Kube) -> list[Object]:
    return admin.list("jobs")


def end(kubeconfig: Any, admin: Kube, job: str, code: int) -> None:
    """Let the container of a Job's pod end, as its node would."""
    (pod,) = until(lambda: admin.list("pods", f"batch.kubernetes.io/job-name={job}"))
    state = {"terminated": {"exitCode": code}}
    container = {"name": "promoter", "image": "i", "imageID": "i", "ready": False, "restartCount": 0, "state": state}
    status = {"phase": "Failed" if code else "Succeeded", "containerStatuses": [container]}
    name = pod["metadata"]["name"]
    words = ["patch", "pod", name, "--subresource=status", "--type=merge", "-p", json.dumps({"status": status})]
    kubectl(kubeconfig, "-n", admin.namespace, *words)


def test_who_the_chart_names_promotes_and_is_named(as_user: Callable[..., Kube], kubeconfig: Any) -> None:
    admin = as_user()
    for code, user, group, does in ((0, ANNA, "", "promote"), (1, "bob", LEAD, "refuse")):
        as_user(user, group)
        ended: list[Any] = []
        words = [WORDS[0], does, *WORDS[2:]]
        thread = threading.Thread(target=lambda *given: given[0].append(promotion.run(given[1], None, print)),
                                  args=(ended, words), daemon=True)  # fmt: skip
        thread.start()
        (job,) = until(lambda: [one for one in found(admin) if not jobs.ended(one)])
        (container,) = job["spec"]["template"]["spec"]["containers"]
        assert container["args"][:3] == ["medmim", "registry", does]
        assert "--why=it costs $$(AWS_SECRET_ACCESS_KEY) and $$5" in container["args"]  # Kubernetes halves them again
        assert [one["value"] for one in container["env"] if one["name"] == "MEDMIM_USER"] == [user]
        assert job["spec"]["template"]["spec"]["serviceAccountName"] == names.PROMOTER
        end(kubeconfig, admin, job["metadata"]["name"], code)
        thread.join(60)
        assert [one[0] for one in ended] == [code]


def test_who_the_chart_does_not_name_creates_nothing(as_user: Callable[..., Kube]) -> None:
    admin = as_user()
    as_user(f"system:serviceaccount:{admin.namespace}:{names.PROMOTER}", LEAD)
    with pytest.raises(UserError, match="no person"):
        promotion.run(WORDS, None, print)
    as_user(NOBODY)
    with pytest.raises(UserError, match="may not get podtemplates") as error:
        promotion.run(WORDS, None, print)
    assert "promotion.promoters" in error.value.fix and found(admin) == []


def test_a_second_call_finds_the_job_that_goes_on(as_user: Callable[..., Kube], kubeconfig: Any) -> None:
    admin = as_user()
    as_user(ANNA)
    results: list[Any] = []

    def call() -> threading.Thread:
        thread = threading.Thread(target=lambda: results.append(promotion.run(WORDS, None, print)[0]), daemon=True)
        thread.start()
        return thread

    first = call()
    (job,) = until(lambda: found(admin))
    second = call()
    second.join(3)
    assert [one["metadata"]["name"] for one in found(admin)] == [job["metadata"]["name"]]
    end(kubeconfig, admin, job["metadata"]["name"], 75)
    first.join(60)
    second.join(60)
    assert results == [75, 75]
    third = call()  # an ended promotion may be right again: after a rollback, for instance
    until(lambda: len(found(admin)) == 2)
    (other,) = (one for one in found(admin) if not jobs.ended(one))
    end(kubeconfig, admin, other["metadata"]["name"], 0)
    third.join(60)
    assert results == [75, 75, 0]


def _other_image(pod: Object) -> None:
    pod["spec"]["containers"][0]["image"] = "evil"


def _command(pod: Object) -> None:
    pod["spec"]["containers"][0]["command"] = ["sh", "-c", "env"]


def _other_words(pod: Object) -> None:
    pod["spec"]["containers"][0]["args"] = ["sh", "-c", "env", "x"]


def _variable(pod: Object) -> None:
    pod["spec"]["containers"][0]["args"][-1] = "$(AWS_SECRET_ACCESS_KEY)"


def _escaped_variable(pod: Object) -> None:
    pod["spec"]["containers"][0]["args"][-1] = "$$$(AWS_SECRET_ACCESS_KEY)"


def _other_policy(pod: Object) -> None:
    pod["spec"]["containers"][0]["args"].insert(3, "--policy=research")


def _other_home(pod: Object) -> None:
    pod["spec"]["containers"][0]["args"][3:3] = ["--home", "/tmp/elsewhere"]


def _other_name(pod: Object) -> None:
    pod["spec"]["containers"][0]["env"][-1]["value"] = "the boss"


def _two_names(pod: Object) -> None:
    pod["spec"]["containers"][0]["env"].append({"name": "MEDMIM_USER", "value": "the boss"})


def _no_name(pod: Object) -> None:
    pod["spec"]["containers"][0]["env"].pop()


def _name_of_a_secret(pod: Object) -> None:
    pod["spec"]["containers"][0]["env"][-1] = {
        "name": "MEDMIM_USER", "valueFrom": {"secretKeyRef": {"name": "medmim-mlflow-admin", "key": "password"}},
    }  # fmt: skip


def _more_environment(pod: Object) -> None:
    pod["spec"]["containers"][0]["env"].insert(0, {"name": "MLFLOW_TRACKING_URI", "value": "http://evil"})


def _all_of_a_secret(pod: Object) -> None:
    pod["spec"]["containers"][0]["envFrom"] = [{"secretRef": {"name": "medmim-mlflow-admin"}}]


def _init_container(pod: Object) -> None:
    pod["spec"]["initContainers"] = [{**copy.deepcopy(pod["spec"]["containers"][0]), "name": "first"}]


def _second_container(pod: Object) -> None:
    pod["spec"]["containers"].append({**copy.deepcopy(pod["spec"]["containers"][0]), "name": "second"})


def _other_account(pod: Object) -> None:
    pod["spec"]["serviceAccountName"] = pod["spec"]["serviceAccount"] = "default"


def _token(pod: Object) -> None:
    pod["spec"]["automountServiceAccountToken"] = True


def _volume(pod: Object) -> None:
    pod["spec"]["volumes"].append({"name": "s", "secret": {"secretName": "medmim-mlflow-admin"}})


def _no_label(pod: Object) -> None:
    del pod["metadata"]["labels"]["app.kubernetes.io/component"]  # which the network policies select


def _nothing(pod: Object) -> None: ...


def _annotation(pod: Object) -> None:
    pod["metadata"]["annotations"] = {**pod["metadata"]["annotations"], "vault.hashicorp.com/agent-inject": "true"}


def _label(pod: Object) -> None:
    pod["metadata"]["labels"]["azure.workload.identity/use"] = "true"


WORSE = {
    "the pod is not": [_init_container, _second_container, _other_account, _token, _volume],
    "the container is not": [_other_image, _command, _all_of_a_secret],
    "the labels or annotations": [_no_label, _label, _annotation],
    "the environment is not": [_more_environment],
    "MEDMIM_USER must be anna": [_other_name, _two_names, _no_name, _name_of_a_secret],
    "the command must be": [_other_words, _variable, _escaped_variable, _other_policy, _other_home],
}


def test_a_job_of_other_content_is_refused_to_those_who_may_only_create_jobs(
    as_user: Callable[..., Kube], kubeconfig: Any, release: str
) -> None:
    admin = as_user()
    template = admin.get("podtemplates", names.PROMOTER)
    assert template is not None
    until(lambda: "typeChecking" in json.dumps(policy(kubeconfig, release)))
    assert not policy(kubeconfig, release)["status"]["typeChecking"].get("expressionWarnings")
    said = {}
    for change in (_nothing, *(change for changes in WORSE.values() for change in changes)):
        wanted = promotion.job(template, WORDS, ANNA)
        change(wanted["spec"]["template"])
        try:
            as_user(ANNA).create("jobs", wanted)
            said[change] = "admitted"
        except UserError as error:
            said[change] = error.reason
    assert said.pop(_nothing) == "admitted"
    for why, changes in WORSE.items():
        assert [(one.__name__, said[one]) for one in changes if why not in said[one]] == []


def test_an_administrators_own_jobs_are_not_held_against_the_template(
    as_user: Callable[..., Kube], kubeconfig: Any, release: str
) -> None:
    """Helm's migration, the nightly's: but one with the promoter's account carries who made it."""
    admin = as_user()
    template = admin.get("podtemplates", names.PROMOTER)
    assert template is not None
    own = promotion.job(template, WORDS, "somebody")
    for change in (_other_account, _other_words):
        change(own["spec"]["template"])
    assert admin.create("jobs", own) is not None
    forged = promotion.job(template, WORDS, ANNA)
    with pytest.raises(UserError, match="refuses to create jobs") as error:
        admin.create("jobs", forged)
    assert f"MEDMIM_USER must be {admin.user()}" in error.value.reason
