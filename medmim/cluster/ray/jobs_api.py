"""`platform.ray: http(s)://HOST:8265`: a stage runs on an existing Ray cluster, started through its Jobs API.

The cluster's nodes have medmim's image and the store's credentials already: none are sent.
"""

import time
from contextlib import suppress
from typing import Any

from medmim import progress
from medmim.cluster.ray.request import Request, entrypoint, read_result, write_request
from medmim.errors import Unavailable, UserError, require

_EVERY = 2.0  # s between two polls
_PATIENCE = 60.0  # s that the address may not answer
_TAIL = 12
_ENDED = ("SUCCEEDED", "FAILED", "STOPPED")


def run(request: Request, address: str, store: str) -> str:
    """Serve a request by a Ray job and wait for its end; stops the job when this process is interrupted.

    Raises:
        UserError: What the driver raised.
        Unavailable: The address does not answer, or the driver died.
    """
    client = _connect(address)
    name, uri = _adopt_or_start(client, request, store)
    try:
        status, tail = _follow(client, name, uri)
    except BaseException:
        with suppress(ConnectionError, RuntimeError):  # the first error is the one to report
            client.stop_job(name)
        raise
    result = read_result(uri)
    if result is None:
        raise Unavailable(
            f"the driver of the Ray job {name} ended as {status} without a result",
            reason=f"the last lines of its log, from {address}, are above",
            fix="run the step again: what is in the store is not done again",
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
            f"Ray's Jobs API at {address} does not {'accept this account' if refused else 'answer'}",
            reason=str(error).strip().split("\n")[0][:300],
            fix="set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN" if refused else "check platform.ray, then run again",
        ) from None


def _adopt_or_start(client: Any, request: Request, store: str) -> tuple[str, str]:
    """Name and folder of the job that runs or succeeded, else of a new one under the next free attempt."""
    jobs = {found.submission_id: found for found in client.list_jobs()}
    attempt = 1
    while (found := jobs.get(name := f"{request.stage}-{request.digest[:16]}-{attempt}")) is not None:
        if found.status in ("PENDING", "RUNNING", "SUCCEEDED"):
            progress.say(f"adopted the Ray job {name}")
            return name, str(found.metadata["order"])
        attempt += 1
    uri = write_request(store, request, name)
    client.submit_job(
        entrypoint=entrypoint(uri),
        submission_id=name,
        metadata={"order": uri},
        runtime_env={"env_vars": {"MEDMIM_EVENTS": "-"}},
    )
    progress.say(f"started the Ray job {name}")
    return name, uri


def _follow(client: Any, name: str, uri: str) -> tuple[str, list[str]]:
    """Print the job's events until it ends; returns its status and the lines of its log that are no events."""
    shown, tail, answered = 0, list[str](), time.monotonic()
    while True:
        try:
            status = str(client.get_job_status(name))
            log = client.get_job_logs(name)
            answered = time.monotonic()
        except (ConnectionError, RuntimeError) as error:
            if time.monotonic() - answered > _PATIENCE:
                raise Unavailable(
                    f"Ray's Jobs API has not answered for {_PATIENCE:.0f} s",
                    reason=str(error)[:300],
                    fix="run the step again: it adopts the job",
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
        if status in _ENDED or read_result(uri):
            return status, tail
        time.sleep(_EVERY)
