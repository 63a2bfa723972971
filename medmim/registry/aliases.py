"""MLflow's aliases, made what the decision log says: `champion`, `previous-champion` and `challenger`."""

from medmim import tracking
from medmim.errors import UserError
from medmim.registry import decisions, lookup
from medmim.registry.decisions import Decision, Standing, standing
from medmim.run.workspace import Workspace

ROLES = ("champion", "previous-champion", "challenger")


def reconcile(ws: Workspace, name: str | None = None) -> dict[str, list[str]]:
    """Make the aliases what the log says.

    Args:
        ws: The workspace.
        name: One model, or all that have a log.

    Returns:
        Name -> what differed and is right now.
    """
    every = [name] if name else decisions.names(ws)
    found = {each: drift(ws, each) for each in every}
    for each in every:
        project(ws, each)
    return found


def drift(ws: Workspace, name: str) -> list[str]:
    """Where the aliases differ from the log: moved by hand, or left behind by a run that was killed."""
    return [text for _, _, text in _differences(ws, name)]


def project(ws: Workspace, name: str) -> bool:
    """Set the aliases from the log; whether anything had to be set.

    Raises:
        UserError: The champion's version is gone from MLflow.
    """
    changed = False
    while True:
        log = decisions.read(ws, name)
        differences = _differences(ws, name, log)
        if differences:
            changed = True
            api = tracking.client(ws)
            with tracking.answering(ws.tracking):
                for role, number, _ in differences:
                    if number:
                        api.set_registered_model_alias(name, role, number)
                    elif role in tracking.registered(ws, name)[name].aliases:
                        api.delete_registered_model_alias(name, role)
        if len(decisions.read(ws, name)) == len(log):  # else we may have written over a newer projection
            break
    holder = standing(log).champion
    if holder and lookup.held(ws, name, holder) is None:
        raise UserError(
            f"version {holder.version} of {name}, the champion, is gone from MLflow",
            reason=f"the decision log made it champion (decision {holder.n}), but it was deleted there",
            fix="run its recipe again to register the same model anew, or name another champion: "
            f"medmim registry rollback {name} --why ..., medmim registry promote {name} VERSION --why ...",
        )
    return changed


def champion(ws: Workspace, name: str, now: Standing) -> dict[str, str] | None:
    """The champion as screen and `--json` show it."""
    if now.champion is None:
        return None
    version = lookup.held(ws, name, now.champion)
    number = version.number if version else now.champion.version
    return {"name": name, "version": number, "digest": now.champion.digest, "uri": now.champion.uri}


def _differences(ws: Workspace, name: str, log: list[Decision] | None = None) -> list[tuple[str, str, str]]:
    """Role, version that it should name (empty: none) and a sentence, for every alias that is not so."""
    roles = standing(decisions.read(ws, name) if log is None else log).roles()
    present = tracking.registered(ws, name).get(name, tracking.Registered()).aliases
    found = []
    for role in ROLES:
        entry = roles.get(role)
        version = lookup.held(ws, name, entry) if entry else None
        number = version.number if version else ""
        if present.get(role, "") == number:
            continue
        stands = f"was on version {present[role]}" if role in present else "was not set"
        gone = f"version {entry.version}, which is gone" if entry else "none"
        should = f"version {number}" if number else gone
        found.append((role, number, f"alias {role} of {name} {stands}; the decision log says {should}"))
    return found
