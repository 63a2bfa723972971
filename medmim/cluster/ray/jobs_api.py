"""`platform.ray: http(s)://HOST:8265`: a stage runs on an existing Ray cluster, started through its Jobs API.

The cluster's nodes have medmim's image and the store's credentials already: none are sent. What is promised of a RayJob
and not here is in docs/cluster.md.
"""

import asyncio
import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from typing import Any, TypeVar

from medmim import progress, ray_nodes
from medmim.cluster import kube
from medmim.cluster.ray import lease, workflow
from medmim.cluster.ray.request import Request, Result, delete_request, entrypoint, read_result, write_request
from medmim.errors import Unavailable, UserError, require, retrying, within
from medmim.recipe.schema import Platform

_EVERY = 2.0  # s between two polls
_LOOK = 30.0  # s that a server may take in one poll
_SECONDS = (5.0, 30.0)  # to connect, to answer
_LONGEST = 60.0  # s between two tries to follow the log
_RATE = 50_000  # characters of it that are read again in a second, on the average
_LAST_LINES = 10.0  # s that the end of the log may take
_ON_SIGTERM = 20.0  # s of the 30 that a step's pod has
_TAIL = 12
_FORGOTTEN = "FORGOTTEN"  # by a Ray cluster whose head was restarted
_ENDED = ("SUCCEEDED", "FAILED", "STOPPED", _FORGOTTEN)
_USABLE = ("PENDING", "RUNNING", "SUCCEEDED")
_STATUS = re.compile(r"(?:status code|check returned) (\d+)")

T = TypeVar("T")


def run(request: Request, platform: Platform, store: str) -> str:
    """Serve a request by a Ray job and wait for its end.

    Interrupted, it stops the job; so does SIGTERM, but not in a pipeline's pod whose run goes on: the pod that replaces
    it adopts the job.

    Raises:
        UserError: What the driver raised.
        Unavailable: The address does not answer, or the driver died.
    """
    with ray_nodes.sigterm():
        return _run(connect(platform.ray), request, platform, store)


def _run(client: Any, request: Request, platform: Platform, store: str) -> str:
    name, uri = _adopt_or_start(client, request, store)
    try:
        with lease.hold(lease.in_store(uri, platform.pods.lease_seconds)):
            status, tail, result = _follow(client, name, uri, platform.pods.deadline_minutes * 60)
    except Unavailable:  # for longer than the job may last: it cannot be stopped either
        raise
    except BaseException as end:
        if not (isinstance(end, SystemExit) and _run_goes_on()):
            _stop(client, name)
        raise
    result = result or read_result(uri)
    if result is None:
        raise Unavailable(
            f"the driver of the Ray job {name} ended as {status} without a result",
            reason=f"the last lines of its log, from {platform.ray}, are above",
            fix="run the step again: what is in the store is not done again",
            problems=list(tail)[-_TAIL:],
        )
    return result.uri_or_raise()


def connect(address: str) -> Any:
    """Ray's client, whose requests end in time: its own wait for ever.

    Raises:
        UserError: No Jobs API is there, or it does not accept this account.
        Unavailable: The address does not answer.
    """
    sdk = require("ray.job_submission", "finetune").JobSubmissionClient

    def request(self: Any, *args: Any, **more: Any) -> Any:
        return sdk._do_request(self, *args, timeout=_SECONDS, **more)

    return _ask(address, type("Client", (sdk,), {"_do_request": request}), address)


def _ask(address: str, call: Callable[..., T], *args: Any, **more: Any) -> T:
    """One call to the server, repeated while it may pass.

    Raises:
        UserError: The server refuses it.
        Unavailable: It does not answer.
    """
    import requests
    from ray.exceptions import AuthenticationError

    try:
        return retrying(_may_pass)(call, *args, **more)
    except (ConnectionError, RuntimeError, AuthenticationError, requests.RequestException) as error:
        reason, status = str(error).strip().split("\n")[0][:300], _STATUS.search(str(error))
        if isinstance(error, AuthenticationError) or (status and status[1] in ("401", "403")):
            raise UserError(
                f"Ray's Jobs API at {address} does not accept this account",
                reason=reason,
                fix="set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN",
            ) from None
        if status and status[1].startswith("4"):
            fix = "is it the address of a Ray dashboard, of the same version? see platform.ray"
            raise UserError(f"Ray's Jobs API at {address} refuses a request", reason=reason, fix=fix) from None
        raise Unavailable(
            f"Ray's Jobs API at {address} does not answer",
            reason=reason,
            fix="check platform.ray, then run the same command: it adopts the job",
        ) from None


def _may_pass(error: BaseException) -> bool:
    """Whether the same call may succeed in a moment: no answer, or that of an overloaded or restarting server."""
    import requests

    if isinstance(error, RuntimeError):
        status = _STATUS.search(str(error))
        return status is not None and (status[1] == "429" or status[1].startswith("5"))
    return isinstance(error, ConnectionError | requests.RequestException)


def _adopt_or_start(client: Any, request: Request, store: str) -> tuple[str, str]:
    """Name and folder of the job that runs or succeeded, else of a new one under the next free attempt.

    Another step may start the same job meanwhile, and an answer may be lost: so whatever goes wrong, the server is
    asked again which jobs there are. A request is deleted only where none is seen to have it.
    """
    uri = ""

    def look_or_start() -> tuple[str, str]:
        nonlocal uri
        jobs = {found.submission_id: found for found in client.list_jobs()}
        if uri in {_order(found) for found in jobs.values() if found.status not in _USABLE}:
            uri = ""  # ours has ended: the next attempt is another request
        attempts = (f"{request.stage}-{request.digest[:16]}-{number}" for number in count(1))
        name = next(name for name in attempts if name not in jobs or jobs[name].status in _USABLE)
        if name in jobs:
            return name, _order(jobs[name])
        uri = uri or write_request(store, request, name)
        client.submit_job(
            entrypoint=entrypoint(uri),
            submission_id=name,
            metadata={"order": uri},
            runtime_env={"env_vars": {"MEDMIM_EVENTS": "-"}},
        )
        return name, uri

    try:
        name, found = _ask(client.get_address(), look_or_start)
    except Unavailable:
        raise
    except UserError:
        _withdraw(uri)
        raise
    if found != uri:
        _withdraw(uri)
    progress.say(f"{'started' if found == uri else 'adopted'} the Ray job {name}")
    return name, found


def _order(job: Any) -> str:
    """The folder of a job's request."""
    return str((job.metadata or {}).get("order", ""))


def _withdraw(uri: str) -> None:
    with suppress(UserError):  # one that is left does no harm
        if uri:
            delete_request(uri)


def _run_goes_on() -> bool:
    """Whether this is the pod of a pipeline's step whose run nobody has terminated; also where that cannot be known."""
    if not os.environ.get("KFP_POD_NAME"):
        return False
    try:
        with within(_ON_SIGTERM / 2):
            cluster = kube.connect()
            return not workflow.terminated(cluster, workflow.of_this_pod(cluster))
    except UserError:
        return True


def _stop(client: Any, name: str) -> None:
    with suppress(UserError), within(_ON_SIGTERM / 2):  # what ended the step is the error to report
        _ask(client.get_address(), client.stop_job, name)


def _follow(client: Any, name: str, uri: str, deadline: float) -> tuple[str, Sequence[str], Result | None]:
    """Print the job's events until it ends; returns its status, the other lines of its log, and its result.

    A server or a store that is away says nothing about the job: it goes on, and so does the wait for it.
    """

    def status_of() -> str:
        try:
            return str(client.get_job_status(name))
        except RuntimeError as error:
            if "status code 404" in str(error):
                return _FORGOTTEN
            raise

    answered, shown = time.monotonic(), ""
    with _printed_log(client, name) as tail:
        while True:
            status, result, away = "", None, None
            try:
                with within(_LOOK):
                    status = _ask(client.get_address(), status_of)
            except Unavailable as error:
                away = error
            try:
                with within(_LOOK):
                    result = read_result(uri)
            except Unavailable as error:
                away = error
            if result is not None or status in _ENDED:
                return status, tail, result
            if away and time.monotonic() - answered > deadline:
                raise away
            answered = answered if away else time.monotonic()
            waiting = f"{away.fact}: the Ray job goes on" if away else ""
            if waiting != shown:
                shown = waiting
                progress.say(waiting or "all servers answer again")
            time.sleep(_EVERY)


@contextmanager
def _printed_log(client: Any, name: str) -> Iterator[Sequence[str]]:
    """Within the block the events of a job's log are printed as they come; gives the last of its other lines."""
    tail, over = deque[str](maxlen=50), threading.Event()
    thread = threading.Thread(target=_print_log, args=(client, name, tail, over), daemon=True)
    thread.start()
    try:
        yield tail
        over.set()
        thread.join(_LAST_LINES)
    finally:
        over.set()


def _print_log(client: Any, name: str, tail: deque[str], over: threading.Event) -> None:
    """Print a log from a WebSocket, which sends each line once.

    Where none passes, as through some ingresses, the log can only be read whole: the longer it is, the less often.
    """
    import aiohttp

    taken, rest = 0, ""

    def take(text: str, start: int) -> None:
        nonlocal taken, rest
        rest += text[max(0, taken - start) :]
        taken = max(taken, start + len(text))
        *lines, rest = rest.split("\n")
        for line in lines:
            event = progress.parse(line)
            if event is None:
                tail.append(line)
            else:
                progress.forward(event)

    async def follow() -> bool:
        at = 0

        async def read() -> None:
            nonlocal at
            async for text in client.tail_job_logs(name):
                take(text, at)
                at += len(text)

        reading = asyncio.create_task(read())
        while not over.is_set() and not reading.done():
            await asyncio.wait({reading}, timeout=0.2)
        reading.cancel()  # nothing where it has ended
        (ended,) = await asyncio.gather(reading, return_exceptions=True)
        if ended and not isinstance(ended, asyncio.CancelledError | aiohttp.ClientError | RuntimeError | OSError):
            raise ended
        return at > 0

    while True:
        followed = asyncio.run(follow())
        last = over.is_set()
        if last or not followed:
            with suppress(UserError), within(_LAST_LINES):
                take(_ask(client.get_address(), client.get_job_logs, name), 0)
        if last:
            return
        over.wait(_EVERY if followed else max(_EVERY, min(_LONGEST, taken / _RATE)))
