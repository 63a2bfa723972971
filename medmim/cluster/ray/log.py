"""The log of pods that run, such as a Ray job's submitter, read in parts so that a short outage loses no line."""

import time
from collections import Counter
from collections.abc import Callable, Iterable

from medmim.cluster.kube import Kube, Object

_OVERLAP = 5  # s that are read again, since the API takes whole seconds and clocks differ


class Log:
    """The log of some pods, and how far it has been read.

    Attributes:
        lines: Pod -> how many of its lines were read.
    """

    def __init__(self, kube: Kube, pods: Callable[[], Iterable[Object]], container: str = "") -> None:
        """Of each pod's container of that name, by default its first; `pods` is called for each read."""
        self.kube, self.pods, self.container = kube, pods, container
        self.read: dict[str, tuple[str, float]] = {}  # pod -> time of its last line, by Kubernetes and by this clock
        self.lines: Counter[str] = Counter()

    def new_lines(self) -> list[str]:
        """The lines since the last call, without their times; also those that could not be read at that call."""
        found = []
        for pod in self.pods():
            name = pod["metadata"]["name"]
            known, when = self.read.get(name, ("", 0.0))
            since = int(time.monotonic() - when) + _OVERLAP if known else None
            container = self.container or pod["spec"]["containers"][0]["name"]
            for line in self.kube.log(name, container, since).split("\n"):
                moment, _, text = line.partition(" ")
                if _padded(moment) > known:
                    known = _padded(moment)
                    self.read[name] = known, time.monotonic()
                    self.lines[name] += 1
                    found.append(text)
        return found


def _padded(moment: str) -> str:
    """Times with equal digits, so that they compare as text: trailing zeros of the fraction are not printed."""
    whole, _, fraction = moment.rstrip("Z").partition(".")
    return f"{whole}.{fraction:0<9}" if moment else ""
