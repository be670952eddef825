"""The loss of a node during a run costs only the work in progress on that node."""

import subprocess
import time
from pathlib import Path

import pytest

from fer_batch.run.verify import verify_run
from tests.faults.conftest import (
    CHILD,
    MarkedProcesses,
    analyze_command,
    kill,
    list_bundle_stats,
    start_cluster,
    wait_for,
)
from tests.integration.test_analyze import assert_same_run

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]


def test_run_continues_after_loss_of_a_node(clips: Path, undisturbed: Path, tmp_path: Path) -> None:
    """Each worker has its own node; killing the second raylet kills everything on its node."""
    out = tmp_path / "out"
    with start_cluster(1, 1) as (nodes, address, raylets):
        driver = MarkedProcesses(nodes.environment).start(
            ["-m", "fer_batch.cli.main", *analyze_command(clips, out, address)], stderr=subprocess.PIPE
        )
        assert wait_for(lambda: len(nodes.processes(CHILD)) == 2, driver), driver.communicate()[1]
        time.sleep(2)
        assert kill(raylets[1])
        kept = list_bundle_stats(out)
        assert driver.poll() is None
        _, stderr = driver.communicate()
        assert driver.returncode == 0, stderr
    assert list_bundle_stats(out).items() >= kept.items(), (
        "a bundle finished before the loss was processed again"
    )
    assert_same_run(out, undisturbed)
    assert verify_run(out) == []
