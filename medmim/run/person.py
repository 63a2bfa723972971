"""Who does something: the person who submitted a run or decides, never a container's user or an unfilled variable.

A pod knows no person. What submits a run writes one into `STORE/runs/RUN/submitted.json`, and each step takes it from
there; a person who decides in a pod is named by MEDMIM_USER.
"""

import getpass
import json
import os
import re

from medmim.errors import UserError
from medmim.store import open_store

SUBMITTED = "submitted.json"  # beside a run's recipe
PAGES = "pages"  # in it: the address of KFP's pages of runs, before an id
UNKNOWN = "unknown"
# users of containers: the image's own, anybody's, and that of Kubeflow's notebooks
_IMAGES = "medmim|root|nobody|jovyan"
_MACHINE = re.compile(rf"{_IMAGES}|{UNKNOWN}|uid \d+|system:.*|nightly of .*|a clone of .*", re.IGNORECASE)
_UNFILLED = re.compile(r"\$[({]\w*[)}]")  # what Kubernetes and shells leave of a variable that is not set


def on_cluster() -> bool:
    """Whether this process is a step in a pod: KFP names each, and a laptop that runs the same pipeline names none."""
    return bool(os.environ.get("KFP_POD_NAME"))


def current_user() -> str:
    """MEDMIM_USER, or the user of this process; that of a step's pod is nobody."""
    given = os.environ.get("MEDMIM_USER", "").strip()
    if given or on_cluster():
        return given if given and not is_unfilled(given) else UNKNOWN
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user need not have a name
        return f"uid {os.getuid()}"


def is_person(who: str) -> bool:
    """Whether a name may be a person's: not a container's user, a service account, a schedule, a variable."""
    named = who.strip()
    return bool(named) and named.isprintable() and not _MACHINE.fullmatch(named) and not is_unfilled(named)


def is_unfilled(text: str) -> bool:
    """Whether a text holds a variable that nobody filled in, such as `$(WHY)`."""
    return bool(_UNFILLED.search(text))


def person(who: str = "") -> str:
    """The person who decides.

    Args:
        who: Their name; by default MEDMIM_USER, else the user of this process.

    Raises:
        UserError: It is no person's name.
    """
    named = (who or os.environ.get("MEDMIM_USER") or current_user()).strip()
    if is_person(named):
        return named
    raise UserError(
        f"who decides is not known: '{named}' is no person",
        reason="the decision log says for good who made a model champion",
        fix="set MEDMIM_USER to your name: export MEDMIM_USER=jane@example.org",
    )


def submitter(recipe: str, run: str) -> str:
    """Who submitted a run, as a step reads it from the record beside the run's recipe.

    Args:
        recipe: URI of the run's recipe.
        run: Name of the run; one that was cloned reads the recipe of another.

    Returns:
        The name; `unknown` where nothing recorded it.

    Raises:
        UserError: The record is none.
        Unavailable: The store does not answer.
    """
    folder = recipe.rpartition("/")[0]
    if "/" not in folder or recipe.lstrip().startswith("{"):
        return UNKNOWN
    if folder.rpartition("/")[2] != run:
        return f"a clone of {folder.rpartition('/')[2]}"
    try:
        who = json.loads(open_store(folder).read_unchanged(SUBMITTED))["who"]
    except FileNotFoundError:
        return UNKNOWN
    except (ValueError, KeyError, TypeError):
        raise UserError(
            f"{folder}/{SUBMITTED} does not say who submitted the run", reason="it was edited", fix="submit again"
        ) from None
    return str(who) or UNKNOWN
