"""A KubeRay RayJob that runs a study on a Ray cluster of its own in Kubernetes, as YAML."""

import re
import shlex
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from initlab.launch.scripts import Job

STUDY_FILE = "/etc/initlab/study.yaml"  # in the pods: the study as it was when the job was written
BACKOFF_LIMIT = 2  # times that KubeRay begins anew, with a new cluster, where the job fails; trials go on
HEAD = {"cpu": "2", "memory": "8Gi"}  # of the pod that runs the launch itself and no trial


def kuberay(job: Job, nodes: int, claim: str, mount: str, namespace: str | None, study_text: str) -> str:
    """The study as a ConfigMap, and the RayJob that runs it.

    Args:
        nodes: pods that run trials, each with the CPUs, GPUs and memory of the job.
        claim: a PersistentVolumeClaim that all pods can write, mounted at `mount`, where the output folder lies.
    """
    name = resource_name(job.launch.study.name)
    metadata = {"name": name, **({"namespace": namespace} if namespace else {})}
    spec = {
        "entrypoint": shlex.join(job.command),
        "activeDeadlineSeconds": round(job.hours * 3600),
        "backoffLimit": BACKOFF_LIMIT,
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": 600,
        "rayClusterSpec": cluster(job, nodes, name, claim, mount),
    }
    config = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata,
        "data": {Path(STUDY_FILE).name: study_text},
    }
    rayjob = {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": metadata, "spec": spec}
    return f"""# {job.launch.study.name}, written by `initlab launch kuberay`. Submit it with: kubectl apply -f FILE
# Then: kubectl get rayjob {name}; kubectl delete -f FILE stops it, and kubectl apply -f FILE goes on.
{yaml.dump_all([config, rayjob], Dumper=Dumper, sort_keys=False, allow_unicode=True)}"""


def cluster(job: Job, nodes: int, config: str, claim: str, mount: str) -> dict[str, Any]:
    """A head and `nodes` workers, whose pods see the study in a ConfigMap and the volume of a claim."""
    worker = {"cpu": str(job.cpus), "memory": f"{job.memory or 16}Gi"}
    if job.gpus:
        worker["nvidia.com/gpu"] = str(job.gpus)
    volumes = [
        {"name": "study", "configMap": {"name": config}},
        {"name": "results", "persistentVolumeClaim": {"claimName": claim}},
    ]
    mounts = [{"name": "study", "mountPath": str(Path(STUDY_FILE).parent)}, {"name": "results", "mountPath": mount}]

    def pod(container: str, resources: dict[str, str]) -> dict[str, Any]:
        """A template of pods."""
        limits = {"limits": resources, "requests": resources}
        run = {"name": container, "image": job.image, "resources": limits, "volumeMounts": mounts}
        return {"spec": {"containers": [run], "volumes": volumes}}

    workers = {"groupName": "trials", "replicas": nodes, "minReplicas": nodes, "maxReplicas": nodes}
    return {
        "rayVersion": version("ray"),
        # No CPU of the head's is for trials.
        "headGroupSpec": {"rayStartParams": {"num-cpus": "0"}, "template": pod("ray-head", HEAD)},
        "workerGroupSpecs": [{**workers, "rayStartParams": {}, "template": pod("ray-worker", worker)}],
    }


class Dumper(yaml.SafeDumper):
    """YAML for people: what stands at several places is repeated, and text of several lines is a block."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write everything out."""
        return True

    def represent_text(self, text: str) -> yaml.Node:
        """A text."""
        return self.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


Dumper.add_representer(str, Dumper.represent_text)


def resource_name(study: str) -> str:
    """A study's name in KubeRay's 47 characters: `My_study.2` is `my-study-2`."""
    return re.sub(r"[^a-z0-9]+", "-", study.lower())[:47].strip("-") or "study"
