"""What a step orders of a Ray job, and what the job's driver answers: two small objects in the store.

    runs/RUN/jobs/NAME-NONCE/order.json, result.json, events.json, logs/POD/...

The nonce makes each start its own: an answer of an earlier try under the same name is never taken for this one's.
"""

import json
import secrets
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from medmim import store
from medmim.errors import UserError
from medmim.sample import digest_of


@dataclass(frozen=True)
class Order:
    """A stage to run elsewhere.

    Attributes:
        stage: `finetune`, `bench` or `rebench`.
        recipe: `Recipe.dump`, as the driver shall see it.
        run: Name of the run.
        arguments: What the stage's function takes beside recipe and workspace.
    """

    stage: str
    recipe: str
    run: str
    arguments: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """What makes two orders the same job."""
        return digest_of([self.stage, self.recipe, self.run, json.dumps(self.arguments, sort_keys=True)])


@dataclass(frozen=True)
class Result:
    """How a driver ended: with the stage's URI, or with a UserError."""

    uri: str = ""
    error: Mapping[str, Any] = field(default_factory=dict)

    def uri_or_raise(self) -> str:
        """The URI, or the driver's UserError, raised here."""
        if self.error:
            raise UserError(**self.error)
        return self.uri


def place(store_uri: str, order: Order, name: str) -> str:
    """Write an order; returns the URI of its folder."""
    uri = f"{store_uri}/runs/{order.run or '_'}/jobs/{name}-{secrets.token_hex(4)}"
    store.open_store(uri).write("order.json", _json(asdict(order)))
    return uri


def entrypoint(uri: str) -> str:
    """The command line of the driver that takes an order."""
    return shlex.join(["python", "-m", "medmim.cli.step", uri])


def read(uri: str) -> Order:
    """The order in a folder.

    Raises:
        UserError: There is none.
    """
    try:
        return Order(**json.loads(store.open_store(uri).read("order.json")))
    except (FileNotFoundError, ValueError, TypeError):
        raise UserError(f"there is no order at {uri}", fix="a step writes it; `medmim run` starts one") from None


def withdraw(uri: str) -> None:
    """Remove an order that nobody took."""
    store.open_store(uri).delete("order.json")


def answer(uri: str, result: Result) -> None:
    """Leave the driver's result."""
    store.open_store(uri).write("result.json", _json(asdict(result)))


def answered(uri: str) -> Result | None:
    """The driver's result, if it came to leave one."""
    try:
        return Result(**json.loads(store.open_store(uri).read("result.json")))
    except FileNotFoundError:
        return None


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()
