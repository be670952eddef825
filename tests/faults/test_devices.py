"""Errors of a GPU are no fault of the videos. They are injected, so no GPU is needed."""

from pathlib import Path

import pytest

from fer_batch.run.verify import verify_run
from tests.faults.conftest import MarkedProcesses, analyze_command, list_bundle_stats, start_cluster
from tests.integration.test_analyze import assert_same_run

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]


def test_run_ends_where_every_node_is_broken(clips: Path, undisturbed: Path, tmp_path: Path) -> None:
    """Each process can start its networks, but not use them; the same command completes the run later."""
    out, run = tmp_path / "out", MarkedProcesses()
    ended = run.run(analyze_command(clips, out), "recognize.faces:1:CUDA")
    assert ended.returncode == 2, ended.stderr
    assert "Traceback" not in ended.stderr
    last = ended.stderr.strip().split("\n")[-1]
    assert last.startswith("fer-batch analyze: No node can run the networks")
    assert "CUDA error" in last
    assert not list_bundle_stats(out)
    ended = run.run(analyze_command(clips, out))
    assert ended.returncode == 0, ended.stderr
    assert_same_run(out, undisturbed)
    assert verify_run(out) == []
    assert not (out / "results" / ".attempts").exists()


def test_broken_node_is_left_out(clips: Path, undisturbed: Path, tmp_path: Path) -> None:
    """No process of the second node can run its networks."""
    out = tmp_path / "out"
    with start_cluster(1, "1=faces.check:1:CUDA") as (nodes, address, _):
        ended = MarkedProcesses(nodes.environment).run(analyze_command(clips, out, address))
    assert ended.returncode == 0, ended.stderr
    assert "is left out: RuntimeError: CUDA error" in ended.stderr
    assert_same_run(out, undisturbed)
