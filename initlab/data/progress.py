"""Progress of a pass over many pictures, said every few seconds."""

import time
from collections.abc import Callable


class Progress:
    """Counts pictures and says, at most every ten seconds, how many there are still to come and how fast they come."""

    INTERVAL_S = 10.0

    def __init__(self, verb: str, total: int, say: Callable[[str], None]) -> None:
        self.verb, self.total, self.say = verb, total, say
        self.done = 0
        self.started = self.said = time.monotonic()

    def add(self, count: int) -> None:
        """Count pictures that are through."""
        self.done += count
        now = time.monotonic()
        if now - self.said >= self.INTERVAL_S:
            self.said = now
            rate = self.done / (now - self.started)
            left = (self.total - self.done) / rate if rate else 0
            self.say(f"{self.verb} {self.done:,} of {self.total:,} pictures, {rate:,.0f}/s, {left:,.0f} s left")
