"""The CPUs and GPUs of training processes: how many each one gets, and waiting until the cluster has them.

A GPU is never replaced by a CPU: where a requested GPU is missing, or PyTorch cannot use it, the run ends.
"""

import math
import os
import platform
import socket
import time
from collections import Counter
from pathlib import Path
from typing import Literal

import ray
import torch
from ray.exceptions import GetTimeoutError
from ray.util import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from fer_batch.errors import ConfigError, ResourceError
from fer_batch.training.status import StatusCallback, StatusMessage

GpuCount = int | Literal["auto"]
"""Number of GPUs of a run. "auto" is the GPUs that the cluster has now."""
Resources = dict[str, float]
"""Ray resources of one process: "CPU", and "GPU" unless it is 0."""
NODES_TIMEOUT_S = 900.0
"""Time limit for an autoscaling cluster to start nodes, or for a busy cluster to have room."""
POLL_S = 2.0
RAY_STEPS = 10_000
"""Ray counts resources in steps of 1/10,000."""


def check_gpus(gpus: GpuCount) -> None:
    """Raise ConfigError unless `gpus` is "auto" or a whole number from 0."""
    if gpus != "auto" and (not isinstance(gpus, int) or gpus < 0):
        raise ConfigError(f"--gpus must be auto or a whole number from 0, got {gpus}")


def choose_gpu_share(gpus: GpuCount, workers: int, cluster: Resources) -> float:
    """Return the GPUs of each of `workers` training processes: 1, or 1/n where n processes share a GPU.

    `cluster` has the resources of the cluster now. Raises ConfigError for more GPUs than workers.
    """
    check_gpus(gpus)
    count = min(workers, int(cluster.get("GPU", 0))) if gpus == "auto" else gpus
    if count > workers:
        raise ConfigError(f"--gpus {count} are more than the workers: give --workers {count}, got {workers}")
    return int(RAY_STEPS / math.ceil(workers / count)) / RAY_STEPS if count else 0.0


def share_resources(
    cluster: Resources, threads: int, parallel: int | None, gpus: GpuCount = "auto"
) -> tuple[Resources, int]:
    """Return the Ray resources of each training, and the number of trainings that run at the same time.

    `cluster` has the resources of the cluster now. The number is `parallel`, or by default one for each GPU,
    or as many as the CPUs allow.
    """
    cpus = cluster.get("CPU", 1)
    total = cluster.get("GPU", 0) if gpus == "auto" else gpus
    parallel = parallel or max(1, int(total or cpus // threads))
    cpu = min(threads, int(RAY_STEPS * cpus / parallel) / RAY_STEPS)
    return {"CPU": cpu, **({"GPU": 1 / math.ceil(parallel / total)} if total else {})}, parallel


def count_required(gpus: GpuCount, parallel: int) -> int:
    """Return how many of `parallel` independent trainings must find room before the first one starts.

    GPUs that were asked for must all exist. Otherwise the trainings use what is free, one after another.
    """
    return 1 if gpus in ("auto", 0) else parallel


def wait_for_resources(
    resources: Resources, count: int, *, can_grow: bool, on_progress: StatusCallback
) -> list[str]:
    """Wait until the cluster has the `resources` of `count` processes at the same time; the request also
    makes an autoscaling cluster start nodes.

    Returns a description of the hardware of each process, for `summarize_hardware`. `can_grow` is whether
    nodes may join; without it, missing resources are an error at once. Raises ResourceError if they do not
    become free within `NODES_TIMEOUT_S`, or if PyTorch cannot use a GPU among them.
    """
    needed = format_processes(resources, count)
    total = ray.cluster_resources()
    lacks = any(total.get(name, 0) < value * count for name, value in resources.items())
    if lacks and not can_grow:
        has = _format_resources({name: total.get(name, 0) for name in resources})
        raise ResourceError(f"This machine does not have {needed}, only {has}; {_advise(resources)}")
    group = placement_group([dict(resources)] * count, strategy="PACK")
    try:
        deadline = time.monotonic() + NODES_TIMEOUT_S
        if not group.wait(POLL_S):
            on_progress(StatusMessage(f"waiting until the cluster has {needed} free …"))
            while not group.wait(POLL_S):
                if time.monotonic() > deadline:
                    raise ResourceError(
                        f"The cluster did not have {needed} free within {NODES_TIMEOUT_S:.0f} s; "
                        f"{_advise(resources)}"
                    )
        cpus, gpus = resources.get("CPU", 0), resources.get("GPU", 0)
        task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0)(describe_hardware)
        described = [
            task.options(scheduling_strategy=PlacementGroupSchedulingStrategy(group, bundle)).remote()
            for bundle in range(count)
        ]
        return list(ray.get(described, timeout=NODES_TIMEOUT_S))
    except GetTimeoutError as error:
        raise ResourceError(
            f"The cluster did not start {needed} within {NODES_TIMEOUT_S:.0f} s; run the same command again"
        ) from error
    finally:
        remove_placement_group(group)


def find_device() -> torch.device:
    """Return the GPU that Ray gave this process, or the CPU if it gave none.

    Raises ResourceError if PyTorch cannot use the GPU.
    """
    if not ray.get_gpu_ids():
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ResourceError(
            f"PyTorch cannot use the GPU that Ray has on {socket.gethostname()}: install NVIDIA's driver and "
            "a PyTorch with CUDA there, or train on CPUs with --gpus 0"
        )
    return torch.device("cuda", 0)


def describe_hardware() -> str:
    """Describe the GPU of this process, or else the CPUs of this machine, with the machine's name."""
    if ray.get_gpu_ids():
        return f"{socket.gethostname()}\n{torch.cuda.get_device_name(find_device())}"
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()  # ARM has no model name
    return f"{socket.gethostname()}\n{len(names) or os.cpu_count()} cores, {name}"


def summarize_hardware(described: list[str]) -> str:
    """Summarize the hardware of several processes as "2 × NVIDIA H100, …", without the machines' names.

    The CPUs of a machine count once, whatever the number of its processes.
    """
    processes = [text.split("\n") for text in described]
    cpus = {(host, text) for host, text in processes if " cores, " in text}
    units = [text for _, text in cpus] + [text for _, text in processes if " cores, " not in text]
    counts = sorted(Counter(units).items())
    return ", ".join(text if count == 1 else f"{count} × {text}" for text, count in counts)


def describe_device(resources: Resources) -> str:
    """Describe the device of a process with these resources."""
    gpu = resources.get("GPU", 0)
    return f"each with {gpu:.2g} GPU" if gpu else "on CPUs"


def format_processes(resources: Resources, count: int) -> str:
    """Describe the resources of `count` processes, as in "2 × (1 CPU and 1 GPU)"."""
    return f"{count} × ({_format_resources(resources)})"


def _format_resources(resources: Resources) -> str:
    return " and ".join(f"{value:g} {name}" for name, value in resources.items())


def _advise(resources: Resources) -> str:
    if resources.get("GPU"):
        return "give fewer --gpus, or --gpus 0 to train on CPUs"
    return "use fewer processes"
