"""A node that is lost in mid-run costs what was looked at there, and nothing else."""

import subprocess
import time
from pathlib import Path

import pytest

from fer_batch.run.verify import verify_run
from tests.faults.conftest import CHILD, Marked, analyze_command, done, kill, standing_cluster, wait_for
from tests.integration.test_analyze import assert_same_run

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]


def test_a_run_goes_on_when_a_node_is_lost(clips: Path, undisturbed: Path, tmp_path: Path) -> None:
    """A node for each worker; the second one's raylet is killed, and with it all that runs there."""
    out = tmp_path / "out"
    with standing_cluster(1, 1) as (nodes, address, raylets):
        driver = Marked(nodes.environment).start(
            ["-m", "fer_batch.cli.main", *analyze_command(clips, out, address)], stderr=subprocess.PIPE
        )
        assert wait_for(lambda: len(nodes.processes(CHILD)) == 2, driver), driver.communicate()[1]
        time.sleep(2)
        assert kill(raylets[1])
        kept = done(out)
        assert driver.poll() is None
        _, said = driver.communicate()
        assert driver.returncode == 0, said
    assert done(out).items() >= kept.items(), "what was done before the loss was done again"
    assert_same_run(out, undisturbed)
    assert verify_run(out) == []
