"""The main job in processes of this machine, compared with the same stages called one after another."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fer_batch.config import AnalyzeConfig
from fer_batch.errors import NodeError
from fer_batch.pipeline.analyze import analyze
from fer_batch.pipeline.progress import Progress
from fer_batch.timeline.store import open_timeline
from tests.integration.test_analyze import QUICK, analyze_in_process, assert_same_run
from tests.test_runtime import descendants

ONE_BUNDLE = AnalyzeConfig(min_face=0.2, fps=2.0)

SCRIPT = """
import sys
import fer_batch
done_s = []
config = fer_batch.AnalyzeConfig(min_face=0.15, segment_s=4.0, bundle_s=8.0)
def record(progress):
    done_s.append(progress.video_s_done)
def forbid_ray():
    raise AssertionError("Ray is started")
for _ in range(2):
    summary = fer_batch.analyze([sys.argv[1]], sys.argv[2], config, on_ray=forbid_ray, on_progress=record)
assert summary.videos == {"ok": 2, "failed": 1}, summary
assert not {"ray", "torch", "facenet_pytorch"} & set(sys.modules)
assert done_s == sorted(done_s)
assert any(0 < seconds < done_s[-1] for seconds in done_s), done_s
"""


@pytest.fixture(scope="module")
def undisturbed(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of `videos` in this process."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    analyze_in_process([str(videos)], out, QUICK)
    return out


def test_run_without_ray_gives_the_same_rows_at_once_and_continued(
    videos: Path, undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    subprocess.run([sys.executable, "-c", SCRIPT, str(videos), str(out)], check=True)
    assert_same_run(out, undisturbed)
    results = sorted((out / "results").glob("*.parquet"))
    assert len(results) > 2
    results[0].unlink()
    analyze([str(videos)], out, QUICK)
    assert_same_run(out, undisturbed)


def test_segment_of_a_killed_process_is_repeated(videos: Path, undisturbed: Path, tmp_path: Path) -> None:
    killed: list[int] = []

    def kill_once(progress: Progress) -> None:
        if progress.video_s_done and not killed:
            killed.append(next(descendants(os.getpid())))
            os.kill(killed[0], signal.SIGKILL)

    analyze([str(videos)], tmp_path / "out", QUICK, on_progress=kill_once)
    assert killed
    assert_same_run(tmp_path / "out", undisturbed)


@pytest.mark.slow
def test_machine_that_cannot_run_the_networks_ends_the_run(
    sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FER_BATCH_FAULT", "faces.check:1:CUDA")
    with pytest.raises(NodeError, match=r"No node can run the networks; 127\.0\.0\.1: .*illegal memory"):
        analyze([str(sample)], tmp_path / "out", ONE_BUNDLE)
    monkeypatch.delenv("FER_BATCH_FAULT")
    assert analyze([str(sample)], tmp_path / "out", ONE_BUNDLE).videos == {"ok": 1}


@pytest.mark.slow
def test_bundle_whose_faces_cannot_be_recognized_fails(
    sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FER_BATCH_FAULT", "recognize.faces")
    assert analyze([str(sample)], tmp_path / "out", ONE_BUNDLE).videos == {"failed": 1}
    reason = "faces cannot be recognized: the worker process crashed (SIGKILL) 2 times"
    assert open_timeline(tmp_path / "out").sql("SELECT error FROM videos").fetchall() == [(reason,)]


def test_ctrl_c_ends_all_processes_before_it_is_raised(
    long_video: Callable[[int], Path], tmp_path: Path
) -> None:
    """Nothing writes results after the call."""

    def interrupt(progress: Progress) -> None:
        if progress.video_s_done and not interrupted:
            interrupted.append(time.monotonic())
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    interrupted: list[float] = []
    before = [*descendants(os.getpid())]
    with pytest.raises(KeyboardInterrupt):
        analyze([str(long_video(6))], tmp_path / "out", AnalyzeConfig(), on_progress=interrupt)
    assert time.monotonic() - interrupted[0] < 20
    assert [*descendants(os.getpid())] == before
    assert not list((tmp_path / "out" / "results").glob("*.parquet"))
