"""Two drivers on one folder, and a video that is forgotten and found again, with the real command."""

import json
import subprocess
import time
from pathlib import Path

import pytest

from fer_batch.run.verify import verify_run
from tests.faults.conftest import MarkedProcesses, analyze_command, kill, wait_for
from tests.integration.test_analyze import assert_same_run, rows

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]


def test_second_of_two_runs_is_refused(
    clips: Path, undisturbed: Path, cluster: tuple[MarkedProcesses, str], tmp_path: Path
) -> None:
    """Workers of the killed run, which the cluster still executes, do not block the next run."""
    processes, address = cluster
    driver, out = MarkedProcesses(processes.environment), tmp_path / "out"
    command = analyze_command(clips, out, address)
    arguments = ["-m", "fer_batch.cli.main", *command]
    both = [driver.start(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for _ in range(2)]
    try:
        while all(process.poll() is None for process in both):
            time.sleep(0.05)
        (refused,) = [process for process in both if process.poll() is not None]
        (winner,) = [process for process in both if process is not refused]
        assert refused.returncode == 2
        assert refused.stderr is not None
        stderr = refused.stderr.read().splitlines()[-1]
        assert f"{out} is in use" in stderr
        assert f"process {winner.pid} on" in stderr
        assert wait_for(lambda: any(out.glob("results/*.parquet")), winner)
        kill(winner.pid)
        winner.wait()
        assert json.loads((out / ".lease").read_text())["pid"] == winner.pid
        ended = driver.run(command)
        assert ended.returncode == 0, ended.stderr
    finally:
        driver.kill()
    assert_same_run(out, undisturbed)
    assert verify_run(out) == []
    assert not (out / ".lease").exists()


def test_forgotten_video_returns_if_it_is_still_an_input(
    clips: Path, undisturbed: Path, copied: Path, cluster: tuple[MarkedProcesses, str]
) -> None:
    processes, address = cluster
    driver = MarkedProcesses(processes.environment)
    for command in (["forget", str(copied), "film.mkv"], ["verify", str(copied)]):
        ended = driver.run(command)
        assert ended.returncode == 0, ended.stderr
    kept = rows(undisturbed)
    assert len(rows(copied)) == (~kept.uri.str.endswith("film.mkv")).sum() < len(kept)
    ended = driver.run(analyze_command(clips, copied, address))
    assert ended.returncode == 0, ended.stderr
    assert_same_run(copied, undisturbed)
    assert verify_run(copied) == []
