"""Ask the nodes of a cluster for their CPUs and GPUs, and choose the precision of a run."""

import math
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from fer_batch.config import PrecisionName
from fer_batch.errors import ConfigError
from fer_batch.model.precision import MIN_CAPABILITY, has_cpu_precision, read_cpu_flags

QUERY_TIMEOUT_S = 60.0
"""Time limit for asking the nodes."""


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU as NVIDIA's driver describes it."""

    memory_gb: float
    capability: float
    """Compute capability, such as 8.0."""


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """The CPU and the GPUs of a node. A node that does not answer has no flags and no known GPU."""

    cpu_flags: frozenset[str] = frozenset()
    """Those flags that `precision.CPU_FLAGS` names."""
    gpus: tuple[Gpu, ...] = ()


def query_hardware(nodes: Sequence[Mapping[str, Any]]) -> list[Hardware]:
    """Return the hardware of these nodes, rows of `ray.nodes()`."""
    own_id = ray.get_runtime_context().get_node_id()
    tasks = {
        node["NodeID"]: ray.remote(num_cpus=0, max_retries=0)(read_hardware)
        .options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False))
        .remote()
        for node in nodes
        if node["NodeID"] != own_id
    }
    if tasks:
        ray.wait([*tasks.values()], num_returns=len(tasks), timeout=QUERY_TIMEOUT_S)
    answers: list[Hardware] = []
    for node in nodes:
        task = tasks.get(node["NodeID"])
        try:
            answers.append(read_hardware() if task is None else ray.get(task, timeout=0))
        except (GetTimeoutError, RayError):  # the node may have left
            answers.append(Hardware())
    return answers


def read_hardware() -> Hardware:
    """Read the hardware of this node."""
    command = ["nvidia-smi", "--query-gpu=memory.total,compute_cap", "--format=csv,noheader,nounits"]
    gpus: tuple[Gpu, ...] = ()
    try:
        ended = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=QUERY_TIMEOUT_S / 2
        )
        rows = [line.split(",") for line in ended.stdout.splitlines()]
        gpus = tuple(Gpu(memory_gb=float(mib) * 2**20 / 1e9, capability=float(cap)) for mib, cap in rows)
    except (OSError, ValueError, subprocess.SubprocessError):
        pass
    return Hardware(cpu_flags=read_cpu_flags(), gpus=gpus)


def choose_run_precision(nodes: Sequence[Mapping[str, Any]], hardware: Sequence[Hardware]) -> PrecisionName:
    """Return "bf16" if there are nodes and all of them are known to have it in hardware, else "fp32"."""
    return "fp32" if not nodes or _find_lacking_node("bf16", nodes, hardware, 0.0) else "bf16"


def check_run_precision(
    precision: str, nodes: Sequence[Mapping[str, Any]], hardware: Sequence[Hardware]
) -> None:
    """Raise ConfigError if a node does not compute in a precision; GPUs of which nothing is known pass."""
    if node := _find_lacking_node(precision, nodes, hardware, math.inf):
        raise ConfigError(
            f"The node {node} does not compute in {precision} (--precision): give fp32 or auto, or use other "
            "nodes"
        )


def _find_lacking_node(
    precision: str, nodes: Sequence[Mapping[str, Any]], hardware: Sequence[Hardware], unknown: float
) -> str | None:
    """Return the address of the first node that cannot recognize faces in a precision; None if all can.

    The CPUs do not matter where each node with CPUs has a GPU, because then only GPUs recognize faces.
    `unknown` is the compute capability of GPUs of which nothing is known.
    """
    counts = [(node["Resources"].get("CPU", 0), node["Resources"].get("GPU", 0)) for node in nodes]
    only_gpus = all(gpus >= 1 for cpus, gpus in counts if cpus)
    for node, (cpus, gpus), own in zip(nodes, counts, hardware, strict=True):
        lacks_cpu = cpus and not only_gpus and not has_cpu_precision(precision, own.cpu_flags)
        capability = min((gpu.capability for gpu in own.gpus), default=unknown)
        if lacks_cpu or (gpus >= 1 and capability < MIN_CAPABILITY[precision]):
            return str(node["NodeManagerAddress"])
    return None
