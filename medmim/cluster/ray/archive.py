"""What Kubernetes deletes with a Ray job goes to the store: its status, its Events, the end of each log.

Once, when the job is removed: whole logs and those of Ray's own processes are for the cluster's log collector. What is
uploaded is limited, and so is the time: no GPU waits for a store that is away.
"""

import json
from collections.abc import Sequence

from medmim import store
from medmim.cluster.kube import Kube, Object
from medmim.cluster.ray.state import event_time, events_of
from medmim.errors import Unavailable, UserError, time_left, within
from medmim.progress import say

_LOG = 1 << 20  # bytes of one container's log, from its end
_LOGS = 64 << 20  # bytes of all of them
_LINES = 20_000  # of a log that are read: a whole one may be larger than this pod's memory


def archive(kube: Kube, job: Object, pods: Sequence[Object], uri: str, seconds: float) -> None:
    """Copy a job's status, its Events and its containers' logs into its folder of the store.

    A failure is reported and forgiven: a step that succeeded needs no logs, and no job runs on because of them.

    Args:
        kube: The cluster.
        job: The RayJob, which may be deleted already: its pods have their grace period.
        pods: Its submitter, head and workers.
        uri: The job's folder, which gets status.json, events.json and logs/POD/CONTAINER.log.
        seconds: How long it may take.
    """
    logs = 0
    try:
        with within(seconds):
            folder = store.open_store(uri)
            folder.write("status.json", _json(job.get("status", {}), sort_keys=True))
            folder.write("events.json", _json([_event(event) for event in events_of(kube, job, pods)]))
            for pod in pods:
                name = pod["metadata"]["name"]
                for container in pod["spec"]["containers"]:
                    if not time_left():
                        raise Unavailable(f"{seconds:.0f} s are over", f"of {len(pods)} pods not all logs are read")
                    if logs >= _LOGS:
                        raise UserError(f"{_LOGS >> 20} MB are enough", f"of {len(pods)} pods not all logs are copied")
                    log = kube.log(name, container["name"], last_lines=_LINES).encode()[-_LOG:]
                    logs += len(log)
                    if log:
                        folder.write(f"logs/{name}/{container['name']}.log", log)
    except UserError as error:
        say(f"the Ray job's logs and Events are not archived: {error.fact} ({error.reason})")


def _event(event: Object) -> Object:
    about = event["involvedObject"]
    return {
        "time": event_time(event),
        "object": f"{about.get('kind')}/{about.get('name')}",
        **{key: event.get(key) for key in ("type", "reason", "message", "count")},
    }


def _json(value: object, sort_keys: bool = False) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=sort_keys) + "\n").encode()
