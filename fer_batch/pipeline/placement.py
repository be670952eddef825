"""Decide where the stages run: the number of workers, and their shares of a GPU."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray

from fer_batch.pipeline.hardware import Hardware, query_hardware

DETECT_GB, RECOGNIZE_GB = 5.0, 3.0
"""GPU memory of a detector and of a worker that recognizes, with CUDA itself. Computed from their batches
with a margin, not measured."""
MIN_DETECTOR_GPU = 0.51
"""Least share of a GPU that a detector reserves: with more than half, Ray puts only one on each GPU."""
ASSUMED_GPU_GB = 16.0
"""Memory of a GPU whose size is unknown."""
FOUND_PER_S = 80.0
"""Faces that a worker on one CPU finds per second. Measured at 5 sampled frames per second: 86 in videos of
360p with one face, 77 in videos of 1080p with two."""
RECOGNIZED_PER_S = {"cpu": 330.0, "gpu": 2000.0}
"""Faces that a worker recognizes per second: measured in bf16 on a CPU without AMX, and a careful assumption
for a GPU whose rate is not measured."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """The initial number of workers of each kind, and the share of a GPU of each worker."""

    analyzers: int
    """Workers that find and recognize faces, each on one CPU."""
    faces: int
    """Workers that only find faces, each on one CPU."""
    detectors_gpu: float
    """Share of a GPU of the detector on each GPU of a node with CPUs, whose workers use it; 0 without
    detectors."""
    recognizers: int
    """Workers that recognize the faces of these others, each with a share of a GPU."""
    recognizers_gpu: float

    @property
    def gpu_share(self) -> float:
        """Share of the video whose faces the GPUs recognize."""
        relative_speed = 1 / (1 + FOUND_PER_S / RECOGNIZED_PER_S["cpu"])  # of a worker that also recognizes
        return self.faces / (self.faces + relative_speed * self.analyzers)


def list_nodes(broken: Collection[str] = ()) -> list[dict[str, Any]]:
    """List the nodes of the connected Ray that are alive, as `ray.nodes` does, without those in `broken`."""
    return [node for node in ray.nodes() if node["Alive"] and node["NodeID"] not in broken]


def query_nodes() -> tuple[list[dict[str, Any]], list[Hardware]]:
    """Return the nodes of `list_nodes` and the hardware of each."""
    nodes = list_nodes()
    return nodes, query_hardware(nodes)


def read_gpu_gb(nodes: Sequence[Mapping[str, Any]]) -> float:
    """Read the memory of the smallest GPU of these nodes of `list_nodes`, ASSUMED_GPU_GB if none is known."""
    hardware = query_hardware([node for node in nodes if node["Resources"].get("GPU", 0) >= 1])
    return min((gpu.memory_gb for own in hardware for gpu in own.gpus), default=ASSUMED_GPU_GB)


def plan_placement(
    nodes: Sequence[Mapping[str, float]],
    gpu_gb: float = ASSUMED_GPU_GB,
    recognized_per_s: float = RECOGNIZED_PER_S["gpu"],
) -> Placement:
    """Place the stages on nodes with these logical resources ("CPU", "GPU").

    `gpu_gb` is the memory of the smallest GPU, and `recognized_per_s` the faces that a worker on a GPU
    recognizes per second. Without a GPU, each CPU finds and recognizes faces. With GPUs, as many of them
    recognize faces as the CPUs need, and those CPUs for which the GPUs are too slow recognize them as well.
    Each GPU of a node with CPUs also runs a detector for the workers of that node. Workers on other nodes
    find faces alone, so no picture crosses the network.
    """
    cpus = [int(node.get("CPU", 0)) for node in nodes]
    gpus = [int(node.get("GPU", 0)) for node in nodes]
    if not any(gpus):
        return Placement(
            analyzers=max(1, sum(cpus)), faces=0, detectors_gpu=0, recognizers=0, recognizers_gpu=0
        )
    recognizers_gpu = _gpu_share(RECOGNIZE_GB, gpu_gb)
    detectors_gpu = max(MIN_DETECTOR_GPU, _gpu_share(DETECT_GB, gpu_gb))
    have_gpus = all(gpu for cpu, gpu in zip(cpus, gpus, strict=True) if cpu)
    has_place = any(cpu and gpu for cpu, gpu in zip(cpus, gpus, strict=True))
    if not has_place or detectors_gpu + recognizers_gpu > 1:
        detectors_gpu = 0.0
    faces = max(1, sum(cpus))
    analyzers = 0
    if not have_gpus:
        served = max(1, math.floor(sum(gpus) * recognized_per_s / FOUND_PER_S))
        faces, analyzers = min(faces, served), max(0, faces - served)
    return Placement(
        analyzers=analyzers,
        faces=faces,
        detectors_gpu=detectors_gpu,
        recognizers=min(sum(gpus), math.ceil(faces * FOUND_PER_S / recognized_per_s)),
        recognizers_gpu=recognizers_gpu,
    )


def _gpu_share(needed_gb: float, gpu_gb: float) -> float:
    """Return the share of a GPU, at most 1, rounded up because Ray counts in steps of 0.0001."""
    return min(1.0, math.ceil(needed_gb / gpu_gb * 1000) / 1000)
