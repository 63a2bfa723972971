"""What accounts may do, asked verb by verb: Kubernetes answers for the asker, and to administrators for others.

Each verb is one that medmim itself calls; the tests hold these against what runs and against the Roles.
"""

from collections.abc import Iterable

from medmim.cluster.doctor.api import Unseen, ask, read
from medmim.cluster.kube import Kube, Object
from medmim.doctor.check import Check
from medmim.errors import UserError

Verb = tuple[str, str, str]  # API group, resource, verb

NEEDS: dict[str, frozenset[Verb]] = {
    "medmim-step": frozenset(
        {
            *(("ray.io", "rayjobs", verb) for verb in ("get", "create", "delete")),
            *(("coordination.k8s.io", "leases", verb) for verb in ("create", "patch")),
            ("", "pods", "get"),
            ("", "pods", "list"),
            ("", "pods/log", "get"),
            ("", "events", "list"),
        }
    ),
    "medmim-sweep": frozenset(
        {
            ("", "namespaces", "get"),
            ("ray.io", "rayjobs", "list"),
            ("ray.io", "rayjobs", "delete"),
            ("coordination.k8s.io", "leases", "list"),
            ("argoproj.io", "workflows", "get"),
            ("", "pods", "list"),
            ("", "events", "list"),
            ("", "pods/log", "get"),
        }
    ),
    "medmim-ray": frozenset({("coordination.k8s.io", "leases", "get")}),
}
_API = "authorization.k8s.io/v1"


def account(kube: Kube) -> Check:
    """Who asks, and whether it may do what a step (or, as another account of medmim, that one) does."""
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    said = ask(kube, "POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", review)[1]
    user = str(said.get("status", {}).get("userInfo", {}).get("username", "this account"))
    role = user.rpartition(":")[2]
    role = role if role in NEEDS else "medmim-step"
    lacking = [verb for verb in sorted(NEEDS[role]) if not _may(kube, verb)]
    if lacking:
        raise UserError(
            f"{user} may not {_said(lacking)} in {kube.namespace}",
            reason=f"{role.removeprefix('medmim-')} needs it",
            fix=f"add to its Role: {_rules(lacking)}",
        )
    return Check("account", "ok", f"{user} may all that {role} needs ({len(NEEDS[role])} verbs)")


def accounts(kube: Kube, ray_account: str) -> Check:
    """Whether the accounts of steps, Ray pods and sweep are there and may do what they must."""
    problems, fixes = [], []
    for role, needs in NEEDS.items():
        name = ray_account if role == "medmim-ray" else role
        if read(kube, f"/api/v1/namespaces/{kube.namespace}/serviceaccounts/{name}") is None:
            problems.append(f"no service account {name}")
            fixes.append(f"make {name} with its Role (docs/cluster.md)")
            continue
        lacking = [verb for verb in sorted(needs) if not _may(kube, verb, name)]
        if lacking:
            problems.append(f"{name} may not {_said(lacking)}")
            fixes.append(f"add to the Role of {name}: {_rules(lacking)}")
    if problems:
        raise UserError("; ".join(problems), fix="; ".join(fixes))
    return Check("accounts", "ok", f"medmim-step, medmim-sweep, {ray_account} may what they need")


def _may(kube: Kube, verb: Verb, account: str = "") -> bool:
    """Whether the asker, or a service account of the namespace, may do something there."""
    group, resource, do = verb
    resource, _, sub = resource.partition("/")
    spec: Object = {
        "resourceAttributes": {
            "namespace": kube.namespace, "group": group, "resource": resource, "subresource": sub, "verb": do
        }
    }  # fmt: skip
    path, kind = f"/apis/{_API}/selfsubjectaccessreviews", "SelfSubjectAccessReview"
    meta: Object = {}
    if account:
        of = "system:serviceaccounts"
        spec |= {
            "user": f"system:serviceaccount:{kube.namespace}:{account}",
            "groups": [of, f"{of}:{kube.namespace}", "system:authenticated"],
        }
        path, kind = f"/apis/{_API}/namespaces/{kube.namespace}/localsubjectaccessreviews", "LocalSubjectAccessReview"
        meta = {"namespace": kube.namespace}
    status, said = ask(kube, "POST", path, {"apiVersion": _API, "kind": kind, "metadata": meta, "spec": spec})
    if status == 403:
        raise Unseen("this account may not ask what others may", fix="run the doctor as an administrator")
    if status != 201:
        raise UserError(f"the cluster answers {status} to a {kind}", reason=str(said.get("message", "")))
    return bool(said["status"]["allowed"])


def _said(verbs: Iterable[Verb]) -> str:
    return ", ".join(f"{do} {f'{resource}.{group}' if group else resource}" for group, resource, do in verbs)


def _rules(verbs: Iterable[Verb]) -> str:
    """Rules that grant the verbs, as a Role writes them."""
    grouped: dict[tuple[str, str], list[str]] = {}
    for group, resource, do in verbs:
        grouped.setdefault((group, resource), []).append(do)
    return ", ".join(
        f'{{apiGroups: ["{group}"], resources: ["{resource}"], verbs: [{", ".join(dos)}]}}'
        for (group, resource), dos in grouped.items()
    )
