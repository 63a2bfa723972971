"""What a step asks of a Ray job, and what the job's driver returns: two small objects in the store.

    runs/RUN/jobs/NAME-NONCE/order.json, result.json, status.json, events.json, logs/POD/CONTAINER.log

The nonce keeps attempts apart: the result of an earlier attempt of the same name is never taken for this one's.
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

_REQUEST = "order.json"  # named by the first release: a job that it started can be adopted
_RESULT = "result.json"


@dataclass(frozen=True)
class Request:
    """A stage to run in a Ray job.

    Attributes:
        stage: `data`, `finetune`, `bench` or `rebench`.
        recipe: `Recipe.dump`, with the platform as the driver sees it.
        run: Name of the run.
        arguments: What the stage's function takes beside recipe and workspace.
    """

    stage: str
    recipe: str
    run: str
    arguments: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """Equal for requests that the same job can serve."""
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


def write_request(store_uri: str, request: Request, name: str) -> str:
    """Write a request into a new folder of the store; returns the folder's URI."""
    uri = f"{store_uri}/runs/{request.run or '_'}/jobs/{name}-{secrets.token_hex(4)}"
    store.open_store(uri).write(_REQUEST, _json(asdict(request)))
    return uri


def read_request(uri: str) -> Request:
    """The request in a folder.

    Raises:
        UserError: There is none.
    """
    try:
        return Request(**json.loads(store.open_store(uri).read(_REQUEST)))
    except (FileNotFoundError, ValueError, TypeError):
        raise UserError(
            f"there is no request at {uri}", fix="a step writes it; `medmim run` or `medmim submit` starts one"
        ) from None


def delete_request(uri: str) -> None:
    """Delete a request that no job was started for."""
    store.open_store(uri).delete(_REQUEST)


def entrypoint(uri: str) -> str:
    """The command line of the driver that serves the request at a URI."""
    return shlex.join(["python", "-m", "medmim.cli.step", uri])


def write_result(uri: str, result: Result) -> None:
    """Write the driver's result beside its request."""
    store.open_store(uri).write(_RESULT, _json(asdict(result)))


def read_result(uri: str) -> Result | None:
    """The driver's result; None where it has written none."""
    try:
        return Result(**json.loads(store.open_store(uri).read(_RESULT)))
    except FileNotFoundError:
        return None


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()
