"""A run that is killed at any time and started again has the undisturbed rows and repeats no work."""

import itertools
import random
import shutil
import subprocess
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fer_batch.cli.main import main
from fer_batch.run.verify import verify_run
from fer_batch.storage.lease import describe_lease_holder
from tests.faults.conftest import (
    CHILD,
    WORKER,
    MarkedProcesses,
    analyze_command,
    kill,
    list_bundle_stats,
    wait_for,
)
from tests.integration.test_analyze import assert_same_run
from tests.runs import kill_at, start_process

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

SEED = 5
KILLED = -9
PLAN_STEPS = ("run.json", "plan.segments", "plan.videos")
"""After each file; tests/run/test_plan.py also kills while they are written."""
TABLE_STEPS = (
    "finalize.bucket",
    "finalize.bucket:2",
    "finalize.moments",
    "finalize.tracks",
    "finalize.videos",
    "snapshot.temporary",
    "finalize.snapshot",
    "success.temporary",
    "finalize.success",
)


def assert_whole(out: Path, undisturbed: Path) -> None:
    """Check that every row exists once and that no temporary files are left."""
    assert_same_run(out, undisturbed)
    assert verify_run(out) == []
    assert list(out.rglob(".*.tmp")) == []
    assert (out / "_SUCCESS.json").exists()


def succeeds(command: list[str], processes: MarkedProcesses) -> None:
    ended = processes.run(command)
    assert ended.returncode == 0, ended.stderr


def assert_gone(run: MarkedProcesses) -> None:
    """Check that the workers end soon after their driver; Ray may take longer to stop starting ones."""
    end = time.monotonic() + 30
    while (left := [*run.processes(WORKER), *run.processes(CHILD)]) and time.monotonic() < end:
        time.sleep(0.1)
    run.kill()
    assert left == []


def test_driver_killed_at_each_step_of_planning(
    clips: Path, undisturbed: Path, cluster: tuple[MarkedProcesses, str], tmp_path: Path
) -> None:
    """The last start finds the results for the same plan in place."""
    processes, address = cluster
    driver = MarkedProcesses(processes.environment)
    out = tmp_path / "out"
    command = analyze_command(clips, out, address)
    for step in PLAN_STEPS:
        ended = driver.run(command, step)
        assert ended.returncode == KILLED, f"{step}: {ended.stderr}"
    shutil.copytree(undisturbed / "results", out / "results", dirs_exist_ok=True)
    before = list_bundle_stats(out)
    succeeds(command, driver)
    assert list_bundle_stats(out) == before, "the plan has changed"
    assert_whole(out, undisturbed)


@pytest.mark.parametrize("step", ["results.temporary:7", "results.renamed:7"])
def test_worker_killed_while_it_writes_a_result(
    clips: Path, undisturbed: Path, tmp_path: Path, step: str
) -> None:
    """Each worker dies at its seventh result; it inherits the fault from a separate Ray."""
    out = tmp_path / "out"
    run = MarkedProcesses()
    ended = run.run(analyze_command(clips, out), step)
    assert ended.returncode == 0, ended.stderr
    assert_whole(out, undisturbed)
    assert_gone(run)


@pytest.mark.parametrize("has_tables", [False, True], ids=["new tables", "existing tables"])
def test_finalize_killed_at_each_step(undisturbed: Path, copied: Path, has_tables: bool) -> None:
    """The three buckets allow kills between two of them. Existing tables stay visible."""
    for path in (copied / "plan").glob("*.videos.parquet"):
        videos = pq.read_table(path)
        buckets = pa.array([number % 3 for number in range(len(videos))], pa.int32())
        place = videos.schema.get_field_index("bucket")
        pq.write_table(videos.set_column(place, "bucket", buckets), path)
    remove_tables(copied)
    command = ["finalize", str(copied)]
    if has_tables:
        assert main(command) == 0
    first, *others = TABLE_STEPS
    for step in (first, *(["finalize.stale_files"] if has_tables else []), *others):
        if not has_tables:
            remove_tables(copied)
        kill_at(step, main, command)
        if has_tables:
            assert_same_run(copied, undisturbed)
    assert main(command) == 0
    assert_whole(copied, undisturbed)


def test_finalize_killed_at_random_times(undisturbed: Path, copied: Path) -> None:
    command = ["finalize", str(copied)]
    moments = random.Random(SEED)
    began = time.monotonic()
    longest_s = kill_after_lease(command, copied, None)
    assert time.monotonic() - began > longest_s > 0
    for _ in range(8):
        kill_after_lease(command, copied, moments.uniform(0, longest_s))
        assert_same_run(copied, undisturbed)
    assert main(command) == 0
    assert_whole(copied, undisturbed)


def kill_after_lease(command: list[str], out: Path, kill_after_s: float | None) -> float:
    """Start a command and kill it some time after it took the lease; return how long it ran from there."""
    (out / ".lease").unlink(missing_ok=True)  # of the one that was killed before
    process = start_process(main, command)
    while not (out / ".lease").exists() and process.is_alive():
        time.sleep(0.005)
    began = time.monotonic()
    process.join(kill_after_s)
    process.kill()
    process.join()
    return time.monotonic() - began


def test_driver_killed_at_random_times(
    clips: Path, undisturbed: Path, cluster: tuple[MarkedProcesses, str], tmp_path: Path
) -> None:
    """Four kills in one run, alternately while it works and while it starts."""
    processes, address = cluster
    out = tmp_path / "out"
    moments = random.Random(SEED)
    kept: dict[str, tuple[int, int]] = {}
    kills = 0
    for works in (True, False, True, False):
        driver = MarkedProcesses(processes.environment).start(
            ["-m", "fer_batch.cli.main", *analyze_command(clips, out, address)], stderr=subprocess.DEVNULL
        )
        if works:
            started = wait_for(lambda: list_bundle_stats(out).keys() > kept.keys(), driver)  # noqa: B023
        else:
            started = wait_for(lambda: f"process {driver.pid} " in (describe_lease_holder(out) or ""), driver)  # noqa: B023
        time.sleep(moments.uniform(0, 0.6 if works else 2))
        kills += started and driver.poll() is None
        driver.kill()
        driver.wait()
        now = list_bundle_stats(out)
        assert now.items() >= kept.items(), "a bundle finished before the kill was processed again"
        kept = now
    assert kills >= 3, "the runs were too short to be killed"
    assert kept
    succeeds(analyze_command(clips, out, address), MarkedProcesses(processes.environment))
    assert list_bundle_stats(out).items() >= kept.items()
    assert_whole(out, undisturbed)


def test_driver_killed_together_with_its_ray(clips: Path, undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run = MarkedProcesses()
    driver = run.start(["-m", "fer_batch.cli.main", *analyze_command(clips, out)], stderr=subprocess.DEVNULL)
    assert wait_for(lambda: len(list_bundle_stats(out)) >= 2, driver)
    kill(driver.pid)
    driver.wait()
    kept = list_bundle_stats(out)
    assert_gone(run)
    late = list_bundle_stats(out)
    assert late.items() >= kept.items()
    succeeds(analyze_command(clips, out), MarkedProcesses())
    assert list_bundle_stats(out).items() >= late.items()
    assert_whole(out, undisturbed)


def test_workers_and_guarded_processes_killed_at_random_times(
    clips: Path, undisturbed: Path, cluster: tuple[MarkedProcesses, str], tmp_path: Path
) -> None:
    """In one run, kills alternate between one guarded process and both workers."""
    processes, address = cluster
    out = tmp_path / "out"
    moments = random.Random(SEED)
    driver = MarkedProcesses(processes.environment).start(
        ["-m", "fer_batch.cli.main", *analyze_command(clips, out, address)], stderr=subprocess.PIPE
    )
    assert wait_for((out / "plan" / "000001.videos.parquet").exists, driver)
    seen: dict[str, tuple[int, int]] = {}
    twice = kills = 0
    for title, number in itertools.cycle([(CHILD, 1), (WORKER, 2)]):
        if not wait_for(lambda: len(processes.processes(CHILD)) == 2, driver) or kills >= 9:
            break
        time.sleep(moments.uniform(0, 0.8))
        now = list_bundle_stats(out)
        twice += sum(now[name] != stat for name, stat in seen.items())
        seen = now
        victims = processes.processes(title)
        kills += sum(kill(pid) for pid in moments.sample(victims, min(number, len(victims))))
    _, stderr = driver.communicate()
    assert driver.returncode == 0, stderr
    twice += sum(list_bundle_stats(out)[name] != stat for name, stat in seen.items())
    assert kills >= 3, "the run was too short to be killed"
    assert twice == 0, "a bundle finished before a kill was processed again"
    assert_whole(out, undisturbed)


def remove_tables(out: Path) -> None:
    for name in ("moments", "tracks", "videos"):
        shutil.rmtree(out / name, ignore_errors=True)
    for name in ("snapshot.json", "_SUCCESS.json"):
        (out / name).unlink(missing_ok=True)
