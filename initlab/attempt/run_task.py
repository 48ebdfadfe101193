"""What a worker runs: a task, from plain data to the ends of its trials.

`run_task` is the function that engines call by name, in this process or another one. A task of several trials is a
pack: their training steps are taken as one where torch can do that, and each has an attempt of its own all the same.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path

import torch

from initlab.attempt.attempt import Attempt, in_one_line
from initlab.attempt.gang import device_of, group_of
from initlab.attempt.process_state import process_state_kept
from initlab.data.dataset import Dataset
from initlab.engine.signs import sign
from initlab.engine.stopping import stop_asked
from initlab.engine.task import Answer, State, Task, TrialEnd, cause_of
from initlab.engine.worker import orphaned
from initlab.plan.cost import cost
from initlab.plan.packs import unpackable_because
from initlab.store.files import no_room
from initlab.store.trial_folder import TrialFolder
from initlab.study.sections import Data
from initlab.train.cuda import cuda_graph, kernels
from initlab.train.packed import Pack
from initlab.train.passes import COMPILE_STEPS
from initlab.train.records import Outcome, Raised, caught
from initlab.train.trial import Trial

STOP_CHECK_S = 0.2
# FLOP of a step below which the host takes longer to start its operations than a GPU to do them. Replayed, a step of
# 2e9 FLOP took 1/6 of its time on an H200, one of 2e12 (small-30 at 224 pixels) as long, and one of 2e13 (B) 1.6 times
# (docs/performance.md).
SMALL_STEP = 1e11
ShouldStop = Callable[[], bool]


def run_task(task: Task) -> Answer:
    """Run each trial of a task to its end, its failure or a stop, and record which."""
    should_stop = stop_check(task)
    images: dict[Data, Dataset] = {}
    ends: dict[str, TrialEnd] = {}
    attempts: list[Attempt] = []
    with computing(task) as device:
        for trial_id in task.trials:
            reached = opened(task, trial_id, device, should_stop)
            if isinstance(reached, Attempt) and len(task.trials) == 1 and not runs_as_pack(reached):
                reached = run_alone(reached, should_stop)
            elif isinstance(reached, Attempt):
                reached = begun(reached, images)
            if isinstance(reached, Attempt):
                attempts.append(reached)
            else:
                ends[trial_id] = reached
        reason = run_together(attempts, should_stop, ends) if attempts else None
        share = memory_share(device)
    alone_because = reason if len(task.trials) > 1 else None
    ended = tuple(ends[trial_id] for trial_id in task.trials)
    return Answer(ends=ended, alone_because=alone_because, memory_share=share)


def memory_share(device: torch.device) -> float | None:
    """Share of a GPU's memory that is in use: what torch keeps is what the training needed; None on a CPU."""
    if device.type != "cuda":
        return None
    free, total = torch.cuda.mem_get_info(device)
    return 1 - free / total


@contextmanager
def computing(task: Task) -> Iterator[torch.device]:
    """The device of a task, with its threads and CUDA settings; all that it sets for the process ends with it."""
    device = device_of(task)
    with process_state_kept(device):
        torch.set_num_threads(task.run.threads)
        with kernels(device):
            yield device


def opened(task: Task, trial_id: str, device: torch.device, should_stop: ShouldStop) -> Attempt | TrialEnd:
    """A new attempt at a trial, or its end where there is nothing to do or its folder is damaged."""
    if should_stop():
        return TrialEnd(trial=trial_id, state=State.PENDING)
    # An engine may ask twice, as after it lost a node.
    if TrialFolder(Path(task.out), trial_id).finished:
        return TrialEnd(trial=trial_id, state=State.DONE)
    attempt = caught(partial(Attempt, task, trial_id, device))
    if isinstance(attempt, Attempt):
        return attempt
    if no_room(attempt, Path(task.out)):
        return TrialEnd(trial=trial_id, state=State.PENDING, no_room=True)
    # Without an attempt the launcher records the failure.
    error = in_one_line(attempt)
    return TrialEnd(trial=trial_id, state=State.FAILED, error=error, cause=cause_of(error))


def run_alone(attempt: Attempt, should_stop: ShouldStop) -> TrialEnd:
    """Run one trial, in as many processes as its task says."""
    task = attempt.task

    def outcome() -> Outcome:
        """Build and train the trial in the group of its processes."""
        with group_of(task, attempt.device) as group:
            trial = attempt.build({}, group)
            trial.begin(group.share(attempt.writer.resumed))
            return trial.run(alive([attempt], should_stop), task.run.checkpoint_every_s, task.skip_hopeless)

    return attempt.end(caught(outcome))


def runs_as_pack(attempt: Attempt) -> bool:
    """Whether a trial on its own is a pack of one on CUDA, whose step is replayed: its net is small (`SMALL_STEP`)."""
    run, spec = attempt.task.run, attempt.spec
    if run.compile is False or attempt.device.type != "cuda" or run.devices > 1 or unpackable_because(spec):
        return False
    cost_of = cost(spec)
    if cost_of.multiply_adds is None:
        # Nothing is known of the user's net, so only one that is to be compiled is, where torch.compile is too slow.
        return bool(run.compile) and (cost_of.steps or COMPILE_STEPS) < COMPILE_STEPS
    return 6.0 * cost_of.multiply_adds * spec.train.batch_size < SMALL_STEP


def begun(attempt: Attempt, images: dict[Data, Dataset]) -> Attempt | TrialEnd:
    """The attempt with its trial before the next step, or its end where it gets no further."""
    # What the code of one net sets is not for the other trials of a pack.
    with process_state_kept(attempt.device):
        error = caught(lambda: attempt.build(images).begin(attempt.writer.resumed))
    return attempt.end(error) if error else attempt


def run_together(attempts: Sequence[Attempt], should_stop: ShouldStop, ends: dict[str, TrialEnd]) -> str | None:
    """Run trials as a pack, or what is left of them one after another; returns why, None for a pack."""
    by_trial = {attempt.trial: attempt for attempt in attempts}

    def on_end(trial: Trial, outcome: Outcome | Raised) -> None:
        """Store how a trial of the pack ended."""
        ends[by_trial[trial].trial_id] = by_trial[trial].end(outcome)

    task = attempts[0].task
    captures = attempts[0].device.type == "cuda" and task.run.compile is not False
    pack = Pack(list(by_trial), cuda_graph if captures else None, on_end)
    reason = pack.unpackable_because()
    if reason is None:
        try:
            pack.run(alive(attempts, should_stop), task.run.checkpoint_every_s, task.skip_hopeless)
        except torch.OutOfMemoryError:
            reason = "the device has too little memory for all of them; lower --pack"
    for trial in pack.trials:
        stop = alive([by_trial[trial]], should_stop)
        outcome = caught(partial(trial.run, stop, task.run.checkpoint_every_s, task.skip_hopeless))
        on_end(trial, outcome.plus(eager=pack.eager) if isinstance(outcome, Outcome) else outcome)
    return reason


def alive(attempts: Sequence[Attempt], should_stop: ShouldStop) -> ShouldStop:
    """`should_stop`, which trials call before their first step and after every one, as a sign of life of theirs too."""
    calls = count()

    def sign_and_stop() -> bool:
        """Leave the sign, and ask whether to stop."""
        sign(step=next(calls) > 0)
        for attempt in attempts:
            attempt.writer.alive()
        return should_stop()

    return sign_and_stop


def stop_check(task: Task) -> ShouldStop:
    """A cheap `should_stop()`: a stop asked for, as by a STOP file in OUT, or the launching process gone."""
    last, answer = 0.0, False

    def should_stop() -> bool:
        """Whether to stop, looked up again after `STOP_CHECK_S`."""
        nonlocal last, answer
        now = time.monotonic()
        if now - last > STOP_CHECK_S:
            last, answer = now, stop_asked(task) or orphaned.is_set()
        return answer

    return should_stop
