"""Ask the nodes of a cluster for their CPUs and GPUs, and choose the precision of a run."""

import logging
import math
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fer_batch.config import PrecisionName
from fer_batch.errors import ConfigError
from fer_batch.model.precision import FASTEST_PRECISIONS, MIN_CAPABILITY, has_cpu_precision, read_cpu_flags

QUERY_TIMEOUT_S = 60.0
"""Time limit for asking the nodes."""


logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU as NVIDIA's driver describes it."""

    memory_gb: float
    capability: float
    """Compute capability, such as 8.0."""


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """The CPU and the GPUs of a node. By default nothing is known of them."""

    cpu_flags: frozenset[str] | None = None
    """Those flags that `precision.CPU_FLAGS` names; None if they are not known."""
    gpus: tuple[Gpu, ...] = ()


def query_hardware(nodes: Sequence[Mapping[str, Any]]) -> list[Hardware]:
    """Return the hardware of these nodes, rows of `ray.nodes()`.

    Nothing is known of nodes that do not answer; one warning in the log names them.
    """
    import ray  # a run without Ray uses the rest of this module
    from ray.exceptions import GetTimeoutError, RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

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
    silent: list[str] = []
    for node in nodes:
        task = tasks.get(node["NodeID"])
        try:
            answers.append(read_hardware() if task is None else ray.get(task, timeout=0))
        except (GetTimeoutError, RayError):  # the node may have left
            answers.append(Hardware())
            silent.append(str(node["NodeManagerAddress"]))
    if silent:
        logger.warning("no answer about the CPUs and GPUs of these nodes: %s", ", ".join(silent))
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


def choose_run_precision(
    nodes: Sequence[Mapping[str, Any]], hardware: Sequence[Hardware], has_int8: bool = True
) -> PrecisionName:
    """Return the first of `FASTEST_PRECISIONS` that all nodes are known to have in hardware, else "fp32".

    While there is only a head without CPUs, which workers join later, return "fp32". `has_int8` is the result
    of `network_has_int8`.
    """
    if not any(node["Resources"].get(kind, 0) for node in nodes for kind in ("CPU", "GPU")):
        return "fp32"
    usable = FASTEST_PRECISIONS if has_int8 else FASTEST_PRECISIONS[1:]
    shared = (n for n in usable if not _find_lacking_node(n, nodes, hardware, unknown_lacks=True))
    return next(shared, "fp32")


def check_run_precision(
    precision: str, nodes: Sequence[Mapping[str, Any]], hardware: Sequence[Hardware]
) -> None:
    """Raise ConfigError if a node does not compute in a precision; hardware that is not known passes."""
    if node := _find_lacking_node(precision, nodes, hardware, unknown_lacks=False):
        raise ConfigError(
            f"The node {node} does not compute in {precision} (--precision): give fp32 or auto, or use other "
            "nodes"
        )


def check_continued_precision(
    precision: str, nodes: Sequence[Mapping[str, Any]], hardware: Sequence[Hardware]
) -> None:
    """Raise ConfigError if no node computes in the precision of a run that is continued.

    Hardware that is not known passes.
    """
    working = [
        (node, own)
        for node, own in zip(nodes, hardware, strict=True)
        if any(node["Resources"].get(kind, 0) for kind in ("CPU", "GPU"))
    ]
    if working and all(
        _find_lacking_node(precision, [node], [own], unknown_lacks=False) for node, own in working
    ):
        raise ConfigError(
            f"The run recognizes faces in {precision}, and no node computes in it: continue the run on other "
            "nodes, or start again with --overwrite"
        )


def _find_lacking_node(
    precision: str, nodes: Sequence[Mapping[str, Any]], hardware: Sequence[Hardware], unknown_lacks: bool
) -> str | None:
    """Return the address of the first node that cannot recognize faces in a precision; None if all can.

    The CPUs do not matter where each node with CPUs has a GPU, because then only GPUs recognize faces.
    `unknown_lacks` tells whether CPUs and GPUs of which nothing is known count as lacking it.
    """
    counts = [(node["Resources"].get("CPU", 0), node["Resources"].get("GPU", 0)) for node in nodes]
    only_gpus = all(gpus >= 1 for cpus, gpus in counts if cpus)
    for node, (cpus, gpus), own in zip(nodes, counts, hardware, strict=True):
        has_cpu = not unknown_lacks if own.cpu_flags is None else has_cpu_precision(precision, own.cpu_flags)
        unknown_capability = 0.0 if unknown_lacks else math.inf
        capability = min((gpu.capability for gpu in own.gpus), default=unknown_capability)
        if (cpus and not only_gpus and not has_cpu) or (gpus >= 1 and capability < MIN_CAPABILITY[precision]):
            return str(node["NodeManagerAddress"])
    return None
