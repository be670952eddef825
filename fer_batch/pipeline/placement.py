"""Where the stages of a run go: how many workers there are, and which share of a GPU each takes."""

import math
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

FACES_GB, RECOGNIZE_GB = 2.0, 3.0
"""Memory of a GPU that each worker takes, with what CUDA itself loads: worked out from their batches, with
room to spare, and not measured."""
GPU_GB = 16.0
"""Memory of a GPU where nothing says how much it has."""
ASK_S = 60.0
"""For so long nodes are asked for it."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Workers to begin with, and their shares of a GPU."""

    faces: int
    """That look for faces, each on a CPU; without `recognizers` they recognize as well."""
    faces_gpu: float
    recognizers: int
    recognize_gpu: float


def placement(nodes: Sequence[Mapping[str, float]], gpu_gb: float = GPU_GB) -> Placement:
    """What fits nodes with these logical resources ("CPU", "GPU"), of whose GPUs the smallest has `gpu_gb`.

    Without a GPU one stage does all on the CPUs. With any, faces are recognized on the GPUs. They are looked
    for there too where every node that has CPUs has a GPU, else on the CPUs of all nodes, so that none idles.
    """
    cpus = [int(node.get("CPU", 0)) for node in nodes]
    gpus = [int(node.get("GPU", 0)) for node in nodes]
    if not any(gpus):
        return Placement(faces=max(1, sum(cpus)), faces_gpu=0, recognizers=0, recognize_gpu=0)
    faces_gpu, recognize_gpu = _share(FACES_GB, gpu_gb), _share(RECOGNIZE_GB, gpu_gb)
    beside = math.floor((1 - recognize_gpu) / faces_gpu)
    pairs = list(zip(cpus, gpus, strict=True))
    if beside and all(gpu for cpu, gpu in pairs if cpu):
        faces = sum(min(cpu, beside * gpu) for cpu, gpu in pairs)
    else:
        faces, faces_gpu = sum(cpus), 0.0
    return Placement(
        faces=max(1, faces), faces_gpu=faces_gpu, recognizers=sum(gpus), recognize_gpu=recognize_gpu
    )


def _share(needed_gb: float, gpu_gb: float) -> float:
    """Of a GPU, at most all of it; Ray counts in ten thousandths."""
    return min(1.0, math.ceil(needed_gb / gpu_gb * 1000) / 1000)


def place() -> Placement:
    """That of the nodes which the Ray that is connected has now."""
    nodes = [node for node in ray.nodes() if node["Alive"]]
    with_gpu = [node["NodeID"] for node in nodes if node["Resources"].get("GPU", 0) >= 1]
    return placement([node["Resources"] for node in nodes], _smallest_gpu_gb(with_gpu))


def _smallest_gpu_gb(node_ids: Sequence[str]) -> float:
    """Memory of the smallest GPU of these nodes; GPU_GB where none says how much it has."""
    asked = [
        ray.remote(num_cpus=0, max_retries=0)(_gpus_gb)
        .options(scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False))
        .remote()
        for node_id in node_ids
    ]
    try:
        found: list[list[float]] = ray.get(asked, timeout=ASK_S)
    except (GetTimeoutError, RayError):  # a node that has just gone
        return GPU_GB
    return min((gb for each in found for gb in each), default=GPU_GB)


def _gpus_gb() -> list[float]:
    """Memory of the GPUs of this host that NVIDIA's driver knows."""
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=ASK_S / 2).stdout
        return [float(line) * 2**20 / 1e9 for line in said.splitlines()]
    except (OSError, ValueError, subprocess.SubprocessError):
        return []
