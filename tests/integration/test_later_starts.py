"""Later starts with the same run folder."""

import shutil
from pathlib import Path

import pandas as pd
import pytest

from fer_batch.config import AnalyzeConfig
from fer_batch.pipeline.analyze import analyze
from fer_batch.pipeline.local_run import LocalPool
from fer_batch.run.record import read_run
from tests.integration.test_analyze import QUICK, rows


@pytest.fixture(scope="module")
def video(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video that is listed in the manifest beside it."""
    folder = tmp_path_factory.mktemp("listed")
    (folder / "list.txt").write_text("v.mp4\n")
    return Path(shutil.copy(videos / "a.mp4", folder / "v.mp4"))


@pytest.fixture(scope="module")
def analyzed(video: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the manifest."""
    out = tmp_path_factory.mktemp("analyzed") / "results, für 日本"
    analyze([str(video.with_name("list.txt"))], out, QUICK)
    return out


@pytest.fixture
def out(analyzed: Path, tmp_path: Path) -> Path:
    """A copy of the run."""
    return Path(shutil.copytree(analyzed, tmp_path / analyzed.name))


def test_later_start_analyzes_only_new_videos(video: Path, videos: Path, out: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (out / "results").iterdir()}
    first = rows(out)
    summary = analyze([str(videos / "sub"), str(video)], out, QUICK)
    after = {path: path.stat().st_mtime_ns for path in (out / "results").iterdir()}
    assert {path: after[path] for path in before} == before
    assert len(after) > len(before)
    assert summary.videos == {"ok": 2}
    both = rows(out)
    kept = both[both.uri.str.endswith("v.mp4")].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept, first, check_exact=True)


@pytest.mark.slow
def test_rows_of_a_changed_file_are_replaced(videos: Path, tmp_path: Path) -> None:
    video, out = tmp_path / "v.mp4", tmp_path / "out"
    video.write_bytes(b"not yet a video")
    assert analyze([str(video)], out, QUICK).videos == {"failed": 1}
    video.write_bytes((videos / "a.mp4").read_bytes())
    assert analyze([str(video)], out, QUICK).videos == {"ok": 1}


def test_rows_of_a_deleted_file_remain(video: Path, out: Path) -> None:
    before = rows(out)
    hidden = video.rename(video.with_name("hidden"))
    try:
        assert analyze([str(video.with_name("list.txt"))], out, QUICK).videos == {"ok": 1}
    finally:
        hidden.rename(video)
    pd.testing.assert_frame_equal(rows(out), before, check_exact=True)


def test_finished_run_is_not_repeated(video: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")}

    def fail(*_: object) -> None:
        raise AssertionError("the stages were started")

    def fail_on_ray() -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr(LocalPool, "run_segments", fail)
    analyze([str(video)], out, QUICK, on_ray=fail_on_ray)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")} == before


def test_retry_failed_and_overwrite_analyze_again(tmp_path: Path) -> None:
    video, out = tmp_path / "v.mp4", tmp_path / "out"
    video.write_bytes(b"no video at all")

    def attempts(**options: bool) -> list[int]:
        config = AnalyzeConfig(fps=7.0) if options.get("overwrite") else QUICK
        assert analyze([str(video)], out, config, **options).videos == {"failed": 1}
        return rows(out, "videos")["attempt"].tolist()

    assert attempts(retry_failed=True) == [0]
    assert attempts() == [0]
    assert attempts(retry_failed=True) == [1]
    assert attempts() == [1]
    assert attempts(retry_failed=True) == [2]
    assert attempts(overwrite=True) == [0]
    assert read_run(out).settings["fps"] == 7.0
    assert len(list((out / "plan").iterdir())) == 2
