"""A run uses all nodes of a cluster, also those that join later."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID, FakeMultiNodeProvider

from fer_batch.run.verify import verify_run
from tests.cluster.conftest import Host, Started
from tests.faults.conftest import CHILD, list_bundle_stats, wait_for, write_clips

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]

CLIPS = 32
SLOW = ["--fps", "25", "--detect-every", "0.04", "--segment", "2", "--bundle", "2"]
"""Options for which a clip takes seconds, so that work is left when nodes join."""
RECOGNIZES = "ray::MapWorker(MapBatches(RecognizeWorker))"
AUTOSCALER = {
    "RAY_FAKE_CLUSTER": "1",
    "RAY_enable_autoscaler_v2": "1",
    "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
    "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
    "AUTOSCALER_UPDATE_INTERVAL_S": "1",
}
EAGER = {"RAY_DATA_MIN_GAP_BETWEEN_AUTOSCALING_REQUESTS": "1"}
"""Let Ray Data request nodes every second instead of every ten."""


def analyze(head: Host, frames: list[np.ndarray], folder: Path, count: int = CLIPS) -> Started:
    clips = write_clips(folder / "clips", frames, count, film_s=0)
    command = [
        "analyze",
        str(clips),
        "--out",
        str(folder / "out"),
        *SLOW,
        "--address",
        f"{head.address}:6379",
    ]
    return head.start("python", "-m", "fer_batch.cli.main", *command, more=EAGER, stderr=subprocess.PIPE)


def check_end(run: Started, out: Path, count: int = CLIPS) -> None:
    """Wait for the end of a run, and check that it is complete."""
    _, errors = run.communicate(timeout=240)
    assert run.returncode == 0, errors
    assert len(list_bundle_stats(out)) == count
    assert verify_run(out) == []


def test_joining_node_gets_work_and_all_cpus_find_faces_for_one_gpu(
    hosts: list[Host], sample_frames: list[np.ndarray], tmp_path: Path
) -> None:
    head, first, second = hosts
    worker = ["--address", f"{head.address}:6379", "--num-cpus", "1"]
    head.start_ray("--head", "--port", "6379", "--num-cpus", "0", "--num-gpus", "1")
    first.start_ray(*worker)
    run = analyze(head, sample_frames, tmp_path)
    assert wait_for(lambda: len(list_bundle_stats(tmp_path / "out")) >= 1, run), run.communicate()
    assert first.processes(CHILD)
    assert head.processes(RECOGNIZES)
    assert not first.processes(RECOGNIZES)
    second.start_ray(*worker)
    assert wait_for(lambda: bool(second.processes(CHILD)), run), run.communicate()
    check_end(run, tmp_path / "out")


def test_cluster_grows_from_no_node_to_its_maximum(
    hosts: list[Host], sample_frames: list[np.ndarray], tmp_path: Path
) -> None:
    """Ray's autoscaler with nodes that are processes."""
    head = hosts[0]
    nodes = {
        "ray.head.default": {"resources": {}, "node_config": {}, "max_workers": 0},
        "cpu": {"resources": {"CPU": 1, "object_store_memory": 10**8}, "node_config": {}, "max_workers": 2},
    }
    provider = {
        "type": "external",
        "module": f"{FakeMultiNodeProvider.__module__}.{FakeMultiNodeProvider.__name__}",
        "gcs_address": f"{head.address}:6379",
        "head_node_id": FAKE_HEAD_NODE_ID,
        "launch_multiple": True,
    }
    lists = ["initialization_commands", "rsync_exclude", "rsync_filter", "cluster_synced_files"]
    lists += [f"{name}setup_commands" for name in ("", "head_", "worker_")]
    lists += [f"{name}_start_ray_commands" for name in ("head", "worker")]
    config = {name: [] for name in lists} | {
        "cluster_name": "grows",
        "max_workers": 2,
        "provider": provider,
        "available_node_types": nodes,
        "head_node_type": "ray.head.default",
        "idle_timeout_minutes": 1,
        "auth": {},
        "docker": {},
        "file_mounts": {},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    options = ["--port", "6379", "--num-cpus", "0", "--autoscaling-config", str(tmp_path / "config.json")]
    head.start_ray("--head", *options, more=AUTOSCALER)
    # Ray requests a second node when it knows the speed of the first.
    run = analyze(head, sample_frames, tmp_path, 2 * CLIPS)
    assert wait_for(lambda: len(head.processes(CHILD)) == 2, run), run.communicate()
    check_end(run, tmp_path / "out", 2 * CLIPS)
