"""What of the main job needs no Ray: how the plan grows."""

from pathlib import Path

import pyarrow as pa
import pytest

from fer_batch.config import AnalyzeConfig, Limits
from fer_batch.inputs.listing import list_videos
from fer_batch.pipeline import analyze
from fer_batch.pipeline.analyze import extend_plan, is_finished
from fer_batch.run.plan import read_planned_segments, read_planned_videos
from fer_batch.run.record import read_run
from fer_batch.schema import PROBED_SCHEMA, SOURCES_SCHEMA
from tests.runs import CARD


def plan(folder: Path, version: str, who: str) -> None:
    """Plan a video of a told length, as the manifest now describes it."""
    out = folder / "out"
    (folder / "list.csv").write_text(f"path,duration_s,version,who\nfilm.mp4,90,{version},{who}\n")
    listing = list_videos([str(folder / "list.csv")])
    run = read_run(out) if (out / "run.json").exists() else None
    extend_plan(out, listing, run, PROBED_SCHEMA.empty_table(), AnalyzeConfig(), CARD, Limits(), 1)


def test_a_video_that_changes_with_what_is_said_of_it_is_planned_as_it_is_now(tmp_path: Path) -> None:
    (tmp_path / "film.mp4").touch()
    (tmp_path / "out").mkdir()
    plan(tmp_path, "v1", "Ann")
    (before,) = read_planned_videos(tmp_path / "out").to_pylist()
    plan(tmp_path, "v2", "Bo")
    videos = read_planned_videos(tmp_path / "out")
    (after,) = videos.to_pylist()
    assert after["version"] != before["version"]
    assert after["extra"] == '{"who": "Bo"}'
    assert [
        s["version"] for part in read_planned_segments(tmp_path / "out", videos) for s in part.to_pylist()
    ] == [after["version"]] * 2


def test_a_run_is_finished_when_it_has_ended_and_nothing_is_to_plan_or_left(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (tmp_path / "film.mp4").touch()
    out.mkdir()
    plan(tmp_path, "v1", "Ann")
    listing = list_videos([str(tmp_path / "list.csv")])
    none = PROBED_SCHEMA.empty_table()
    bundles = {
        row["bundle_id"]
        for part in read_planned_segments(out, read_planned_videos(out))
        for row in part.to_pylist()
    }
    assert not is_finished(out, listing, none)
    (out / "_SUCCESS.json").touch()
    assert not is_finished(out, listing, none), "killed after it was planned"
    (out / "results").mkdir(exist_ok=True)
    for name in bundles:
        (out / "results" / f"{name}.parquet").touch()
    assert is_finished(out, listing, none)
    assert not is_finished(out, listing, read_planned_videos(out)), "what failed is to be tried again"
    for version, who in (("v2", "Ann"), ("v1", "Bo")):
        (tmp_path / "list.csv").write_text(f"path,duration_s,version,who\nfilm.mp4,90,{version},{who}\n")
        assert not is_finished(out, list_videos([str(tmp_path / "list.csv")]), none)
    (out / "_SUCCESS.json").unlink()
    assert not is_finished(out, listing, none)


@pytest.mark.parametrize(
    ("lengths_s", "sizes"),
    [
        ([], []),
        ([60.0], [1]),
        ([6.0] * 9, [4, 4, 1]),
        ([None] * 3, [1, 1, 1]),
        ([60.0, 180.0, 60.0, 6.0, 1e12, 6.0, 6.0], [2, 3, 2]),
    ],
)
def test_rounds_hold_about_as_many_segments(
    lengths_s: list[float | None], sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(analyze, "ROUND", 4)
    rows = [{"video_id": str(n), "duration_s": length_s} for n, length_s in enumerate(lengths_s)]
    parts = list(analyze.rounds(pa.Table.from_pylist(rows, schema=SOURCES_SCHEMA), segment_s=60.0))
    assert [len(part) for part in parts] == sizes
    assert [name for part in parts for name in part["video_id"].to_pylist()] == [r["video_id"] for r in rows]
