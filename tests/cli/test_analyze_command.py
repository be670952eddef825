"""Test the lines that `fer-batch analyze` prints while it runs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fer_batch.cli.analyze import _show_progress
from fer_batch.cli.main import main
from fer_batch.cli.output import ProgressLine
from fer_batch.pipeline.progress import Progress, ProgressMeter
from fer_batch.storage.folder import open_folder
from fer_batch.timeline.store import open_timeline
from tests.runs import plan_videos, write_run, write_video_results


@pytest.mark.parametrize(
    ("counts", "done", "before"),
    [
        ((1, 0, 0), "0 of 1 video", ""),
        ((5, 2, 0), "2 of 5 videos", ""),
        ((1000, 902, 900), "2 of 100 videos", " (900 videos done before)"),
        ((2, 1, 1), "0 of 1 video", " (1 video done before)"),
    ],
)
def test_all_numbers_count_since_the_start(
    counts: tuple[int, int, int], done: str, before: str, capsys: pytest.CaptureFixture[str]
) -> None:
    progress = Progress(
        videos=counts[0],
        videos_done=counts[1],
        videos_before=counts[2],
        video_s=60,
        video_s_done=20,
        faces=3,
        elapsed_s=10,
    )
    _show_progress(ProgressLine(), progress)
    assert capsys.readouterr().err == (
        f"{done} done, 33% analyzed, 3 faces, 2.0× realtime, 0:00:20 left{before}\n"
    )


def test_meter_counts_videos_of_earlier_starts(tmp_path: Path) -> None:
    out = write_run(tmp_path / "out", {"/a.mp4": [["happy"]], "/b.mp4": [["sad"]]})
    videos = {"/c.mp4": [["happy"] * 5]}
    plan = plan_videos(out, videos)
    reports: list[Progress] = []
    meter = ProgressMeter(open_folder(out).subfolder("results"), 3, reports.append)
    meter.add_pending(plan)
    meter.watch(plan)
    meter.update()
    write_video_results(out, plan, videos)
    meter.update()
    assert [(r.videos, r.videos_done, r.videos_before) for r in reports] == [(3, 2, 2), (3, 3, 2)]


@pytest.mark.parametrize("name", ["VIDEO", "FOLDER", "list.txt"])
def test_ascii_locale_finds_names_of_other_letters(tmp_path: Path, sample: Path, name: str) -> None:
    video = tmp_path / "été 日本.mp4"
    video.symlink_to(sample)
    (tmp_path / "list.txt").write_text(f"{video.name}\n", encoding="utf-8")
    given = {"VIDEO": video, "FOLDER": tmp_path}.get(name, tmp_path / name)
    run = subprocess.run(
        [sys.executable, "-m", "fer_batch.cli.main", "plan", str(given)],
        env={**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0"},
        capture_output=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr.decode()
    assert "to analyze" in run.stdout.decode()


@pytest.mark.slow
def test_demo_has_one_change_of_expression_and_ends_with_the_viewer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "demo")
    assert main(["demo", "--out", out]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"  fer-batch view {out}"
    timeline = open_timeline(out)
    changes = timeline.turning_points().project("before, after, track_id").fetchall()
    assert changes == [("neutral", "sad", 0), ("sad", "neutral", 0)]
    ((start_s, duration_s),) = timeline.episodes("sad").project("start_s, duration_s").fetchall()
    assert start_s == pytest.approx(4.0, abs=0.5)
    assert duration_s > 2.5
    assert {emotion for (emotion,) in timeline.episodes().project("emotion").fetchall()} == {
        "neutral",
        "sad",
        "happy",
    }
