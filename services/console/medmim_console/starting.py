"""MLflow takes seconds to start, once in a process: it does so beside what is answered; pages that want it say so."""

from threading import Lock, Thread

from fastapi import Request

from medmim import tracking
from medmim.errors import UserError
from medmim.run.workspace import Workspace
from medmim_console.site import ThisSite

_begun: dict[str, Thread] = {}
_lock = Lock()


class Starting(Exception):
    """MLflow is being started."""


def is_up(ws: Workspace, patience: float | None) -> bool:
    """Whether MLflow has been started here; begins it where nobody has.

    Args:
        ws: Says which.
        patience: Seconds to wait for it; None: until it is up, or what keeps it from that is known.
    """
    thread = begin(ws)
    thread.join(patience)
    return not thread.is_alive()


def begin(ws: Workspace) -> Thread:
    """Begin to start MLflow, unless that has been begun; the thread that does it."""
    with _lock:
        thread = _begun.get(ws.tracking)
        if thread is None:
            thread = _begun[ws.tracking] = Thread(target=_start, args=(ws,), daemon=True, name="starting MLflow")
            thread.start()
        return thread


def mlflow(request: Request, this: ThisSite) -> None:
    """That it is up, as a dependency of pages that ask it.

    Raises:
        Starting: It is not yet. A form waits for it.
    """
    if not is_up(this.ws, this.patience if request.method == "GET" else None):
        raise Starting


def _start(ws: Workspace) -> None:
    try:
        tracking.page_of_models(ws, "", 1, 1)
    except UserError:  # whoever asks it is told
        return
