"""What would vanish with a Ray job is copied into the store first: the pods' logs and the Events.

Ray's own session logs are shipped from inside, see `ship`.
"""

import json
from collections.abc import Sequence

from medmim import store
from medmim.cluster.kube import Kube, Object
from medmim.errors import UserError
from medmim.progress import say

_LOG = 16 << 20  # bytes of one container's log that are kept, from its end


def events_of(kube: Kube, job: Object, pods: Sequence[Object]) -> list[Object]:
    """Events about a job, its cluster, its submitter and their pods, oldest first."""
    name = job["metadata"]["name"]
    about = {name, job.get("status", {}).get("rayClusterName", ""), *(pod["metadata"]["name"] for pod in pods)}
    found = [event for event in kube.list("events") if event.get("involvedObject", {}).get("name") in about]
    return sorted(found, key=lambda event: str(event.get("lastTimestamp") or event["metadata"]["creationTimestamp"]))


def pods_of(kube: Kube, job: Object) -> list[Object]:
    """The pods of a job: head, workers and submitter."""
    found = kube.list("pods", f"batch.kubernetes.io/job-name={job['metadata']['name']}")
    cluster = job.get("status", {}).get("rayClusterName")
    return found + (kube.list("pods", f"ray.io/cluster={cluster}") if cluster else [])


def keep(kube: Kube, job: Object, uri: str) -> None:
    """Copy logs and Events into the job's folder; what cannot be copied is told and forgiven."""
    try:
        pods = pods_of(kube, job)
        target = store.open_store(uri)
        listed = [
            {
                "time": event.get("lastTimestamp") or event["metadata"]["creationTimestamp"],
                "object": f"{event['involvedObject'].get('kind')}/{event['involvedObject'].get('name')}",
                **{key: event.get(key) for key in ("type", "reason", "message", "count")},
            }
            for event in events_of(kube, job, pods)
        ]
        target.write("events.json", (json.dumps(listed, indent=1) + "\n").encode())
        target.write("status.json", (json.dumps(job.get("status", {}), indent=1, sort_keys=True) + "\n").encode())
        for pod in pods:
            name = pod["metadata"]["name"]
            for container in pod["spec"]["containers"]:
                log = kube.log(name, container["name"]).encode()
                if log:
                    target.write(f"logs/{name}/{container['name']}.log", log[-_LOG:])
    except UserError as error:  # good to have; a step that did well does well without
        say(f"the Ray job's logs and Events are not kept: {error.fact} ({error.reason})")
