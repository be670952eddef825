"""A run with its output in a store is killed between the steps of its commits."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fer_batch.cli.main import main
from fer_batch.run.verify import verify_run
from fer_batch.storage.folder import open_folder
from tests.faults.conftest import MarkedProcesses, analyze_command, wait_for
from tests.faults.test_kills import KILLED, TABLE_STEPS
from tests.integration.test_analyze import assert_same_run
from tests.runs import kill_at
from tests.s3 import Store

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]


@pytest.fixture
def store_run(copied: Path, store: Store) -> Iterator[str]:
    """The undisturbed run without its tables."""
    for name in ("run.json", "plan", "results"):
        for path in [copied / name, *(copied / name).rglob("*")]:
            if path.is_file():
                store.put(f"out/{path.relative_to(copied)}", path.read_bytes())
    yield "s3://archive/out"
    shutil.rmtree(copied)


def assert_whole(out: str, undisturbed: Path) -> None:
    assert_same_run(open_folder(out), undisturbed)
    assert verify_run(open_folder(out)) == []
    assert not open_folder(out).find_names(".lease*")


def test_finalize_in_store_killed_at_each_step(undisturbed: Path, store_run: str) -> None:
    """The existing tables stay visible."""
    command = ["finalize", store_run]
    assert main(command) == 0
    for step in ("finalize.stale_files", *TABLE_STEPS):
        if ":" in step:  # of another bucket, and there is one
            continue
        kill_at(step, main, command)
        assert_same_run(open_folder(store_run), undisturbed)
    assert main(command) == 0
    assert_whole(store_run, undisturbed)


def test_run_into_failing_store_is_killed_and_continues(
    clips: Path, undisturbed: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store cuts or refuses each fourth answer during planning and analysis."""
    monkeypatch.setenv("RAY_worker_niceness", "0")
    driver = MarkedProcesses()  # with a Ray of its own, which the store's address reaches
    out = "s3://archive/run"
    command = analyze_command(clips, out)  # type: ignore[arg-type]
    store.every = 4
    store.fail = "cut"
    ended = driver.run(command, "plan.segments")
    assert ended.returncode == KILLED, ended.stderr
    process = driver.start(["-m", "fer_batch.cli.main", *command], stderr=subprocess.DEVNULL)
    results = open_folder(out).subfolder("results")
    assert wait_for(lambda: len(results.find_names("*.parquet")) > 2, process)
    process.kill()
    process.wait()
    driver.kill()
    store.fail = "500"
    ended = driver.run(command)
    assert ended.returncode == 0, ended.stderr
    store.fail = ""
    assert_whole(out, undisturbed)
