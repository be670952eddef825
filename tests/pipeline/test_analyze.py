"""What of the main job needs no Ray: how the plan grows."""

from pathlib import Path

from fer_batch.archive.listing import list_videos
from fer_batch.config import AnalyzeConfig, Limits
from fer_batch.pipeline.analyze import extend_plan
from fer_batch.pipeline.plan_store import read_run, read_segments, read_videos
from fer_batch.schema import PROBED
from tests.runs import CARD


def plan(folder: Path, version: str, who: str) -> None:
    """Plan a video of a told length, as the manifest now describes it."""
    out = folder / "out"
    (folder / "list.csv").write_text(f"path,duration_s,version,who\nfilm.mp4,90,{version},{who}\n")
    listing = list_videos([str(folder / "list.csv")])
    run = read_run(out) if (out / "run.json").exists() else None
    extend_plan(out, listing, run, PROBED.empty_table(), AnalyzeConfig(), CARD, Limits(), 1)


def test_a_video_that_changes_with_what_is_said_of_it_is_planned_as_it_is_now(tmp_path: Path) -> None:
    (tmp_path / "film.mp4").touch()
    (tmp_path / "out").mkdir()
    plan(tmp_path, "v1", "Ann")
    (before,) = read_videos(tmp_path / "out").to_pylist()
    plan(tmp_path, "v2", "Bo")
    videos = read_videos(tmp_path / "out")
    (after,) = videos.to_pylist()
    assert after["version"] != before["version"]
    assert after["extra"] == '{"who": "Bo"}'
    assert [s["version"] for part in read_segments(tmp_path / "out", videos) for s in part.to_pylist()] == [
        after["version"]
    ] * 2
