"""`analyze --people` is one run: it holds the lease to its end, and a killed one continues."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import fer_batch
from fer_batch.errors import OutputError
from fer_batch.pipeline.people import group_people
from fer_batch.run.people import read_person_groups
from fer_batch.run.verify import verify_run
from fer_batch.storage.lease import describe_lease_holder
from tests.edited import write_edited_video
from tests.faults.conftest import MarkedProcesses, list_bundle_stats


@pytest.fixture
def processes() -> Iterator[MarkedProcesses]:
    run = MarkedProcesses()
    yield run
    run.kill()


def test_killed_grouping_is_continued_and_no_other_process_writes_before_its_end(
    tmp_path: Path, processes: MarkedProcesses
) -> None:
    pytest.importorskip("dlib")
    out = tmp_path / "out"
    video = write_edited_video(tmp_path / "edited.mp4")
    command = ["analyze", str(video), "--out", str(out), "--people"]
    started = processes.start(
        ["-m", "fer_batch.cli.main", *command], fault="people.video:1:STOP", stderr=subprocess.PIPE
    )
    os.waitpid(started.pid, os.WUNTRACED)
    assert (out / "_SUCCESS.json").exists()
    assert "analyze" in (describe_lease_holder(out) or "")
    with pytest.raises(OutputError, match="analyze"):
        group_people(out)
    started.send_signal(signal.SIGKILL)
    started.wait()
    assert len(read_person_groups(out)) == 0
    bundles = list_bundle_stats(out)
    ended = processes.run(command)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-1] == f"{video}: 2 persons"
    assert list_bundle_stats(out) == bundles
    assert fer_batch.open_timeline(out).sql("SELECT persons FROM summary").fetchall() == [(2,)]
    assert verify_run(out) == []
    numbers = read_person_groups(out)
    assert processes.run(command).returncode == 0
    assert read_person_groups(out).equals(numbers)
