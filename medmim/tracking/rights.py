"""Who may write what in MLflow, as far as it tells: servers with its own users do, others and databases do not."""

from typing import Any

from medmim.errors import UserError
from medmim.redact import shown
from medmim.run.workspace import Workspace

_OWN = "/api/3.0/mlflow/users/current/permissions"
_USERS, _OF_USER = "/api/2.0/mlflow/users/list", "/api/3.0/mlflow/users/permissions/list"
_WRITES = ("EDIT", "MANAGE")


def refuse_shared(ws: Workspace, kind: str, name: str, title: str, made: bool) -> None:
    """Refuse what is not this user's own: whoever else may write it, such as a step that made it, can replace it later.

    MLflow gives a user MANAGE on what they make, and lets them give it to others, which does not take their own away.
    Only an administrator is told of the permissions of others.

    Args:
        ws: The workspace.
        kind: `experiment` or `registered_model`.
        name: Its id or name.
        title: As an error names it.
        made: Whether something else than MLflow says that this user made it.

    Raises:
        UserError: The user has no MANAGE on it, or has not made it, or, as an administrator, sees that somebody else
            may write it.
        MlflowException: As `answering` expects them.
    """
    if reason := why_shared(ws, kind, name, made):
        raise UserError(
            f"{title} is not the promoter's alone in MLflow at {shown(ws.tracking)}",
            reason=f"{reason}; who may write it can replace what consumers of the champion load",
            fix="let an administrator rename or delete what is there: the promotion makes it anew (docs/keeping.md)",
        )


def why_shared(ws: Workspace, kind: str, name: str, made: bool) -> str:
    """Why something is not this user's own; empty where it is, and where MLflow has no users. As `refuse_shared`."""
    own = _get(ws, _OWN)
    if own is None:
        return ""
    if not own["is_admin"]:
        owned = any(_about(row, kind, name) and row["permission"] == "MANAGE" for row in own["permissions"])
        if not owned:
            return "this user has no MANAGE on it, so somebody else made it"
        return "" if made else "no promotion made it, and whoever did can have given this user MANAGE on it"
    others = [user["username"] for user in (_get(ws, _USERS) or {"users": []})["users"] if not user["is_admin"]]
    for user in others:
        rows = (_get(ws, _OF_USER, username=user) or {"permissions": []})["permissions"]
        if any((_about(row, kind, name) or _about(row, kind, "*")) and row["permission"] in _WRITES for row in rows):
            return f"user {user} may write it, too"
    return ""


def has_users(ws: Workspace) -> bool:
    """Whether MLflow tells users apart."""
    return _get(ws, _OWN) is not None


def _about(row: dict[str, Any], kind: str, name: str) -> bool:
    return bool(row["resource_type"] == kind and row["resource_pattern"] == name)


def _get(ws: Workspace, path: str, **params: str) -> dict[str, Any] | None:
    """The answer of an MLflow server with users; None of any other."""
    if not ws.tracking.startswith(("http://", "https://")):
        return None
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request, verify_rest_response

    answer = http_request(get_default_host_creds(ws.tracking), path, "GET", params=params or None)
    if answer.status_code in (404, 405):
        return None
    verify_rest_response(answer, path)
    if "json" not in answer.headers.get("Content-Type", ""):  # a page for browsers
        return None
    found: dict[str, Any] = answer.json()
    return found
