"""The steps of a trial after which something is due: a row of scalars, a validation, a probe."""

from dataclasses import dataclass

from initlab.study.spec import TrialSpec


@dataclass(frozen=True)
class Due:
    """Steps counted in updates; a validation always comes with a row."""

    rows: frozenset[int]
    validations: frozenset[int]
    probes: frozenset[int]

    @classmethod
    def of(cls, spec: TrialSpec, per_epoch: int, steps: int) -> "Due":
        """Of a trial of so many steps an epoch and in all."""
        return cls(
            frozenset(spec.row_steps(per_epoch, steps)),
            frozenset(spec.validation_steps(per_epoch, steps)),
            frozenset(spec.probe_steps(steps)),
        )
