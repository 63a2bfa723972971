"""`platform.ray: http(s)://HOST:8265`: a stage runs on a Ray cluster that is there, started through its Jobs API.

The cluster's nodes have medmim's image and the store's credentials already: none are sent.
"""

import time
from contextlib import suppress
from typing import Any

from medmim import progress
from medmim.cluster.ray import request
from medmim.cluster.ray.request import Order
from medmim.errors import Unavailable, UserError, require

_EVERY = 2.0  # s between two looks
_PATIENCE = 60.0  # s that the address may be away
_TAIL = 12
_ENDED = ("SUCCEEDED", "FAILED", "STOPPED")


def run(wanted: Order, address: str, store: str) -> str:
    """Run an order as a Ray job and wait for its end; stops the job when this process is interrupted.

    Raises:
        UserError: What the driver raised.
        Unavailable: The address does not answer, or the driver died.
    """
    client = _connect(address)
    name, uri = _adopt_or_start(client, wanted, store)
    try:
        status, tail = _follow(client, name, uri)
    except BaseException:
        with suppress(ConnectionError, RuntimeError):  # the first error is the news
            client.stop_job(name)
        raise
    result = request.answered(uri)
    if result is None:
        raise Unavailable(
            f"the driver of the Ray job {name} ended as {status} without an answer",
            reason=f"{address} was asked; its last lines are above",
            fix="run the step again: it goes on from the newest checkpoint",
            problems=tail[-_TAIL:],
        )
    return result.uri_or_raise()


def _connect(address: str) -> Any:
    sdk = require("ray.job_submission", "finetune")
    try:
        return sdk.JobSubmissionClient(address)
    except (ConnectionError, RuntimeError) as error:
        refused = "401" in str(error) or "403" in str(error)
        raise (UserError if refused else Unavailable)(
            f"Ray's Jobs API at {address} does not {'let us in' if refused else 'answer'}",
            reason=str(error).strip().split("\n")[0][:300],
            fix="set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN" if refused else "check platform.ray, then run again",
        ) from None


def _adopt_or_start(client: Any, wanted: Order, store: str) -> tuple[str, str]:
    """The job that goes on or succeeded, else a new one under the next free attempt."""
    jobs = {found.submission_id: found for found in client.list_jobs()}
    attempt = 1
    while (found := jobs.get(name := f"{wanted.stage}-{wanted.digest[:16]}-{attempt}")) is not None:
        if found.status in ("PENDING", "RUNNING", "SUCCEEDED"):
            progress.say(f"adopted the Ray job {name}")
            return name, str(found.metadata["order"])
        attempt += 1
    uri = request.place(store, wanted, name)
    client.submit_job(
        entrypoint=request.entrypoint(uri),
        submission_id=name,
        metadata={"order": uri},
        runtime_env={"env_vars": {"MEDMIM_EVENTS": "-"}},
    )
    progress.say(f"started the Ray job {name}")
    return name, uri


def _follow(client: Any, name: str, uri: str) -> tuple[str, list[str]]:
    """Show what the job says until it ends; returns its status and its last lines that are no events."""
    shown, tail, away = 0, list[str](), time.monotonic()
    while True:
        try:
            status = str(client.get_job_status(name))
            log = client.get_job_logs(name)
            away = time.monotonic()
        except (ConnectionError, RuntimeError) as error:
            if time.monotonic() - away > _PATIENCE:
                raise Unavailable(
                    "Ray's Jobs API went away", reason=str(error)[:300], fix="run the step again: it adopts the job"
                ) from None
            time.sleep(_EVERY)
            continue
        whole = log.rfind("\n") + 1
        for line in log[shown:whole].splitlines():
            event = progress.parse(line)
            if event is None:
                tail.append(line)
            else:
                progress.forward(event)
        shown = whole
        if status in _ENDED or request.answered(uri):
            return status, tail
        time.sleep(_EVERY)
