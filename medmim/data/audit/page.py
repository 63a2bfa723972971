"""The page of an audit, for people: every check beside its limit, the rows behind it, and what splits share.

It is written into the home and not published: the limits are those of whoever reads it.
"""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medmim.data.audit import run as audit
from medmim.data.audit.check import figure, judged, line
from medmim.errors import wrap_os_errors
from medmim.page.page import templates
from medmim.recipe.schema import Audit
from medmim.run.workspace import Workspace
from medmim.store import Artifact
from medmim.store.folder import write_atomically

_SHOWN = audit.MOST_KNOWN  # rows of a check; the rest stand in the file


def write(ws: Workspace, artifact: Artifact, report: Mapping[str, Any], allowed: Audit) -> Path:
    """Write the page of an audit into the home, atomically.

    Args:
        ws: The workspace.
        artifact: The audit.
        report: Of it.
        allowed: The limits to hold it against.

    Returns:
        Its path.

    Raises:
        UserError: The disk is full, or the home cannot be written.
    """
    target = ws.home / "reports" / f"audit-{artifact.digest[:12]}.html"
    with wrap_os_errors(f"writing {target}"):
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, [render(artifact, report, allowed).encode()])
    return target


def render(artifact: Artifact, report: Mapping[str, Any], allowed: Audit) -> str:
    """The page as HTML; arguments as for `write`."""
    found: dict[str, list[dict[str, str]]] = defaultdict(list)
    for row in audit.rows(artifact, report):
        if len(found[row["check"]]) < _SHOWN:
            found[row["check"]].append(row)
    return (
        templates("medmim.data.audit")
        .get_template("audit.html.j2")
        .render(
            artifact=artifact,
            report=report,
            checks=judged(report["checks"], allowed),
            leaks=audit.leaks(dict(report)),
            found=found,
            shown=_SHOWN,
            figure=figure,
            line=line,
            rows_file=audit.ROWS,
            clean_file=audit.CLEAN,
        )
    )
