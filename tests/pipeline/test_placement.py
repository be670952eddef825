"""Placement of the stages by the resources of the nodes and the rate of their GPUs."""

import pytest

from fer_batch.pipeline.placement import ASSUMED_GPU_GB, FOUND_PER_S, Placement, plan_placement

CPU_NODE, GPU_NODE, HEAD = {"CPU": 8.0}, {"CPU": 8.0, "GPU": 1.0}, {"memory": 8e9}
FAST = 20_000.0


@pytest.mark.parametrize(
    ("nodes", "analyzers", "faces", "has_detectors", "recognizers"),
    [
        pytest.param([], 1, 0, False, 0, id="none yet"),
        pytest.param([HEAD], 1, 0, False, 0, id="a head without CPUs"),
        pytest.param([{"CPU": 1.0}], 1, 0, False, 0, id="one core"),
        pytest.param([{"CPU": 2.0, "GPU": 1.0}], 0, 2, True, 1, id="a laptop with a GPU"),
        pytest.param([HEAD, *[CPU_NODE] * 3], 24, 0, False, 0, id="CPU nodes"),
        pytest.param([HEAD, GPU_NODE, GPU_NODE], 0, 16, True, 1, id="GPU nodes: a detector on each GPU"),
        pytest.param([HEAD, *[CPU_NODE] * 3, GPU_NODE], 0, 32, True, 1, id="both: one GPU is enough"),
        pytest.param([*[CPU_NODE] * 100, GPU_NODE], 558, 250, True, 1, id="both: one GPU is too slow"),
        pytest.param([*[CPU_NODE] * 50, *[GPU_NODE] * 4], 0, 432, True, 2, id="both: two of four GPUs"),
        pytest.param([{"CPU": 8.0}, {"GPU": 1.0}], 0, 8, False, 1, id="a GPU on a node without CPUs"),
        pytest.param([{"CPU": 96.0, "GPU": 8.0}], 0, 96, True, 1, id="many GPUs in one node"),
    ],
)
def test_placement_by_nodes(
    nodes: list[dict[str, float]], analyzers: int, faces: int, has_detectors: bool, recognizers: int
) -> None:
    placement = plan_placement(nodes, recognized_per_s=FAST)
    assert (placement.analyzers, placement.faces) == (analyzers, faces)
    assert (placement.detectors_gpu > 0, placement.recognizers) == (has_detectors, recognizers)
    assert (placement.recognizers_gpu > 0) == (recognizers > 0)
    assert placement.gpu_share == pytest.approx(1 if not analyzers else 0 if not faces else 0.358, abs=0.001)


@pytest.mark.parametrize("rate", [10.0, 100.0, 1000.0, 100_000.0])
def test_recognizers_are_as_fast_as_the_workers_that_need_them(rate: float) -> None:
    nodes = [*[CPU_NODE] * 20, {"GPU": 4.0}]
    placement = plan_placement(nodes, recognized_per_s=rate)
    assert placement.faces + placement.analyzers == 160
    assert placement.recognizers * rate >= (placement.faces - 1) * FOUND_PER_S
    assert placement.recognizers == 1 or (placement.recognizers - 1) * rate < placement.faces * FOUND_PER_S
    assert (placement.gpu_share < 1) == (placement.analyzers > 0)


def test_share_of_the_gpus_follows_the_speed_of_the_workers() -> None:
    """A worker that also recognizes is slower, so its part of the work is smaller."""
    place = Placement(analyzers=10, faces=10, detectors_gpu=0, recognizers=1, recognizers_gpu=0.5)
    assert 0.5 < place.gpu_share < 0.6


@pytest.mark.parametrize(
    ("gpu_gb", "has_detectors"),
    [
        pytest.param(2.0, False, id="too small for a model"),
        pytest.param(4.0, False, id="for recognition alone"),
        pytest.param(8.0, True, id="for both"),
        pytest.param(ASSUMED_GPU_GB, True, id="unknown memory"),
        pytest.param(80.0, True, id="80 GB"),
    ],
)
def test_gpu_shares_by_memory(gpu_gb: float, has_detectors: bool) -> None:
    placement = plan_placement([{"CPU": 64.0, "GPU": 1.0}], gpu_gb)
    assert placement.faces == 64
    assert (placement.detectors_gpu > 0.5) == has_detectors
    assert has_detectors or not placement.detectors_gpu
    assert placement.detectors_gpu + placement.recognizers_gpu <= 1
