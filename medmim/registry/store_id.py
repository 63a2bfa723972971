"""Which MLflow belongs to a store: a random id, made once, that stands in both.

    STORE/store.json                              {"id": ID}; created only if absent
    tag `medmim.store.ID` of a registered model    its value is the address of the store, for people

Names prove nothing: the default one is everybody's, and an MLflow may serve several stores.
"""

import json
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING

from medmim import tracking
from medmim.errors import UserError
from medmim.redact import shown
from medmim.run.workspace import Workspace
from medmim.store import open_store

if TYPE_CHECKING:
    from mlflow import MlflowClient

FILE = "store.json"
_TAG = "medmim.store."


def read(ws: Workspace) -> str:
    """The store's id; empty where nothing was registered of it since stores have one.

    Raises:
        UserError: The file was edited into something else.
    """
    try:
        return _parse(ws, open_store(ws.store).read_unchanged(FILE))
    except FileNotFoundError:
        return ""


def made(ws: Workspace) -> str:
    """The store's id, made now where it has none. Raises as `read`."""
    place = open_store(ws.store)
    place.create(FILE, json.dumps({"id": uuid.uuid4().hex}).encode())
    return _parse(ws, place.read_unchanged(FILE))


def tag(identity: str) -> str:
    """Key of the tag of a registered model that says to which store it belongs."""
    return _TAG + identity


def is_of(identity: str, tags: Mapping[str, str]) -> bool:
    """Whether a registered model with these tags belongs to the store of that id."""
    return bool(identity) and tag(identity) in tags


def is_of_any(tags: Mapping[str, str]) -> bool:
    """Whether a registered model with these tags says to which stores it belongs."""
    return any(key.startswith(_TAG) for key in tags)


def mark(api: "MlflowClient", ws: Workspace, name: str) -> None:
    """Let a registered model say that it belongs to this store; who may not write its tags leaves it as it is."""
    from mlflow.exceptions import MlflowException

    key = tag(made(ws))
    try:
        if key not in api.get_registered_model(name).tags:
            api.set_registered_model_tag(name, key, shown(ws.store))
    except MlflowException as error:
        if error.get_http_status_code() != 403:
            raise


def adopt(ws: Workspace, names: list[str]) -> None:
    """Let registered models say that they belong to this store.

    Raises:
        UserError: MLflow refuses.
    """
    key, api = tag(made(ws)), tracking.client(ws)
    with tracking.answering(ws.tracking):
        for name in names:
            api.set_registered_model_tag(name, key, shown(ws.store))


def _parse(ws: Workspace, text: bytes) -> str:
    try:
        found = json.loads(text)["id"]
        if isinstance(found, str) and found.isalnum():
            return found
    except (ValueError, KeyError, TypeError):
        pass
    raise UserError(
        f"{ws.store}/{FILE} is not the id of a store",
        reason="it is cut off or was edited by hand",
        fix="restore it from a backup of the store: MLflow's models name the id in it by a tag medmim.store.ID",
    )
