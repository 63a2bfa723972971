"""The canary: a sample of questions asked anew each night, to detect that an engine drifted though the weights did not.

Weights are known by their digest; the engine, its libraries and a server behind an address are not. Greedy decoding
gives the same bytes on the same machine and libraries. Another CPU or GPU, or another batch, may add floats in another
order and so turn a near tie: `nightly.noise` is the share of answers for which that is accepted.

The rule: of a model, the canary of tonight and those of the last nights together are each tested against that share,
by the exact upper tail of the binomial distribution; the smaller p of the two counts twice, and Holm's correction goes
over all models. Below `nightly.significance` it is drift. With a noise of 0 one changed answer is drift.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from medmim import stats
from medmim.errors import require
from medmim.sample import Answer

_SHOWN = 20


@dataclass(frozen=True)
class Canary:
    """One model's canary of one night: how many questions were asked anew, and which are answered differently."""

    asked: int
    changed: tuple[str, ...]

    def to_record(self, p: float, drifted: bool) -> dict[str, object]:
        """As the night's record has it; plain JSON."""
        shown = list(self.changed[:_SHOWN])
        return {"asked": self.asked, "changed": len(self.changed), "items": shown, "p": p, "drifted": drifted}


def compare(cached: Sequence[Answer], anew: Sequence[Answer]) -> Canary:
    """Compare answers given anew with those of the cache, byte by byte; an engine error on either side is no answer."""
    before = {answer.sample: answer for answer in cached if answer.status != "error"}
    both = [answer for answer in anew if answer.status != "error" and answer.sample in before]
    return Canary(len(both), tuple(a.sample for a in both if a.text != before[a.sample].text))


def p_values(
    tonight: Mapping[str, Canary], last: Mapping[str, Sequence[tuple[int, int]]], noise: float
) -> dict[str, float]:
    """How probable so many changed answers are by numerical noise alone, corrected over the models.

    Args:
        tonight: Role -> its canary.
        last: Role -> (asked, changed) of the same model's last nights, as far as they used the same cached answers.
        noise: Share of answers that noise may change.

    Returns:
        Role -> p.
    """
    binom = require("scipy.stats", "bench").binom
    uncorrected = []
    for role, canary in tonight.items():
        asked, changed = canary.asked, len(canary.changed)
        all_asked = asked + sum(n for n, _ in last.get(role, ()))
        all_changed = changed + sum(n for _, n in last.get(role, ()))
        p = 1.0
        if all_changed:
            p = min(binom.sf(changed - 1, asked, noise), binom.sf(all_changed - 1, all_asked, noise))
        uncorrected.append(min(1.0, 2 * float(p)))
    return {role: p for role, p in zip(tonight, stats.holm(uncorrected), strict=True) if p is not None}
