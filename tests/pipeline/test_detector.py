"""Detectors on a cluster whose nodes have CPUs, GPUs, or both."""

from collections.abc import Iterator

import pytest
import ray
from PIL import Image
from ray.cluster_utils import Cluster
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from fer_batch.pipeline.detector import Detectors, choose_detector, run_detectors
from fer_batch.pipeline.offload import decode_boxes, encode_views
from fer_batch.pipeline.placement import list_nodes, plan_placement
from fer_batch.video.planes import Picture
from fer_batch.vision.views import SearchView
from tests.training.examples import connect_cluster


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A node with CPUs alone, one with two GPUs as well, and one with a GPU alone."""
    with connect_cluster(num_cpus=1) as cluster:
        cluster.add_node(num_cpus=1, num_gpus=2)
        cluster.add_node(num_cpus=0, num_gpus=1)
        cluster.wait_for_nodes()
        yield cluster


def count_boxes(detectors: Detectors) -> int | None:
    """Return the boxes in a blank view by a detector of this node; None without one."""
    client = choose_detector(detectors)
    plane = Image.new("L", (40, 30), 128)
    picture = Picture(y=plane, u=plane.reduce(2), v=plane.reduce(2))
    view = SearchView(picture, 0, 0.0, 0.0, 1.0, 16.0, float("inf"))
    return None if client is None else len(decode_boxes(client.request(encode_views([view])))[0])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_only_workers_on_nodes_with_gpus_have_detectors(cluster: Cluster) -> None:
    nodes = list_nodes()
    place = plan_placement([node["Resources"] for node in nodes])
    with run_detectors(nodes, place.detectors_gpu) as detectors:
        assert [len(handles) for handles in detectors.values()] == [2]
        for node in nodes:
            own = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            task = ray.remote(num_cpus=0)(count_boxes).options(scheduling_strategy=own)
            has_both = node["Resources"].get("CPU", 0) and node["Resources"].get("GPU", 0)
            assert ray.get(task.remote(detectors)) == (0 if has_both else None)
    with run_detectors(nodes, 0.0) as detectors:
        assert not detectors
