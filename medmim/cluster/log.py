"""The log of a Ray job: what its submitter prints, read bit by bit so that a short outage loses nothing."""

import time

from medmim.cluster.kube import Kube

_OVERLAP = 5  # s that are read again, since the API takes whole seconds and clocks differ


class Log:
    """Remembers how far a job's log has been read."""

    def __init__(self, kube: Kube, job: str) -> None:
        self.kube, self.job = kube, job
        self.read: dict[str, str] = {}  # pod -> time of the last line read, as Kubernetes writes it
        self.looked = 0.0

    def new(self) -> list[str]:
        """The lines since the last call, without their times."""
        found = []
        since = None if not self.looked else int(time.monotonic() - self.looked) + _OVERLAP
        begun = time.monotonic()
        for pod in self.kube.list("pods", f"batch.kubernetes.io/job-name={self.job}"):
            name = pod["metadata"]["name"]
            known = self.read.get(name, "")
            for line in self.kube.log(name, pod["spec"]["containers"][0]["name"], since if known else None).split("\n"):
                moment, _, text = line.partition(" ")
                if _padded(moment) > known:
                    self.read[name] = _padded(moment)
                    found.append(text)
        self.looked = begun
        return found


def _padded(moment: str) -> str:
    """Times with equal digits, so that they compare as text: trailing zeros of the fraction are not printed."""
    whole, _, fraction = moment.rstrip("Z").partition(".")
    return f"{whole}.{fraction:0<9}" if moment else ""
