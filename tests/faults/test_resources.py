"""Full disks, full memory and wrong clocks end in one clear line, and the same command completes the run."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import ray
import ray.data

from fer_batch.config import AnalyzeConfig
from fer_batch.errors import ResourceError, convert_disk_error
from fer_batch.pipeline.analyze import analyze
from fer_batch.runtime import ray_session
from tests.integration.test_analyze import analyze_in_process, assert_same_run

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

QUICK = AnalyzeConfig(min_face=0.2, fps=2.0, segment_s=4.0, bundle_s=4.0)
OPTIONS = ["--min-face", "0.2", "--fps", "2", "--segment", "4", "--bundle", "4"]


@pytest.fixture(autouse=True)
def _normal_worker_priority(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's workers have niceness 15 by default and starve on a busy machine."""
    monkeypatch.setenv("RAY_worker_niceness", "0")


@contextlib.contextmanager
def small_disk(kb: int, inodes: int = 0) -> Iterator[Path]:
    """Mount a file system in memory with a short name, which Ray's sockets need; 0 inodes are unlimited."""
    folder = Path(tempfile.mkdtemp(prefix="disk"))
    mounting = ["mount", "-t", "tmpfs", "-o", f"size={kb}k,nr_inodes={inodes}", "none", str(folder)]
    mounted = subprocess.run(mounting, check=False, capture_output=True, text=True)
    if mounted.returncode:
        folder.rmdir()
        pytest.skip(f"a small disk can't be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
        folder.rmdir()


def fill_disk(folder: Path, left_kb: int) -> Path:
    """Write a file that leaves only `left_kb` free."""
    path = folder / "filler"
    path.write_bytes(bytes(max(shutil.disk_usage(folder).free - 1024 * left_kb, 0)))
    return path


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fer_batch.cli.main", *arguments],
        check=False, capture_output=True, text=True, env=os.environ | environment,
    )  # fmt: skip


def assert_reported(ended: subprocess.CompletedProcess[str], what: str = "disk is full") -> None:
    assert ended.returncode == 2, ended.stderr
    assert "Traceback" not in ended.stderr
    last = ended.stderr.strip().split("\n")[-1]
    assert last.startswith("fer-batch ")
    assert what in last
    assert "run the same command again" in last


@pytest.fixture(scope="module")
def undisturbed(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    analyze_in_process([str(sample)], out, QUICK)
    return out


def test_disk_full_during_analyze(sample: Path, undisturbed: Path) -> None:
    """There is space for the plan and one or two results."""
    with small_disk(4096) as disk:
        out = disk / "out"
        filler = fill_disk(disk, 32)
        ended = command("analyze", str(sample), "--out", str(out), *OPTIONS)
        assert_reported(ended)
        assert "MB left" in ended.stderr
        assert not (out / "_SUCCESS.json").exists()
        filler.unlink()
        ended = command("analyze", str(sample), "--out", str(out), *OPTIONS)
        assert ended.returncode == 0, ended.stderr
        assert_same_run(out, undisturbed)


@pytest.mark.parametrize("left_kb", [0, 16, 48])
def test_disk_full_during_finalize(left_kb: int, undisturbed: Path) -> None:
    with small_disk(4096) as disk:
        out = disk / "out"
        out.mkdir()
        for name in ("run.json", "plan", "results"):
            part = undisturbed / name
            if part.is_dir():
                shutil.copytree(part, out / name)
            else:
                shutil.copy(part, out / name)
        filler = fill_disk(disk, left_kb)
        ended = command("finalize", str(out))
        assert_reported(ended)
        assert not (out / "_SUCCESS.json").exists()
        filler.unlink()
        ended = command("finalize", str(out))
        assert ended.returncode == 0, ended.stderr
        assert_same_run(out, undisturbed)


def test_disk_full_under_ray_files(sample: Path, tmp_path: Path) -> None:
    with small_disk(64) as disk:
        ended = command(
            "analyze", str(sample), "--ray", "--out", str(tmp_path / "out"), *OPTIONS, RAY_TMPDIR=str(disk)
        )
    assert_reported(ended, "Ray's temporary folder")
    assert not (tmp_path / "out" / "results").exists()


def test_other_errors_are_not_reported_as_full_disk(tmp_path: Path) -> None:
    assert convert_disk_error(ValueError("full"), tmp_path) is None
    assert convert_disk_error(FileNotFoundError(2, "No such file"), tmp_path) is None
    converted = convert_disk_error(
        RuntimeError("External: No space left on device (os error 28)"), tmp_path / "none"
    )
    assert isinstance(converted, ResourceError)


def test_disk_without_inodes_is_reported() -> None:
    with small_disk(4096, inodes=3) as disk:
        (disk / "out").mkdir()
        (disk / "out" / "1").touch()
        with pytest.raises(OSError, match="No space left") as raised:
            (disk / "out" / "2").touch()
        message = str(convert_disk_error(raised.value, disk / "out"))
    assert "has 0 of 3 inodes left" in message
    assert "MB" not in message


def test_full_object_store_spills_to_disk(sample: Path, undisturbed: Path, tmp_path: Path) -> None:
    """The smallest object store that Ray allows is filled by the driver during the run."""
    ray.init(
        address="local", num_cpus=2, include_dashboard=False, log_to_driver=False,
        object_store_memory=80_000_000,
    )  # fmt: skip
    try:
        held = [ray.put(np.zeros(9_000_000, np.uint8)) for _ in range(8)]
        analyze([str(sample)], tmp_path / "out", QUICK)
        assert held
    finally:
        ray.shutdown()
    assert_same_run(tmp_path / "out", undisturbed)


def test_clock_steps_are_harmless(sample: Path, undisturbed: Path, tmp_path: Path) -> None:
    """Files and the lease have times of tomorrow."""
    out, video, tomorrow = tmp_path / "out", tmp_path / "two_faces.mp4", time.time() + 86_400
    shutil.copy(sample, video)
    os.utime(video, (tomorrow, tomorrow))
    with ray_session(num_cpus=2):
        analyze([str(video)], out, QUICK)
        for path in (out, *out.rglob("*")):
            os.utime(path, (tomorrow, tomorrow))
        (out / ".lease").write_text(
            json.dumps({"host": "h", "pid": 1, "command": "analyze", "since": "2999-01-01"})
        )
        (out / "_SUCCESS.json").unlink()
        next((out / "results").glob("*.parquet")).unlink()
        summary = analyze([str(video)], out, QUICK)
        assert summary.videos == {"ok": 1}
    assert (out / "_SUCCESS.json").exists()
