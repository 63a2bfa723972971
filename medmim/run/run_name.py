"""The name under which a run on KFP leaves its records: the one it was given, unless another run has that already.

    STORE/runs/RUN/kfp-run    KFP's id of the run whose records these are; created only if absent

KFP's "Clone run" and a recurring run start runs with the parameters of another, its name among them. The first that
begins gets the name, and each other one a name of its own, from its id, so that nothing of another run is overwritten
and no Ray job of another is adopted. A laptop has no such id, and gives each run a new name.
"""

import json
import os
import re

from medmim.recipe import names
from medmim.run.person import PAGES, SUBMITTED
from medmim.store import open_store

_HOLDER = "kfp-run"
_OWN = re.compile(r"(.+)-([0-9a-f]{8})")
_NAME = re.compile(r"(?P<recipe>.*)-(?P<time>\d{8}-\d{6})-[0-9a-f]+(?:-[0-9a-f]{8})?")
_NIGHT = re.compile(r"(?P<recipe>.*-nightly)-(?P<time>\d{8})-[0-9a-f]+(?:-[0-9a-f]{8})?")


def claim(store: str, run: str) -> str:
    """The name of this process's run, claimed by the id that a step's pod has in its environment.

    Args:
        store: URI of the artifact store.
        run: The name that the run was given; may be empty.

    Raises:
        UserError: The store refuses.
        Unavailable: It does not answer.
    """
    run_id = os.environ.get(names.RUN_ID, "")
    if run and run_id:
        open_store(store).create(_key(run), run_id.encode())
    return of(store, run, run_id) if run and run_id else run


def of(store: str, run: str, run_id: str) -> str:
    """The name of the records of the run with that id; the given one where none has begun. Errors as `claim`."""
    held = holder(store, run)
    return run if held in ("", run_id) else f"{run}-{run_id[:8]}"


def split(name: str) -> tuple[str, str]:
    """The given name and the first digits of the id in a name as `of` makes it; both empty for any other."""
    found = _OWN.fullmatch(name)
    return (found[1], found[2]) if found else ("", "")


def recipe_of(name: str) -> str:
    """The recipe in `RECIPE-DATE-TIME-RANDOM`, RECIPE-nightly in the name of a night's run; else the whole name.

    Of a clone in KFP too, whose name ends with digits of its id.
    """
    found = _NAME.fullmatch(name) or _NIGHT.fullmatch(name)
    return found["recipe"] if found else name


def time_of(name: str) -> str:
    """When a run was begun, by its name: YYYYMMDD-HHMMSS, of a night YYYYMMDD; empty where it does not say."""
    found = _NAME.fullmatch(name) or _NIGHT.fullmatch(name)
    return found["time"] if found else ""


def holder(store: str, run: str) -> str:
    """KFP's id of the run whose records have that name; empty on a laptop. Errors as `claim`."""
    try:
        return open_store(store).read(_key(run)).decode(errors="replace")
    except FileNotFoundError:
        return ""


def page(store: str, run: str) -> str:
    """Address of a run's page in KFP, by what submitted it; empty where that is not known, as of a clone.

    Raises as `claim`.
    """
    run_id = holder(store, run) if run else ""
    if not run_id:
        return ""
    try:
        pages = json.loads(open_store(store).read(f"runs/{run}/{SUBMITTED}")).get(PAGES, "")
    except (FileNotFoundError, ValueError, AttributeError):
        return ""
    return f"{pages}{run_id}" if isinstance(pages, str) and pages.startswith(("http://", "https://")) else ""


def _key(run: str) -> str:
    return f"runs/{run}/{_HOLDER}"
