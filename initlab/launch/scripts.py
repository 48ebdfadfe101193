"""Scripts that launch a study on a cluster: a Slurm job array, a Slurm job that is one Ray cluster, and a Ray job."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from initlab.engine.lease import shards_at_work
from initlab.launch.folder import unsettled
from initlab.launch.ready import Launch
from initlab.plan.plan import shard_of
from initlab.store.files import STOP

# Seconds before the wall at which Slurm warns the script: time for a last step and a checkpoint.
WARNING_S = 120


@dataclass(frozen=True)
class Job:
    """What a job is to run, and what it may take."""

    launch: Launch
    command: Sequence[str]  # `initlab run STUDY …` as it would be typed there, with all its options but the shard
    hours: float
    cpus: int  # of a task of the array, or of a node
    gpus: int
    memory: int | None  # GB; None is what the cluster gives
    image: str | None
    folder: Path  # where the job starts


def parts_to_run(launch: Launch, count: int) -> tuple[list[int], int]:
    """The numbers of the shards, of `count`, that have trials to run and do not run now; and how many trials these are.

    A count of 0 is one launch of all, beside which none may run.

    Raises:
        Held: another launch than one of these shards is at work in the output folder.
    """
    busy = shards_at_work(launch.folder, count)
    todo = unsettled(launch.folder, launch.requested, launch.settings.skip_hopeless)
    waiting = [part for part in (shard_of(trial, max(1, count)) for trial in todo) if part not in busy]
    return sorted(set(waiting)), len(waiting)


def ranges(numbers: Sequence[int]) -> str:
    """Rising numbers as Slurm writes them: `ranges([1, 2, 3, 7])` is `1-3,7`."""
    # Neighbours have the same difference to their position.
    runs = [[number for _, number in run] for _, run in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0])]
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def slurm_array(job: Job, count: int, numbers: Sequence[int], setup: Sequence[str], options: Sequence[str]) -> str:
    """A job array: each task runs one shard of `count`, those of `numbers` alone."""
    command = f'{shlex.join(in_container(job))} --shard "$SLURM_ARRAY_TASK_ID/{count}"'
    stop = f'{shlex.quote(str(job.launch.folder / STOP))}-"$SLURM_ARRAY_TASK_ID"-of-{count}'
    return slurm(job, [f"--array={ranges(numbers)}", "--output=%x-%A_%a.log", *options], setup, command, stop)


def slurm_ray(job: Job, nodes: int, setup: Sequence[str], options: Sequence[str]) -> str:
    """One job over several nodes, which make one Ray cluster for the length of the run."""
    head = [
        'head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
        # Debian's /etc/hosts gives a machine's own name the address 127.0.1.1.
        "addresses='hostname --ip-address; hostname --all-ip-addresses'",
        'ip=$(srun --nodes=1 --ntasks=1 --nodelist="$head" sh -c "$addresses" | tr " " "\\n" | '
        "grep -m 1 -v -e '^127\\.' -e : -e '^$')",
        # The head asks for a token where its user has one, and without one anybody could run code there.
        "RAY_AUTH_TOKEN=$(cat /proc/sys/kernel/random/uuid)",
        "export RAY_AUTH_TOKEN RAY_AUTH_MODE=token",
    ]
    # Of the same environment as initlab.
    ray = str(Path(job.command[0]).with_name("ray"))
    prefix = shlex.join(in_container(job, [ray, "symmetric-run"]))
    resources = f"--num-cpus {job.cpus} --num-gpus {job.gpus}"
    command = f'srun {prefix} --address "$ip:6379" --min-nodes {nodes} {resources} -- {shlex.join(job.command)}'
    layout = [f"--nodes={nodes}", "--ntasks-per-node=1", "--output=%x-%j.log"]
    stop = shlex.quote(str(job.launch.folder / STOP))
    return slurm(job, [*layout, *options], [*setup, *head], command, stop)


def slurm(job: Job, options: Sequence[str], setup: Sequence[str], command: str, stop: str) -> str:
    """A batch script around a command: it stops before the time limit and is queued again to go on."""
    shared = [
        f"--job-name={job.launch.study.name}",
        f"--chdir={job.folder}",
        f"--time={clock(job.hours)}",
        f"--cpus-per-task={job.cpus}",
        *([f"--gpus-per-node={job.gpus}"] if job.gpus else []),
        *([f"--mem={job.memory}G"] if job.memory else []),
        f"--signal=B:USR1@{WARNING_S}",
        "--requeue",
        "--open-mode=append",
    ]
    lines = "\n".join(f"#SBATCH {option}" for option in [*shared, *options])
    before = "".join(f"{line}\n" for line in setup)
    return f"""#!/bin/bash
# {job.launch.study.name}, written by `initlab launch slurm`. Submit it with: sbatch FILE
# Then: squeue --me; initlab status {shlex.quote(str(job.launch.folder))}; scancel JOB stops it, sbatch FILE goes on.
{lines}

{before}
# {WARNING_S} s before the time limit: every trial keeps a checkpoint, and the job is queued again to go on from there.
warned=no
trap 'warned=yes; touch {stop}' USR1

{command} &
run=$!
# The signal ends `wait` before the run has ended.
while wait "$run"; code=$?; kill -0 "$run" 2>/dev/null; do :; done
if [ "$code" -eq 3 ] && [ "$warned" = yes ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
"""


def ray_job(job: Job, address: str) -> str:
    """A script that hands the launch, with a copy of the working folder, to a running Ray cluster."""
    # Ray refuses copies above 512 MiB, and leaves out what git ignores, where there is a .gitignore, alone.
    left_out = json.dumps({"excludes": ["/results/", "/.git/", "/.venv/"]})
    submit = ["ray", "job", "submit", "--address", address, "--working-dir", str(job.folder)]
    submit += ["--runtime-env-json", left_out, "--no-wait", "--"]
    return f"""#!/bin/bash
# {job.launch.study.name}, written by `initlab launch ray-job`. Submit it with: bash FILE
# The job runs a copy of {job.folder}, made when it is submitted; every node has to see
# {job.launch.folder.resolve()}, and needs initlab as it is here.
set -eu
{shlex.join(submit)} \\
    {shlex.join(job.command)}
"""


def in_container(job: Job, command: Sequence[str] | None = None) -> list[str]:
    """The command, inside the image where there is one, which sees the working folder."""
    words = list(job.command if command is None else command)
    if not job.image:
        return words
    nv = ["--nv"] if job.gpus else []
    return ["apptainer", "exec", *nv, "--bind", str(job.folder), "--pwd", str(job.folder), job.image, *words]


def clock(hours: float) -> str:
    """A time limit as Slurm reads it: `clock(36.5)` is `1-12:30:00`."""
    minutes = max(1, round(hours * 60))
    days, rest = divmod(minutes, 24 * 60)
    return f"{days}-{rest // 60:02}:{rest % 60:02}:00"
