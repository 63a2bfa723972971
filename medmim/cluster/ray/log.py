"""The log of a Ray job: what its submitter prints, read in parts so that a short outage loses no line."""

import time

from medmim.cluster.kube import Kube

_OVERLAP = 5  # s that are read again, since the API takes whole seconds and clocks differ


class Log:
    """A job's log, and how far it has been read."""

    def __init__(self, kube: Kube, job: str) -> None:
        self.kube, self.job = kube, job
        self.read: dict[str, tuple[str, float]] = {}  # pod -> time of its last line, by Kubernetes and by this clock

    def new_lines(self) -> list[str]:
        """The lines since the last call, without their times; also those that could not be read at that call."""
        found = []
        for pod in self.kube.list("pods", f"batch.kubernetes.io/job-name={self.job}"):
            name = pod["metadata"]["name"]
            known, when = self.read.get(name, ("", 0.0))
            since = int(time.monotonic() - when) + _OVERLAP if known else None
            for line in self.kube.log(name, pod["spec"]["containers"][0]["name"], since).split("\n"):
                moment, _, text = line.partition(" ")
                if _padded(moment) > known:
                    known = _padded(moment)
                    self.read[name] = known, time.monotonic()
                    found.append(text)
        return found


def _padded(moment: str) -> str:
    """Times with equal digits, so that they compare as text: trailing zeros of the fraction are not printed."""
    whole, _, fraction = moment.rstrip("Z").partition(".")
    return f"{whole}.{fraction:0<9}" if moment else ""
