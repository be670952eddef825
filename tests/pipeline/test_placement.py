"""Placement of the stages by the resources of the nodes."""

import pytest

from fer_batch.pipeline.placement import ASSUMED_GPU_GB, plan_placement

CPU_NODE, GPU_NODE, HEAD = {"CPU": 8.0}, {"CPU": 8.0, "GPU": 1.0}, {"memory": 8e9}


@pytest.mark.parametrize(
    ("nodes", "faces", "on_gpus", "recognizers"),
    [
        pytest.param([], 1, False, 0, id="none yet"),
        pytest.param([HEAD], 1, False, 0, id="a head without CPUs"),
        pytest.param([{"CPU": 1.0}], 1, False, 0, id="one core"),
        pytest.param([{"CPU": 2.0, "GPU": 1.0}], 2, True, 1, id="a laptop with a GPU"),
        pytest.param([HEAD, *[CPU_NODE] * 3], 24, False, 0, id="CPU nodes"),
        pytest.param([HEAD, GPU_NODE, GPU_NODE], 12, True, 2, id="GPU nodes: six workers share one"),
        pytest.param([HEAD, *[CPU_NODE] * 3, GPU_NODE], 32, False, 1, id="both: faces on all CPUs"),
        pytest.param([{"CPU": 8.0}, {"GPU": 1.0}], 8, False, 1, id="a GPU on a node without CPUs"),
        pytest.param([{"CPU": 96.0, "GPU": 8.0}], 48, True, 8, id="many GPUs in one node"),
    ],
)
def test_placement_by_nodes(
    nodes: list[dict[str, float]], faces: int, on_gpus: bool, recognizers: int
) -> None:
    placement = plan_placement(nodes)
    assert (placement.faces, placement.faces_gpu > 0, placement.recognizers) == (faces, on_gpus, recognizers)
    assert (placement.recognizers_gpu > 0) == (recognizers > 0)


@pytest.mark.parametrize(
    ("gpu_gb", "faces"),
    [
        pytest.param(2.0, 0, id="too small for a model"),
        pytest.param(4.0, 0, id="for recognition alone"),
        pytest.param(ASSUMED_GPU_GB, 6, id="unknown memory"),
        pytest.param(24.0, 10, id="24 GB"),
        pytest.param(80.0, 38, id="80 GB"),
    ],
)
def test_gpu_shares_by_memory(gpu_gb: float, faces: int) -> None:
    placement = plan_placement([{"CPU": 64.0, "GPU": 1.0}], gpu_gb)
    assert placement.faces == (faces or 64)
    assert (placement.faces_gpu > 0) == (faces > 0)
    assert faces * placement.faces_gpu + placement.recognizers_gpu <= 1
    assert placement.recognizers_gpu <= 1
