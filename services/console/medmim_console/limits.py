"""How often somebody may ask: generous for readers, strict for logins and for what changes something."""

from dataclasses import dataclass, field

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

_PER_MINUTE = {"read": 1200, "login": 10, "change": 10}


class TooMany(Exception):
    """One request too many; `retry` seconds later there is room for another."""

    retry = 60


@dataclass(frozen=True)
class Rates:
    """Counts requests of the last minute."""

    _limiter: MovingWindowRateLimiter = field(default_factory=lambda: MovingWindowRateLimiter(MemoryStorage()))

    def count(self, what: str, who: str) -> None:
        """Count a request.

        Args:
            what: `read`, `login` or `change`.
            who: An address or a person.

        Raises:
            TooMany: There were too many in the last minute.
        """
        if not self._limiter.hit(RateLimitItemPerMinute(_PER_MINUTE[what]), what, who):
            raise TooMany
