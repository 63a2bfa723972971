"""The canary: some questions that are asked anew each night, though their answers are known.

Weights are known by their digest; the engine, its libraries and a server behind an address are not. Greedy decoding
gives the same bytes on the same machine and libraries. Another CPU or GPU, or another batch, may add floats in another
order and so turn a near tie: `nightly.noise` is the share of answers for which that is accepted.

The rule: of a model, the canary of tonight and those of the last nights together are each tested against that share,
by the exact upper tail of the binomial distribution; the smaller p of the two counts twice, and Holm's correction goes
over all models. Below `nightly.significance` it is drift. With a noise of 0 one changed answer is drift.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from medmim.bench import stats
from medmim.errors import require
from medmim.sample import Answer

_SHOWN = 20


@dataclass(frozen=True)
class Seen:
    """One canary of one model: how many questions were asked anew, and which are answered otherwise."""

    asked: int
    changed: tuple[str, ...]

    def plain(self, p: float, drifted: bool) -> dict[str, object]:
        """For the night's record."""
        shown = list(self.changed[:_SHOWN])
        return {"asked": self.asked, "changed": len(self.changed), "items": shown, "p": p, "drifted": drifted}


def compare(known: Sequence[Answer], anew: Sequence[Answer]) -> Seen:
    """Answers given anew beside those of the cache, byte by byte; an engine error on either side is no answer."""
    before = {answer.sample: answer for answer in known if answer.status != "error"}
    both = [answer for answer in anew if answer.status != "error" and answer.sample in before]
    return Seen(len(both), tuple(a.sample for a in both if a.text != before[a.sample].text))


def chances(
    tonight: Mapping[str, Seen], last: Mapping[str, Sequence[tuple[int, int]]], noise: float
) -> dict[str, float]:
    """How probable so many changed answers are by numerical noise alone, corrected over the models.

    Args:
        tonight: Role -> its canary.
        last: Role -> (asked, changed) of the same model's last nights, as long as it is asked by the same cache.
        noise: Share of answers that noise may change.

    Returns:
        Role -> p.
    """
    binom = require("scipy.stats", "bench").binom
    plain = []
    for role, seen in tonight.items():
        asked, changed = seen.asked, len(seen.changed)
        whole, moved = (sum(column) for column in zip((asked, changed), *last.get(role, ()), strict=True))
        p = min(binom.sf(changed - 1, asked, noise), binom.sf(moved - 1, whole, noise)) if moved else 1.0
        plain.append(min(1.0, 2 * float(p)))
    return {role: p for role, p in zip(tonight, stats.holm(plain), strict=True) if p is not None}
