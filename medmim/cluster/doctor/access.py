"""What accounts may do, verb by verb: Kubernetes reviews it for the account itself, and for administrators for others.

Each verb is one that medmim itself calls; the tests compare these with what runs and with the Roles.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from medmim.cluster.doctor.api import Unchecked, ask, read
from medmim.cluster.kube import Kube, Object
from medmim.doctor.check import Check
from medmim.errors import UserError
from medmim.recipe import names

Verb = tuple[str, str, str]  # API group, resource, verb

NEEDS: dict[str, frozenset[Verb]] = {
    names.STEP_ACCOUNT: frozenset(
        {
            *(("ray.io", "rayjobs", verb) for verb in ("get", "create", "delete")),
            *(("coordination.k8s.io", "leases", verb) for verb in ("create", "patch")),
            ("", "pods", "get"),
            ("", "pods", "list"),
            ("", "pods/log", "get"),
            ("", "events", "list"),
            ("argoproj.io", "workflows", "get"),
        }
    ),
    names.SWEEP_ACCOUNT: frozenset(
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
    names.RAY_ACCOUNT: frozenset({("coordination.k8s.io", "leases", "get")}),
}
_API = "authorization.k8s.io/v1"


def account(kube: Kube) -> Check:
    """This account, and whether it has the rights of a step (or, as another account of medmim, its own).

    Raises:
        UserError: It lacks one.
    """
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    answer = ask(kube, "POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", review)[1]
    user = str(answer.get("status", {}).get("userInfo", {}).get("username", "this account"))
    role = user.rpartition(":")[2]
    role = role if role in NEEDS else names.STEP_ACCOUNT
    missing = [verb for verb in sorted(NEEDS[role]) if not _may(kube, verb)]
    if missing:
        raise UserError(
            f"{user} may not {_listed(missing)} in {kube.namespace}",
            reason=f"{role.removeprefix('medmim-')} needs it",
            fix=f"add to its Role: {_rules(missing)}",
        )
    return Check("account", "ok", f"{user} has all rights that {role} needs ({len(NEEDS[role])} verbs)")


def accounts(kube: Kube, ray_account: str) -> Check:
    """Whether the accounts of steps, Ray pods and sweep exist and have the rights that they need."""
    problems, fixes = [], []
    for role, needs in NEEDS.items():
        name = ray_account if role == names.RAY_ACCOUNT else role
        if read(kube, f"/api/v1/namespaces/{kube.namespace}/serviceaccounts/{name}") is None:
            problems.append(f"no service account {name}")
            fixes.append(f"make {name} with its Role (docs/cluster.md)")
            continue
        missing = [verb for verb in sorted(needs) if not _may(kube, verb, name)]
        if missing:
            problems.append(f"{name} may not {_listed(missing)}")
            fixes.append(f"add to the Role of {name}: {_rules(missing)}")
    if problems:
        raise UserError("; ".join(problems), fix="; ".join(fixes))
    known = f"{names.STEP_ACCOUNT}, {names.SWEEP_ACCOUNT}, {ray_account}"
    return Check("accounts", "ok", f"{known} have the rights that they need")


def denied(kube: Kube, rights: Sequence[str]) -> Check:
    """Whether this account is denied what it must not do.

    Args:
        kube: The cluster.
        rights: Each `not VERB RESOURCE[/SUBRESOURCE][.GROUP] [NAMESPACE]`; by default in this account's namespace.

    Raises:
        UserError: It has one of the rights, or a right is written otherwise.
    """
    granted = []
    for right in rights:
        words = right.split()
        if len(words) not in (3, 4) or words[0] != "not":
            raise UserError(
                f"'{right}' is no denied right", fix="write it as `not VERB RESOURCE[/SUBRESOURCE][.GROUP] [NAMESPACE]`"
            )
        resource, _, group = words[2].partition(".")
        there = replace(kube, namespace=words[3]) if len(words) == 4 else kube
        if _may(there, (group, resource, words[1])):
            granted.append(f"it may {words[1]} {words[2]} in {there.namespace}")
    if granted:
        raise UserError(
            "this account has rights that it must not have",
            fix="remove the RoleBinding that grants them: kubectl get rolebindings,clusterrolebindings -A -o wide",
            problems=granted,
        )
    return Check("denied", "ok", f"{len(rights)} rights are denied, as they must be")


def _may(kube: Kube, verb: Verb, account: str = "") -> bool:
    """Whether this account, or a service account of the namespace, may do something there."""
    group, resource, action = verb
    resource, _, subresource = resource.partition("/")
    spec: Object = {
        "resourceAttributes": {
            "namespace": kube.namespace,
            "group": group,
            "resource": resource,
            "subresource": subresource,
            "verb": action,
        }
    }
    path, kind = f"/apis/{_API}/selfsubjectaccessreviews", "SelfSubjectAccessReview"
    meta: Object = {}
    if account:
        everyone = "system:serviceaccounts"
        spec |= {
            "user": f"system:serviceaccount:{kube.namespace}:{account}",
            "groups": [everyone, f"{everyone}:{kube.namespace}", "system:authenticated"],
        }
        path, kind = f"/apis/{_API}/namespaces/{kube.namespace}/localsubjectaccessreviews", "LocalSubjectAccessReview"
        meta = {"namespace": kube.namespace}
    status, answer = ask(kube, "POST", path, {"apiVersion": _API, "kind": kind, "metadata": meta, "spec": spec})
    if status == 403:
        raise Unchecked("this account may not review the rights of others", fix="run the doctor as an administrator")
    if status != 201:
        raise UserError(f"the cluster answers {status} to a {kind}", reason=str(answer.get("message", "")))
    return bool(answer["status"]["allowed"])


def _listed(verbs: Iterable[Verb]) -> str:
    return ", ".join(f"{action} {f'{resource}.{group}' if group else resource}" for group, resource, action in verbs)


def _rules(verbs: Iterable[Verb]) -> str:
    """Rules that grant the verbs, as a Role writes them."""
    grouped: dict[tuple[str, str], list[str]] = {}
    for group, resource, action in verbs:
        grouped.setdefault((group, resource), []).append(action)
    return ", ".join(
        f'{{apiGroups: ["{group}"], resources: ["{resource}"], verbs: [{", ".join(actions)}]}}'
        for (group, resource), actions in grouped.items()
    )
