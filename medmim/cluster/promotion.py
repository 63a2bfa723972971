"""`medmim registry promote | rollback | refuse | retire --on-cluster`: in a Job, with credentials that no person sees.

The chart keeps the Job's pod as PodTemplate `medmim-promoter` in the release's namespace. A person's own account
creates the Job, and the API server says who that is: the decision log gets this name, and the chart's admission policy
holds the Job against both, template and name.
"""

import json
import uuid
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

from medmim import hints
from medmim.cluster import jobs, kube
from medmim.cluster.kube import Object
from medmim.errors import UserError
from medmim.progress import say
from medmim.recipe import names
from medmim.run.person import is_person
from medmim.sample import digest_of

REQUEST = "medmim/request"  # label of a Job: the digest of who asked for what
_DEADLINE = 1800  # s
_KEPT = 24 * 3600  # s that an ended Job and its log stay


def job(template: Object, words: Sequence[str], user: str) -> Object:
    """The Job that runs a command of `medmim registry` as the promoter.

    Args:
        template: The PodTemplate of the chart.
        words: The command, after `medmim`.
        user: Who asks for it, as the API server knows them.
    """
    pod = deepcopy(template["template"])
    (container,) = pod["spec"]["containers"]
    container["args"] = ["medmim", *map(_literal, words)]
    container["env"] = [*container.get("env", []), {"name": "MEDMIM_USER", "value": _literal(user)}]
    request = digest_of([user, *words])[:32]
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        # a name of its own: the same promotion may be right again after another one
        "metadata": {
            "name": f"medmim-{words[1]}-{uuid.uuid4().hex[:10]}",
            "labels": {**pod["metadata"]["labels"], REQUEST: request},
        },
        "spec": {
            "backoffLimit": 0,
            "activeDeadlineSeconds": _DEADLINE,
            "ttlSecondsAfterFinished": _KEPT,
            "template": pod,
        },
    }


def run(words: Sequence[str], namespace: str | None, on_line: Callable[[str], None]) -> tuple[int, dict[str, Any]]:
    """Run a command of `medmim registry` as the promoter; a Job of the same person's same command is found.

    Args:
        words: `registry`, then `promote`, `rollback`, `refuse` or `retire`, and what follows, `--json` included.
        namespace: The release's.
        on_line: Called with each line of its log but the result.

    Returns:
        The exit code, and what the command printed as JSON; empty where it failed, or its log is gone.

    Raises:
        UserError: There is no promoter, or this person may not create its Jobs, or is none.
        Unavailable: The API server does not answer; a Job that was created goes on.
    """
    cluster = kube.connect(namespace)
    try:
        template = cluster.get("podtemplates", names.PROMOTER)
        if template is None:
            raise UserError(
                f"namespace {cluster.namespace} has no promoter",
                reason=f"PodTemplate {names.PROMOTER}, which medmim's chart makes in its own namespace, is not there",
                fix="give the namespace of the release with --namespace",
            )
        wanted = job(template, words, _person(cluster))
        name = _find(cluster, wanted) or _create(cluster, wanted)
    except kube.Forbidden as error:
        fix = "ask to be named in the chart's value promotion.promoters"
        raise UserError(error.fact, error.reason, fix) from None
    facts: dict[str, Any] = {}

    def sort(line: str) -> None:
        nonlocal facts
        found = _facts(line)
        if found:
            facts = found
        elif line:
            on_line(line)

    code = jobs.follow(cluster, name, sort)
    if code == 0 and not facts:
        say(f"Job {name} is done, and its log is gone: `{hints.command('registry', 'list')}` shows the champion")
    return code, facts


def _person(cluster: kube.Kube) -> str:
    user = cluster.user()
    if not is_person(user):
        raise UserError(
            f"the cluster knows you as {user}, and that is no person",
            reason="the decision log says for good who made a model champion",
            fix="use a kubeconfig of your own login",
        )
    return user


def _find(cluster: kube.Kube, wanted: Object) -> str:
    """A Job of the same request: one that goes on, and of a rollback one that is done, since two would cancel out."""
    labels = wanted["metadata"]["labels"]
    listed = cluster.list("jobs", f"{REQUEST}={labels[REQUEST]}")
    same = [one for one in listed if _asked(one) == _asked(wanted)]  # nothing holds a label against what a Job does
    repeats = "rollback" in wanted["spec"]["template"]["spec"]["containers"][0]["args"][:3]
    for found in same:
        end, name = jobs.ended(found), str(found["metadata"]["name"])
        if not end:
            say(f"Job {name} in {cluster.namespace} does this already; the end of this terminal does not end it")
            return name
        if end == "Complete" and repeats:
            say(f"Job {name} in {cluster.namespace} has done this already; another rollback needs another --why")
            return name
    return ""


def _asked(job: Object) -> tuple[Any, list[Object]]:
    """The command of a Job, and who asks for it: both are held against its creator by the chart's policy."""
    (container,) = job["spec"]["template"]["spec"]["containers"]
    return container["args"], [one for one in container["env"] if one["name"] == "MEDMIM_USER"]


def _create(cluster: kube.Kube, wanted: Object) -> str:
    name = str(wanted["metadata"]["name"])
    cluster.create("jobs", wanted)  # a Job of that name is ours too: the answer to our first try was lost
    say(f"Job {name} in {cluster.namespace} started; the end of this terminal does not end it")
    return name


def _literal(text: str) -> str:
    """Text as Kubernetes hands it on unchanged: it would put a variable's value in place of `$(NAME)`."""
    return text.replace("$", "$$")


def _facts(line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) and "decision" in found else {}
