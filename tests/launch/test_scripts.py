"""Job scripts: read by real parsers, run by a real shell, and what they run is what was submitted."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from initlab import load
from initlab.cli import main
from initlab.engine.lease import lease
from initlab.launch.kuberay import resource_name
from initlab.launch.scripts import clock, ranges
from initlab.plan.plan import plan, shard_of
from initlab.study.shard import Shard
from initlab.study.study import load_study
from tests.cli.test_cli import HELD, steps_done, wait_until
from tests.launch.test_launch import assert_same_numbers, run

ROOT = Path(__file__).parents[2]
Tiny = Callable[..., Path]


def launch(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["launch", *map(str, arguments)], catch_exceptions=False)


def script_of(folder: Path, *arguments: object) -> Path:
    """The script that `initlab launch` writes, read through by bash, and by shellcheck where there is one."""
    path = folder / "job.sh"
    written = launch(*arguments[:2], "--out", path, *arguments[2:])
    assert written.exit_code == 0, written.stderr
    subprocess.run(["bash", "-n", path], check=True)
    if shutil.which("shellcheck"):
        checked = subprocess.run(["shellcheck", path], capture_output=True, text=True)
        assert checked.returncode == 0, checked.stdout
    return path


def sbatch_options(script: Path) -> dict[str, str]:
    lines = re.findall(r"^#SBATCH --([a-z-]+)=?(.*)$", script.read_text(), re.M)
    assert len(dict(lines)) == len(lines)
    return dict(lines)


def start(script: Path, task: int, folder: Path) -> subprocess.Popen[str]:
    """A task of the array as Slurm starts it, beside a `scontrol` that keeps what it was told."""
    (folder / "bin").mkdir(exist_ok=True)
    scontrol = folder / "bin" / "scontrol"
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {shlex.quote(str(folder / "scontrol.log"))}\n')
    scontrol.chmod(0o755)
    slurm = {"SLURM_ARRAY_TASK_ID": str(task), "SLURM_JOB_ID": str(100 + task)}
    environment = os.environ | slurm | {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}
    options = {"env": environment, "cwd": sbatch_options(script)["chdir"], "start_new_session": True, "text": True}
    return subprocess.Popen(["bash", script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)


def numbers(text: str) -> list[int]:
    """What Slurm reads from `1-3,7`: 1, 2, 3, 7."""
    parts = [part.split("-") for part in text.split(",")]
    return [number for part in parts for number in range(int(part[0]), int(part[-1]) + 1)]


def test_the_tasks_of_an_array_give_the_store_that_one_run_gives(tiny: Tiny, tmp_path: Path) -> None:
    study, out = tiny(grid={"seed": [0, 1]}, train={"epochs": 1}), tmp_path / "out"
    script = script_of(tmp_path, "slurm", study, "--gpus", 0, "--cpus", 1, "--array", 5, "--", "--out", out)
    tasks = numbers(sbatch_options(script)["array"])
    assert tasks == sorted({shard_of(trial, 5) for trial in plan(load_study(study))}) and len(tasks) == 2
    processes = [start(script, task, tmp_path) for task in tasks]
    printed = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(tasks), printed
    assert not (tmp_path / "scontrol.log").exists()
    assert_same_numbers(load(out), run(study, tmp_path / "whole"))
    # Done is done.
    again = launch("slurm", study, "--gpus", 0, "--", "--out", out)
    assert (again.exit_code, again.stdout) == (0, "")
    assert again.stderr == "all 2 trials are done or running: nothing to submit\n"


def test_before_the_time_limit_a_task_stops_with_a_checkpoint_and_is_queued_again(tiny: Tiny, tmp_path: Path) -> None:
    study, out, hold = tiny(**HELD | {"grid": {"seed": [0]}}), tmp_path / "out", tmp_path / "hold"
    hold.touch()
    setup = f"export HELD={shlex.quote(str(hold))}"
    options = ["--gpus", 0, "--array", 1, "--setup", setup, "--", "--out", out, "--allow-code"]
    script = script_of(tmp_path, "slurm", study, *options)
    process = start(script, 1, tmp_path)
    wait_until(lambda: (tmp_path / "reached").exists() or process.poll() is not None)
    # As --signal=B:USR1 does: to the shell alone.
    process.send_signal(signal.SIGUSR1)
    wait_until((out / "STOP-1-of-1").exists)
    hold.unlink()
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 3, printed
    assert (tmp_path / "scontrol.log").read_text() == "requeue 101\n"
    begun = steps_done(out)
    assert load(out).trials.state.tolist() == ["interrupted"] and begun
    second = start(script, 1, tmp_path)
    assert second.communicate(timeout=300)[0].count("STOP-1-of-1, which an earlier stop left") == 1
    assert second.returncode == 0
    assert load(out).trials.state.tolist() == ["done"] and load(out).trials.attempts.tolist() == [2]
    # Stopped by anybody else it is not queued again.
    assert (tmp_path / "scontrol.log").read_text() == "requeue 101\n"


def test_what_runs_is_not_submitted_again(tiny: Tiny, tmp_path: Path) -> None:
    study, out = tiny(grid={"seed": list(range(12))}), tmp_path / "out"
    out.mkdir()
    command = ["slurm", study, "--gpus", 0, "--array", 3, "--", "--out", out]
    with lease(out, Shard(2, 3)):
        written = launch(*command)
        assert "#SBATCH --array=1,3\n" in written.stdout
        assert launch(*command[:5], 4, *command[6:]).exit_code == 4
    with lease(out):
        held = launch(*command)
        assert (held.exit_code, held.stdout) == (4, "") and "held by another launch" in held.stderr
    assert "#SBATCH --array=1-3\n" in launch(*command).stdout


def test_every_trial_is_checked_before_a_script_is_written(tiny: Tiny, tmp_path: Path) -> None:
    wrong = {"grid": {"train.batch_size": [32, 4096]}}
    for kind in (["slurm"], ["kuberay", "--image", "i"], ["ray-job"]):
        refused = launch(kind[0], tiny(**wrong), *kind[1:], "--out", tmp_path / "job")
        assert (refused.exit_code, refused.stdout, refused.stderr.count("\n")) == (2, "", 1)
        assert "train.batch_size: larger than the training set (got 4096); allowed: at most 256" in refused.stderr
        unallowed = launch(kind[0], tiny(net={"name": "tests.engine.mine:net"}), *kind[1:])
        assert (unallowed.exit_code, unallowed.stdout) == (2, "") and "--allow-code" in unallowed.stderr
    assert not (tmp_path / "job").exists()
    devices = launch("slurm", tiny(), "--gpus", 1, "--", "--device", "cuda", "--devices", 2)
    assert (devices.exit_code, "--devices: too few GPUs" in devices.stderr) == (2, True)
    for options in (["--shard", "1/2"], ["--jbos", "2"]):
        assert launch("slurm", tiny(), "--", *options).exit_code == 2


def test_code_that_was_edited_after_submission_is_not_run(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / "submitted_net.py"
    module.write_text("from tests.engine.mine import net\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    study = tiny(net={"name": "submitted_net:net"}, train={"epochs": 1}, run={"isolate": "none"})
    script = script_of(tmp_path, "slurm", study, "--gpus", 0, "--array", 1, "--", "--out", "out", "--allow-code")
    before = module.read_text()
    module.write_text(before + "# edited\n")
    printed = start(script, 1, tmp_path).communicate(timeout=300)[0]
    assert "--expect: trials, their code or initlab changed since submission" in printed
    assert not (tmp_path / "out").exists()
    module.write_text(before)
    assert "all 1 trials done" in start(script, 1, tmp_path).communicate(timeout=300)[0]
    module.write_text(before + "# edited\n")
    assert launch("slurm", study, "--gpus", 0, "--", "--out", "out", "--allow-code").exit_code == 0


def test_what_a_slurm_job_asks_for(tiny: Tiny, tmp_path: Path) -> None:
    options = [
        "--hours",
        36.5,
        "--partition",
        "gpu",
        "--memory",
        24,
        "--sbatch=--account=me",
        "--setup",
        "module load a",
    ]
    script = script_of(tmp_path, "slurm", tiny(train={"batch_size": 32}), *options, "--", "--devices", 2)
    asked = sbatch_options(script)
    assert asked | {"output": ""} == {
        **{"job-name": "tiny", "chdir": os.getcwd(), "time": "1-12:30:00", "cpus-per-task": "4", "gpus-per-node": "2"},
        **{"mem": "24G", "signal": "B:USR1@120", "requeue": "", "open-mode": "append", "array": "1", "output": ""},
        **{"partition": "gpu", "account": "me"},
    }
    text = script.read_text()
    assert "\nmodule load a\n" in text and "--jobs" not in text and "--devices 2" in text
    assert "sbatch" in text.splitlines()[1]
    image = script_of(tmp_path, "slurm", tiny(), "--image", "my image.sif", "--gpus", 1).read_text()
    assert f"apptainer exec --nv --bind {os.getcwd()} --pwd {os.getcwd()} 'my image.sif' initlab run" in image
    nodes = script_of(tmp_path, "slurm", tiny(), "--nodes", 3, "--gpus", 8, "--cpus", 64).read_text()
    assert "#SBATCH --nodes=3\n#SBATCH --ntasks-per-node=1\n" in nodes
    ray = f'{Path(sys.executable).with_name("ray")} symmetric-run --address "$ip:6379" --min-nodes 3'
    assert f"srun {ray} --num-cpus 64 --num-gpus 8 -- {sys.executable} -m initlab run" in nodes
    assert "--engine ray --address auto" in nodes and "--shard" not in nodes
    assert "\nexport RAY_AUTH_TOKEN RAY_AUTH_MODE=token\n" in nodes
    assert launch("slurm", tiny(), "--nodes", 2, "--array", 2).exit_code == 2


def test_the_head_of_several_nodes_is_found_by_an_address_that_the_others_reach(tiny: Tiny, tmp_path: Path) -> None:
    script = script_of(tmp_path, "slurm", tiny(), "--nodes", 2, "--gpus", 0).read_text()
    found = script.partition("head=")[2].partition("RAY_AUTH")[0]
    # As Debian names itself, and with an IPv6 address before the one of its network.
    says = {"--ip-address": "127.0.1.1 fe80::1", "--all-ip-addresses": "fd00::7 10.1.2.3 172.17.0.1 "}
    stand_ins = {
        "scontrol": 'printf "n1\\nn2\\n"',
        "srun": 'shift 2; test "$1" = --nodelist=n1 && shift && "$@"',
        "hostname": " ".join(f"case $1 in {option}) echo '{text}';; esac;" for option, text in says.items()),
    }
    (tmp_path / "bin").mkdir()
    for name, line in stand_ins.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "SLURM_JOB_NODELIST": "n[1-2]"}
    told = subprocess.run(["bash", "-c", f'head={found}\necho "$ip"'], env=environment, capture_output=True, text=True)
    assert (told.stdout, told.stderr) == ("10.1.2.3\n", "")


def test_a_rayjob_has_the_fields_that_kuberay_reads(tiny: Tiny) -> None:
    study = tiny(name="My_study.2", grid={"seed": [0, 1]})
    options = [
        "--image",
        "reg/initlab:1",
        "--nodes",
        3,
        "--gpus",
        2,
        "--memory",
        64,
        "--hours",
        2,
        "--namespace",
        "lab",
    ]
    printed = launch("kuberay", study, *options, "--claim", "disk", "--", "--set", "train.lr=0.02")
    assert printed.stderr == "kubectl apply -f FILE submits 2 trials in 3 pods\n"
    config, job = yaml.safe_load_all(printed.stdout)
    assert config["data"]["study.yaml"] == study.read_text()
    assert (config["kind"], config["metadata"]) == ("ConfigMap", {"name": "my-study-2", "namespace": "lab"})
    assert (job["apiVersion"], job["kind"], job["metadata"]) == ("ray.io/v1", "RayJob", config["metadata"])
    spec: dict[str, Any] = job["spec"]
    words = shlex.split(spec.pop("entrypoint"))
    assert words[:5] == ["initlab", "run", "/etc/initlab/study.yaml", "--set", "train.lr=0.02"]
    assert words[-2:] == ["--out", "/mnt/initlab/My_study.2"] and "--expect" in words
    cluster = spec.pop("rayClusterSpec")
    assert spec == {**{"activeDeadlineSeconds": 7200, "backoffLimit": 2, "shutdownAfterJobFinishes": True},
                    "ttlSecondsAfterFinished": 600}  # fmt: skip
    (workers,) = cluster["workerGroupSpecs"]
    assert (workers["replicas"], workers["minReplicas"], workers["maxReplicas"]) == (3, 3, 3)
    assert cluster["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"} and workers["rayStartParams"] == {}
    for group in (cluster["headGroupSpec"], workers):
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        assert container["image"] == "reg/initlab:1"
        assert {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]} == {
            "study": "/etc/initlab",
            "results": "/mnt/initlab",
        }
        assert {volume["name"] for volume in pod["volumes"]} == {"study", "results"}
    limits = workers["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert limits == {"cpu": "4", "memory": "64Gi", "nvidia.com/gpu": "2"}


def test_a_ray_job_takes_a_copy_of_the_working_folder_along(tiny: Tiny, tmp_path: Path) -> None:
    script = script_of(tmp_path, "ray-job", tiny(), "--address", "http://head:8265").read_text()
    submit, run_ = script.split(" -- \\\n")
    assert f"ray job submit --address http://head:8265 --working-dir {os.getcwd()} --runtime-env-json" in submit
    assert '"excludes": ["/results/"' in submit
    assert run_.split()[:4] == ["python", "-m", "initlab", "run"]
    assert run_.split()[-2:] == ["--out", f"{os.getcwd()}/results/tiny"]


def test_how_numbers_times_and_names_are_written() -> None:
    assert [ranges(numbers) for numbers in ([4], [1, 2, 3, 7], [1, 3, 4])] == ["4", "1-3,7", "1,3-4"]
    assert [clock(hours) for hours in (0.02, 1, 36.5)] == ["0-00:01:00", "0-01:00:00", "1-12:30:00"]
    assert [resource_name(name) for name in ("demo", "My_study.2", "A" * 60)] == ["demo", "my-study-2", "a" * 47]
