"""The spec of a trial: frozen sections, every default visible, cheap to build (no torch, no data).

What is computed is `TrialSpec`, and its id is made of it. Defaults are frozen for `HASH_VERSION`: changing one needs a
new version, adding a field does not.
"""

import hashlib
import json
from functools import lru_cache

from pydantic import Field

from initlab.study.field_types import OPTIONS, Seed, Spec
from initlab.study.sections import Data, Init, Net
from initlab.study.training import Probe, Train

HASH_VERSION = 1
# The data of a loop that `initlab.watch` watched: of it no more is known than the batch that is measured.
WATCHED = "watched:batch"


class TrialSpec(Spec):
    """A fully resolved trial."""

    data: Data = Data()
    net: Net = Net()
    init: Init = Init()
    train: Train = Train()
    probe: Probe = Probe()
    seed: Seed = Field(0, description="of weights, data order, augmentation and dropout")

    @property
    def watched(self) -> bool:
        """Whether this is a loop that `initlab.watch` watched: what its tags do not say of it is not known."""
        return self.data.name == WATCHED

    @property
    def trial_id(self) -> str:
        """`t` and 12 hex digits of the hash over the fields that differ from their default, as canonical JSON."""
        sections = (self.data, self.net, self.init, self.train, self.probe)
        texts = zip(("data", "net", "init", "train", "probe"), map(canonical, sections), strict=True)
        fields = [f'"{name}":{text}' for name, text in texts if text != "{}"]
        seed = [f'"seed":{self.seed}'] if self.seed else []
        content = ",".join(sorted([f'"hash_version":{HASH_VERSION}', *fields, *seed]))
        return "t" + hashlib.sha256(f"{{{content}}}".encode()).hexdigest()[:12]

    def steps(self, train_examples: int) -> tuple[int, int]:
        """(steps per epoch, steps in all): the short last batch is dropped, epochs may be a fraction."""
        per_epoch = train_examples // self.train.batch_size
        return per_epoch, round(self.train.epochs * per_epoch)

    def validation_steps(self, per_epoch: int, steps: int) -> list[int]:
        """Steps after which the net is validated, 0 and the last among them."""
        # An interval below a step means every step.
        interval = max(1.0, self.train.validate_every * per_epoch)
        return sorted({0, steps, *(min(round(i * interval), steps) for i in range(1, int(steps / interval) + 1))})

    def row_steps(self, per_epoch: int, steps: int) -> list[int]:
        """Steps with a row of scalars: every validation, every `log_every` steps and every epoch's end."""
        logged = range(self.train.log_every, steps + 1, self.train.log_every)
        return sorted({*self.validation_steps(per_epoch, steps), *logged, *range(per_epoch, steps + 1, per_epoch)})

    def probe_steps(self, steps: int) -> list[int]:
        """Steps after which the signals are measured: 0, every `probe.every` and the last; none where it is 0."""
        return sorted({*range(0, steps + 1, self.probe.every), steps}) if self.probe.every else []

    def samples_update(self, step: int) -> bool:
        """Whether the update after `step` others gives running moments: every `probe.running_every`-th does."""
        return self.probe.running_every > 0 and (step + 1) % self.probe.running_every == 0


def canonical(section: Spec) -> str:
    """The fields of a section that differ from their default, as JSON with sorted keys."""
    # 1 and 1.0 are equal, but in the options of a user's code not the same; a typed field takes but one of them.
    return canonical_uncached(section) if any(map(section.__dict__.get, OPTIONS)) else canonical_cached(section)


def canonical_uncached(section: Spec) -> str:
    """`canonical`, computed."""
    return json.dumps(section.model_dump(mode="json", exclude_defaults=True), sort_keys=True, separators=(",", ":"))


# A sweep has few sections, in many combinations.
canonical_cached = lru_cache(maxsize=100_000)(canonical_uncached)
