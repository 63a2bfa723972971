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
        # pod -> time of its last line by Kubernetes, how many lines of that time were read, and when by this clock
        self.read: dict[str, tuple[str, int, float]] = {}
        self.lines: Counter[str] = Counter()

    def new_lines(self) -> list[str]:
        """The lines since the last call, without their times; also those that could not be read at that call.

        Lines may share a time: CRI-O's conmon gives all that it reads at once the same.
        """
        found = []
        for pod in self.pods():
            name = pod["metadata"]["name"]
            last, read, when = self.read.get(name, ("", 0, 0.0))
            since = int(time.monotonic() - when) + _OVERLAP if last else None
            container = self.container or pod["spec"]["containers"][0]["name"]
            times: Counter[str] = Counter()
            for line in self.kube.log(name, container, since).split("\n"):
                moment, _, text = line.partition(" ")
                at = _padded(moment)
                times[at] += 1
                if at > last or (at and at == last and times[at] > read):
                    found.append(text)
                    self.lines[name] += 1
            newest = max(times)
            if newest > last or (newest == last and times[newest] > read):
                self.read[name] = newest, times[newest], time.monotonic()
        return found


def _padded(moment: str) -> str:
    """Times with equal digits, so that they compare as text: trailing zeros of the fraction are not printed."""
    whole, _, fraction = moment.rstrip("Z").partition(".")
    return f"{whole}.{fraction:0<9}" if moment else ""
