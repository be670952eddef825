"""A cluster of three hosts, of which two are lost during a run."""

import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from fer_batch.config import AnalyzeConfig
from fer_batch.run.verify import verify_run
from tests.cluster.conftest import Host
from tests.faults.conftest import CHILD, list_bundle_stats, wait_for, write_clips
from tests.integration.test_analyze import analyze_in_process, assert_same_run

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]

CONFIG = AnalyzeConfig(fps=10.0, min_face=0.2, segment_s=2.0, bundle_s=2.0)
OPTIONS = ["--fps", "10", "--min-face", "0.2", "--segment", "2", "--bundle", "2"]


def test_submitted_job_survives_a_disconnected_and_a_killed_host(
    hosts: list[Host], sample_frames: list[np.ndarray], tmp_path: Path
) -> None:
    """Both hosts with workers are lost at once; one returns."""
    out, alone = tmp_path / "out", tmp_path / "alone"
    clips = write_clips(tmp_path / "clips", sample_frames, 12)
    analyze_in_process([str(clips)], alone, CONFIG)
    head, first, second = hosts
    head.start_ray("--head", "--port", "6379", "--num-cpus", "0", "--dashboard-host", head.address)
    worker = ["--address", f"{head.address}:6379", "--num-cpus", "1"]
    first.start_ray(*worker)
    second.start_ray(*worker)

    command = ["submit", "analyze", str(clips), "--out", str(out), *OPTIONS, "--submission-id", "hosts"]
    command += ["--address", f"http://{head.address}:8265"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    job = head.start("python", "-m", "fer_batch.cli.main", *command, **pipes)
    assert wait_for(lambda: all(host.processes(CHILD) for host in (first, second)), job), job.communicate()
    assert wait_for(lambda: len(list_bundle_stats(out)) >= 2, job), job.communicate()
    first.plug("down")
    second.kill()
    kept = list_bundle_stats(out)
    time.sleep(10)  # until the head notices the loss
    assert job.poll() is None
    second.start_ray(*worker)
    first.plug("up")  # the head considers it dead and ignores its results
    log, errors = job.communicate(timeout=240)
    assert job.returncode == 0, log + errors
    assert len(list_bundle_stats(out)) > len(kept)
    assert list_bundle_stats(out).items() >= kept.items(), "finished bundles were processed again"
    assert_same_run(out, alone)
    assert verify_run(out) == []
