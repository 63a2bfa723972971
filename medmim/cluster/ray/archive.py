"""What Kubernetes deletes with a Ray job goes to the store first: its status, its Events, the end of each log.

Once, when the job is removed: whole logs and those of Ray's own processes are for the cluster's log collector.
"""

import json

from medmim import store
from medmim.cluster.kube import Kube, Object
from medmim.cluster.ray.state import event_time, events_of, pods_of
from medmim.errors import UserError
from medmim.progress import say

_LOG = 1 << 20  # bytes of one container's log, from its end
_LINES = 20_000  # of them that are read: a whole log may be larger than this pod's memory


def archive(kube: Kube, job: Object, uri: str) -> None:
    """Copy a job's status, its Events and its containers' logs into its folder of the store.

    A failure is reported and forgiven: a step that succeeded needs no logs, and no job runs on because of them.

    Args:
        kube: The cluster.
        job: The RayJob, not yet deleted.
        uri: The job's folder, which gets status.json, events.json and logs/POD/CONTAINER.log.
    """
    try:
        pods = pods_of(kube, job)
        folder = store.open_store(uri)
        folder.write("status.json", _json(job.get("status", {}), sort_keys=True))
        folder.write("events.json", _json([_event(event) for event in events_of(kube, job, pods)]))
        for pod in pods:
            name = pod["metadata"]["name"]
            for container in pod["spec"]["containers"]:
                log = kube.log(name, container["name"], last_lines=_LINES).encode()
                if log:
                    folder.write(f"logs/{name}/{container['name']}.log", log[-_LOG:])
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
