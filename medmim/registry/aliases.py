"""Set MLflow's aliases `champion`, `previous-champion` and `challenger` to what the decision log says."""

from medmim import hints, tracking
from medmim.errors import UserError
from medmim.registry import decisions, lookup
from medmim.registry.decisions import Decision, Roles
from medmim.run.workspace import Workspace
from medmim.tracking import Registered

ROLES = ("champion", "previous-champion", "challenger")


def reconcile(ws: Workspace, name: str | None = None) -> dict[str, list[str]]:
    """Set the aliases to what the log says.

    Args:
        ws: The workspace.
        name: One model, or all that have a log.

    Returns:
        Name -> a sentence for every alias that differed and was set.
    """
    names = [name] if name else decisions.names(ws)
    found = {each: drift(ws, each) for each in names}
    for each in names:
        sync(ws, each)
    return found


def drift(ws: Workspace, name: str, log: list[Decision] | None = None, model: Registered | None = None) -> list[str]:
    """A sentence for every alias that differs from the log: set by hand, or not yet set by a run that was killed.

    Args:
        ws: The workspace.
        name: The registered model.
        log: Its decisions, where they were read.
        model: Its aliases and all of its versions, where they are known: MLflow is not asked then.
    """
    return [text for _, _, text in _differences(ws, name, log, model)]


def sync(ws: Workspace, name: str) -> bool:
    """Set the aliases from the log; True where one had to be set.

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
                    elif role in (tracking.aliases(ws, name) or {}):
                        api.delete_registered_model_alias(name, role)
        if len(decisions.read(ws, name)) == len(log):  # else an alias of a newer entry may have been overwritten
            break
    holder = decisions.roles(log).champion
    if holder and lookup.version_of(ws, name, holder) is None:
        raise UserError(
            f"version {holder.version} of {name}, the champion, is gone from MLflow",
            reason=f"the decision log made it champion (decision {holder.n}), but it was deleted there",
            fix="run its recipe again to register the same model, or make another version champion: "
            f"`{hints.command('registry', 'rollback', name, '--why', '...')}` or "
            f"`{hints.command('registry', 'promote', name, 'VERSION', '--why', '...')}`",
        )
    return changed


def champion(ws: Workspace, name: str, now: Roles, model: Registered | None = None) -> dict[str, str] | None:
    """The champion as screen and `--json` show it; `model` as for `drift`."""
    if now.champion is None:
        return None
    version = lookup.version_of(ws, name, now.champion, model)
    number = version.number if version else now.champion.version
    return {"name": name, "version": number, "digest": now.champion.digest, "uri": now.champion.uri}


def _differences(
    ws: Workspace, name: str, log: list[Decision] | None = None, model: Registered | None = None
) -> list[tuple[str, str, str]]:
    """(role, version that its alias should name or empty for none, sentence) of every alias that differs."""
    wanted = decisions.roles(decisions.read(ws, name) if log is None else log).by_alias()
    present = model.aliases if model else tracking.aliases(ws, name) or {}
    found = []
    for role in ROLES:
        entry = wanted.get(role)
        version = lookup.version_of(ws, name, entry, model) if entry else None
        number = version.number if version else ""
        if present.get(role, "") == number:
            continue
        actual = f"was on version {present[role]}" if role in present else "was not set"
        gone = f"version {entry.version}, which is gone" if entry else "none"
        expected = f"version {number}" if number else gone
        found.append((role, number, f"alias {role} of {name} {actual}; the decision log says {expected}"))
    return found
