"""The command `launch`: ready scripts for Slurm, KubeRay and a running Ray cluster."""

import inspect
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from initlab.cli.options import OUT
from initlab.cli.studies import run as run_command

if TYPE_CHECKING:
    from initlab.launch.ready import Launch
    from initlab.launch.scripts import Job

RUN_FIELDS = ("engine", "jobs", "device", "devices", "gpus_per_trial", "pack", "max_failures", "max_hours")


@click.group()
def launch() -> None:
    """Write a script that runs a study on a cluster.

    What stands behind `--` is for `initlab run`: initlab launch slurm sweeps/phase.yaml --gpus 0 -- --pack 12

    Whatever `run` checks is checked before a script is written. The jobs refuse to run where the study, the code that
    it names or initlab has changed since.
    """


def job_command(function: Callable[..., None]) -> click.Command:
    """A subcommand with the options of every kind of job."""
    options = [
        click.argument("study", type=OUT),
        click.argument("run_options", metavar="[-- RUN OPTIONS]", nargs=-1),
        click.option("--out", "file", type=OUT, metavar="FILE", help="Write the script there.  [default: print it]"),
        click.option("--program", metavar="TEXT", help="How initlab is called there.  [default: as fits]"),
    ]
    for option in reversed(options):
        function = option(function)
    command: click.Command = launch.command(function)
    return command


hours_option = click.option("--hours", type=click.FloatRange(0.02, 10_000), default=24.0, help="Time limit.")
cpus_option = click.option("--cpus", type=click.IntRange(1, 10_000), default=4, help="CPUs of a task or node.")
gpus_option = click.option(
    "--gpus", type=click.IntRange(0, 64), help="GPUs of a task or node.  [default: those that a trial takes]"
)
memory_option = click.option("--memory", type=click.IntRange(1), metavar="GB", help="Memory of a task or node.")
nodes_option = click.IntRange(1, 100_000)


@job_command
@hours_option
@click.option("--array", type=click.IntRange(1, 100_000), help="Tasks of the job array.  [default: up to 16]")
@click.option("--nodes", type=nodes_option, help="Instead of an array, one Ray cluster over so many nodes.")
@cpus_option
@gpus_option
@memory_option
@click.option("--partition", help="[default: the cluster's]")
@click.option("--sbatch", multiple=True, metavar="OPTION", help="A further option, --sbatch=--account=me; repeatable.")
@click.option("--image", help="An Apptainer image that has initlab.")
@click.option("--setup", multiple=True, metavar="LINE", help="A line before the run, 'module load cuda'; repeatable.")
def slurm(array: int | None, nodes: int | None, partition: str | None, sbatch: Sequence[str], **options: Any) -> None:
    """A Slurm job array, or one job over several nodes.

    Each task of the array runs a part of STUDY's trials.
    """
    from initlab.launch.scripts import parts_to_run, slurm_array, slurm_ray

    if array and nodes:
        raise click.UsageError("--nodes: makes one job, not an array; give --array or --nodes")
    program = options.pop("program") or ("initlab" if options["image"] else f"{shlex.quote(sys.executable)} -m initlab")
    job = checked_job(program, ["--engine", "ray", "--address", "auto"] if nodes else [], **options)
    count = 0 if nodes else array or min(16, len(job.launch.requested))
    parts, waiting = parts_to_run(job.launch, count)
    if not waiting:
        click.echo(f"all {len(job.launch.requested)} trials are done or running: nothing to submit", err=True)
        return
    further = [*([f"--partition={partition}"] if partition else []), *sbatch]
    if nodes:
        text = slurm_ray(job, nodes, options["setup"], further)
    else:
        text = slurm_array(job, count, parts, options["setup"], further)
    deliver(
        text,
        options["file"],
        f"sbatch {{}} submits {waiting} trials in {f'{nodes} nodes' if nodes else f'{len(parts)} tasks'}",
    )


@job_command
@hours_option
@click.option("--nodes", type=nodes_option, default=1, help="Pods that run trials.")
@cpus_option
@gpus_option
@memory_option
@click.option("--image", required=True, help="A container image that has Ray and initlab.")
@click.option("--claim", default="initlab", help="A PersistentVolumeClaim that all pods write to.")
@click.option("--mount", default="/mnt/initlab", help="Where pods see it; the output folder lies there.")
@click.option("--namespace", help="[default: kubectl's]")
def kuberay(nodes: int, claim: str, mount: str, namespace: str | None, **options: Any) -> None:
    """A RayJob for Kubernetes: STUDY on a cluster of its own."""
    from initlab.launch.kuberay import STUDY_FILE, kuberay

    cluster = ["--engine", "ray", "--address", "auto"]
    job = checked_job(options.pop("program") or "initlab", cluster, results=mount, study_there=STUDY_FILE, **options)
    text = kuberay(job, nodes, claim, mount, namespace, options["study"].read_text())
    deliver(text, options["file"], f"kubectl apply -f {{}} submits {len(job.launch.requested)} trials in {nodes} pods")


@job_command
@click.option("--address", default="http://127.0.0.1:8265", help="The cluster's dashboard, which takes jobs.")
def ray_job(address: str, **options: Any) -> None:
    """A script that hands STUDY to a running Ray cluster.

    With a copy of the working folder.
    """
    from initlab.launch.scripts import parts_to_run, ray_job

    cluster = ["--engine", "ray", "--address", "auto"]
    job = checked_job(options.pop("program") or "python -m initlab", cluster, results=Path.cwd() / "results", **options)
    _, waiting = parts_to_run(job.launch, 0)
    deliver(ray_job(job, address), options["file"], f"bash {{}} submits {waiting} trials")


def checked_job(
    program: str,
    further: Sequence[str],
    *,
    study: Path,
    run_options: Sequence[str],
    cpus: int = 1,
    gpus: int | None = None,
    hours: float = 24.0,
    memory: int | None = None,
    image: str | None = None,
    results: str | Path | None = None,
    study_there: str | None = None,
    **_: Any,
) -> "Job":
    """The job, with the command that it runs: `program run STUDY`, the caller's options and `further` ones.

    Args:
        results: the folder for output folders there; None is `results` where the job starts.
        study_there: the study file's path there.

    Raises:
        UserError: whatever `initlab run` would refuse.
    """
    from initlab.launch.ready import ready
    from initlab.launch.scripts import Job

    params = run_command.make_context("initlab run", [str(study), *run_options, *further]).params
    for name in ("shard", "expect"):
        if params[name]:
            raise click.UsageError(f"--{name}: is for the script to set; leave it out")
    arguments = {name: params[name] for name in inspect.signature(ready).parameters if name in params}
    fields = {name: params[name] for name in RUN_FIELDS}
    ready_to_run: Launch = ready(**arguments, options=fields, gpus=64 if gpus is None else gpus)
    run = ready_to_run.settings.run
    gpus = (0 if run.device == "cpu" else run.devices) if gpus is None else gpus
    command = [*shlex.split(program), "run", study_there or str(study), *run_options, *further]
    command += ["--expect", ready_to_run.fingerprint]
    if results and not params["out"]:
        command += ["--out", str(Path(results) / ready_to_run.study.name)]
    if gpus == 0 and not params["device"]:
        command += ["--device", "cpu"]
    # The cores of a node are not those of the job.
    if gpus == 0 and not further and not (params["jobs"] or ready_to_run.study.run.jobs):
        command += ["--jobs", str(max(1, cpus // (run.threads * run.devices)))]
    return Job(ready_to_run, command, hours, cpus, gpus, memory, image, Path.cwd())


def deliver(text: str, file: Path | None, advice: str) -> None:
    """Print a script, or write it to a file and say what to do with it."""
    from initlab.store.files import writable

    click.echo(advice.format(file or "FILE"), err=True)
    if file is None:
        click.echo(text, nl=False)
        return
    with writable(file):
        file.write_text(text)
