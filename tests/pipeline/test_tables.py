"""`finalize` and `verify` do the same on a cluster as in one process, which needs no Ray."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import fer_batch
from fer_batch.cli.main import main
from fer_batch.errors import ConfigError, OutputError
from fer_batch.pipeline.cluster_map import MIN_ITEMS, map_on_cluster
from fer_batch.run.finalize import finalize as write_tables
from fer_batch.runtime import ray_session
from fer_batch.storage.lease import hold_lease
from tests.runs import are_tables_equal, flip_bits, read_all_rows, write_run

JOB = Path(__file__).parents[2] / "jobs" / "finalize.py"
VIDEOS = {f"/talks/{number}.mp4": [["happy", "sad"], ["fear"] * number] for number in range(1, 6)}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with more buckets than the driver would write itself."""
    return write_run(tmp_path_factory.mktemp("tables") / "run", VIDEOS, in_bucket=1)


@pytest.fixture
def out(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def test_folder_without_a_run_is_refused_and_unchanged(tmp_path: Path) -> None:
    for function in (fer_batch.finalize, fer_batch.verify):
        with pytest.raises(OutputError, match="contains no run"):
            function(tmp_path)
    assert not list(tmp_path.iterdir())


def test_process_without_cluster_never_imports_ray(out: Path) -> None:
    program = """if True:
        import sys, fer_batch
        print(fer_batch.finalize(sys.argv[1], rewrite_all=True).videos, fer_batch.verify(sys.argv[1]))
        print(sorted(name for name in sys.modules if name == "ray"))"""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [sys.executable, "-c", program, str(out)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines() == ["{'ok': 5} []", "[]"]


@pytest.mark.parametrize("is_named", [True, False])
def test_unreachable_cluster_is_one_line_and_changes_nothing(
    is_named: bool, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = read_all_rows(out)
    if not is_named:
        monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    address = "127.0.0.1:1" if is_named else None
    for function in (fer_batch.finalize, fer_batch.verify):
        with pytest.raises(ConfigError, match="Cannot join the Ray cluster at"):
            function(out, address=address)
    for command in ("finalize", "verify"):
        assert main([command, str(out), *(["--address", address] if address else [])]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1
        assert "Cannot join the Ray cluster at" in lines[0]
    assert are_tables_equal(read_all_rows(out), expected)


def test_finalize_is_refused_while_another_process_writes(out: Path) -> None:
    with hold_lease(out, "analyze"), pytest.raises(OutputError, match="fer-batch analyze"):
        fer_batch.finalize(out)


def test_job_ends_in_one_line_and_exit_code_2(tmp_path: Path) -> None:
    command = [sys.executable, str(JOB), str(tmp_path)]
    ended = subprocess.run(command, check=False, capture_output=True, text=True)
    assert ended.returncode == 2
    assert len(ended.stderr.splitlines()) == 1
    assert "contains no run of fer-batch" in ended.stderr


def die_once_after(function: Callable[[Any], Any], marker: Path) -> Callable[[Any], Any]:
    """Return the function, but its first call that gets to its end in a cluster loses its worker."""

    def call(item: Any) -> Any:
        result = function(item)
        try:
            marker.touch(exist_ok=False)
        except FileExistsError:
            return result
        os.kill(os.getpid(), signal.SIGKILL)

    return call


@pytest.mark.slow
def test_cluster_does_the_same_and_survives_a_lost_worker(out: Path, tmp_path: Path) -> None:
    expected, lost = read_all_rows(out), tmp_path / "lost"

    def map_tasks(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterable[Any]:
        return map_on_cluster(die_once_after(function, lost), items)

    with ray_session(num_cpus=2):
        assert list(map_on_cluster(lambda _: pa.cpu_count(), range(MIN_ITEMS))) == [1] * MIN_ITEMS
        write_tables(out, rewrite_all=True, map_buckets=map_tasks)
        assert lost.exists()
        assert are_tables_equal(read_all_rows(out), expected)
        files = sorted(path.name for path in out.glob("tracks/bucket=*/*"))
        assert len(files) == len(set(files)) == len(VIDEOS)
        assert fer_batch.finalize(out, rewrite_all=True).videos == {"ok": len(VIDEOS)}
        assert fer_batch.verify(out) == []
        assert are_tables_equal(read_all_rows(out), expected)
        flip_bits(next((out / "results").iterdir()), 200, 255)
        next((out / "tracks").glob("bucket=*/*.parquet")).unlink()
        differences = fer_batch.verify(out)
    assert len(differences) == 2
    assert differences == fer_batch.verify(out)
