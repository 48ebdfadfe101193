"""What a trial leaves behind: the protocol of a recorder, one that keeps nothing, and how a trial ended."""

from dataclasses import dataclass
from typing import Any, Protocol


class Recorder(Protocol):
    """Where a trial's records go; the store's AttemptWriter is one."""

    def scalars(self, row: dict[str, Any]) -> None: ...
    def signals(self, step: int, epoch: float, rows: list[dict[str, Any]]) -> None: ...
    def moments(self, step: int, epoch: float, rows: list[dict[str, Any]]) -> None: ...
    def slopes(self, step: int, epoch: float, rows: list[dict[str, Any]]) -> None: ...
    def checkpoint(self, state: dict[str, Any]) -> None: ...
    def running(self, progress: dict[str, Any]) -> None: ...


class Silent:
    """A recorder that keeps nothing, as a follower's: the leader writes."""

    def scalars(self, row: dict[str, Any]) -> None:
        pass

    def signals(self, step: int, epoch: float, rows: list[dict[str, Any]]) -> None:
        pass

    def moments(self, step: int, epoch: float, rows: list[dict[str, Any]]) -> None:
        pass

    def slopes(self, step: int, epoch: float, rows: list[dict[str, Any]]) -> None:
        pass

    def checkpoint(self, state: dict[str, Any]) -> None:
        pass

    def running(self, progress: dict[str, Any]) -> None:
        pass


@dataclass(frozen=True)
class Outcome:
    """How a trial ended, with its last figures: `done`, `diverged` (non-finite loss), `interrupted`, or `stopped` as
    hopeless."""

    state: str
    figures: dict[str, Any]

    def plus(self, **figures: Any) -> "Outcome":
        """The same end with further figures; one that is None, or there already, adds nothing."""
        new = {name: value for name, value in figures.items() if value is not None and name not in self.figures}
        return Outcome(self.state, {**self.figures, **new})
