"""Tracks are grouped on all nodes of a cluster, into the same persons as on one machine."""

import shutil
import subprocess
import time
from pathlib import Path

import pytest

from fer_batch.pipeline.people import group_people
from fer_batch.run.people import read_person_groups
from tests.cluster.conftest import Host
from tests.edited import write_edited_video
from tests.faults.conftest import CHILD
from tests.pipeline.test_people import add_to_run

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(500)]

SHOTS = ((0, 1, 0), (1, 0), (0, 1, 0), (1, 0))
SCRIPT = """
import sys
from fer_batch.pipeline import people
people.VIDEOS_PER_TASK = 1  # few videos would be one task, which needs one node
people.group_people(sys.argv[1], address=sys.argv[2])
"""


def test_two_nodes_find_the_persons_that_one_process_finds(hosts: list[Host], tmp_path: Path) -> None:
    pytest.importorskip("dlib")
    head, first, second = hosts
    out, reference = tmp_path / "out", tmp_path / "reference"
    add_to_run(out, *[write_edited_video(tmp_path / f"{n}.mp4", shots) for n, shots in enumerate(SHOTS)])
    shutil.copytree(out, reference)
    group_people(reference)
    head.start_ray("--head", "--port", "6379", "--num-cpus", "0")
    address = f"{head.address}:6379"
    for worker in (first, second):
        worker.start_ray("--address", address, "--num-cpus", "1")
    run = head.start("python", "-c", SCRIPT, str(out), address, stderr=subprocess.PIPE)
    used = set()
    while run.poll() is None:
        used |= {host.name for host in hosts if host.processes(CHILD)}
        time.sleep(0.05)
    assert run.returncode == 0, run.communicate()[1]
    assert used == {first.name, second.name}
    keys = [("video_id", "ascending"), ("track_id", "ascending")]
    groups = read_person_groups(out).sort_by(keys)
    assert groups.equals(read_person_groups(reference).sort_by(keys))
    assert set(groups.column("number").to_pylist()) == {1, 2}
