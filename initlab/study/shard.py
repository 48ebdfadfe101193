"""Shards: a study's trials in N parts that need nothing of each other, told by their ids alone."""

import re
from dataclasses import dataclass

from initlab.study.mistakes import StudyError

MOST_SHARDS = 100_000


@dataclass(frozen=True)
class Shard:
    """Part `number` of `count`, from 1."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """`Shard.parse("3/16")` is part 3 of 16; a `StudyError` for what is no such part."""
        match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text, re.ASCII)
        shard = cls(*map(int, match.groups())) if match else cls(0, 0)
        if not 1 <= shard.number <= shard.count <= MOST_SHARDS:
            allowed = f"allowed: K/N with K from 1 to N, e.g. 3/16, and N up to {MOST_SHARDS:,}"
            raise StudyError([f"--shard: no such part (got {text!r}); {allowed}"])
        return shard

    def __str__(self) -> str:
        """As it stands in file names."""
        return f"{self.number}-of-{self.count}"

    @staticmethod
    def number_of(trial_id: str, count: int) -> int:
        """Which of `count` shards a trial is in, whatever other trials there are."""
        return int(trial_id.removeprefix("t"), 16) % count + 1
