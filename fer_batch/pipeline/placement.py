"""Decide where the stages run: the number of workers, and their shares of a GPU."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray

from fer_batch.pipeline.hardware import query_hardware

FACES_GB, RECOGNIZE_GB = 2.0, 3.0
"""GPU memory of a worker of each stage, with CUDA itself. Computed from their batches with a margin, not
measured."""
ASSUMED_GPU_GB = 16.0
"""Memory of a GPU whose size is unknown."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """The initial number of workers of each stage, and the share of a GPU of each worker."""

    faces: int
    """Workers that find faces, each on one CPU. Without `recognizers` they also recognize them."""
    faces_gpu: float
    recognizers: int
    recognizers_gpu: float


def list_nodes(broken: Collection[str] = ()) -> list[dict[str, Any]]:
    """List the nodes of the connected Ray that are alive, as `ray.nodes` does, without those in `broken`."""
    return [node for node in ray.nodes() if node["Alive"] and node["NodeID"] not in broken]


def place_stages(broken: Collection[str] = ()) -> Placement:
    """Place the stages on the nodes that the connected Ray has now, except the `broken` ones."""
    nodes = list_nodes(broken)
    hardware = query_hardware([node for node in nodes if node["Resources"].get("GPU", 0) >= 1])
    sizes_gb = [gpu.memory_gb for own in hardware for gpu in own.gpus]
    return plan_placement([node["Resources"] for node in nodes], min(sizes_gb, default=ASSUMED_GPU_GB))


def plan_placement(nodes: Sequence[Mapping[str, float]], gpu_gb: float = ASSUMED_GPU_GB) -> Placement:
    """Place the stages on nodes with these logical resources ("CPU", "GPU").

    `gpu_gb` is the memory of the smallest GPU. Without a GPU, one stage runs on all CPUs. With GPUs, they
    recognize the faces. They also find them if each node with CPUs has a GPU; otherwise all CPUs find faces,
    so that no node is idle.
    """
    cpus = [int(node.get("CPU", 0)) for node in nodes]
    gpus = [int(node.get("GPU", 0)) for node in nodes]
    if not any(gpus):
        return Placement(faces=max(1, sum(cpus)), faces_gpu=0, recognizers=0, recognizers_gpu=0)
    faces_gpu, recognizers_gpu = _gpu_share(FACES_GB, gpu_gb), _gpu_share(RECOGNIZE_GB, gpu_gb)
    faces_per_gpu = math.floor((1 - recognizers_gpu) / faces_gpu)
    pairs = list(zip(cpus, gpus, strict=True))
    if faces_per_gpu and all(gpu for cpu, gpu in pairs if cpu):
        faces = sum(min(cpu, faces_per_gpu * gpu) for cpu, gpu in pairs)
    else:
        faces, faces_gpu = sum(cpus), 0.0
    return Placement(
        faces=max(1, faces), faces_gpu=faces_gpu, recognizers=sum(gpus), recognizers_gpu=recognizers_gpu
    )


def _gpu_share(needed_gb: float, gpu_gb: float) -> float:
    """Return the share of a GPU, at most 1, rounded up because Ray counts in steps of 0.0001."""
    return min(1.0, math.ceil(needed_gb / gpu_gb * 1000) / 1000)
