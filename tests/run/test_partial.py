"""Tables of the finished videos, while others are not finished."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from fer_batch.cli.main import main
from fer_batch.config import AnalyzeConfig
from fer_batch.run import partial
from fer_batch.run.finalize import finalize
from fer_batch.run.partial import PartialTables, finalize_partial
from fer_batch.run.record import SUCCESS_FILE, add_manifest_columns, create_run
from fer_batch.timeline.plots.strip import plot_strip
from fer_batch.timeline.store import open_timeline
from fer_batch.timeline.viewer.catalogue import Catalogue
from tests.runs import CARD, are_tables_equal, plan_videos, read_all_rows, write_run, write_video_results

VIDEOS = {f"/{name}.mp4": [["happy"] * 5] for name in "abc"}


def write_unfinished(out: Path) -> Path:
    """Write a run of three videos without results, with one video in each bundle."""
    out.mkdir()
    create_run(out, AnalyzeConfig(), CARD)
    plan_videos(out, VIDEOS)
    return out


def finish(out: Path, *uris: str) -> None:
    """Write the results of the segments of these videos, one bundle for each."""
    plan = plan_videos(out, {uri: VIDEOS[uri] for uri in uris})
    write_video_results(out, plan, VIDEOS)


def list_uris(out: Path) -> list[str]:
    timeline = open_timeline(out)
    assert (
        timeline.sql("SELECT DISTINCT uri FROM tracks ORDER BY 1").fetchall()
        == timeline.sql("SELECT uri FROM videos ORDER BY 1").fetchall()
    )
    return [uri for (uri,) in timeline.sql("SELECT uri FROM videos ORDER BY 1").fetchall()]


def test_tables_grow_with_the_finished_videos(tmp_path: Path) -> None:
    out = write_unfinished(tmp_path / "out")
    assert finalize_partial(out).videos == 0
    assert list_uris(out) == []
    finish(out, "/b.mp4")
    state = finalize_partial(out)
    assert str(state) == "partial results: 1 of 3 videos, 0.000278 of 0.000833 hours"
    assert list_uris(out) == ["/b.mp4"]
    assert str(state) in repr(open_timeline(out))
    before = open_timeline(out)
    finish(out, "/a.mp4")
    finalize_partial(out)
    finalize_partial(out)
    assert list_uris(out) == ["/a.mp4", "/b.mp4"]
    assert before.sql("SELECT count(*) FROM tracks").fetchall() == [(5,)]  # its files stay while it is open
    assert not (out / SUCCESS_FILE).exists()
    finish(out, "/c.mp4")
    finalize(out)
    assert open_timeline(out).partial is None
    assert (out / SUCCESS_FILE).exists()
    complete = write_run(tmp_path / "complete", VIDEOS)
    assert are_tables_equal(read_all_rows(out), read_all_rows(complete))


def test_open_tables_stay_readable_until_the_end_of_the_run_and_after(tmp_path: Path) -> None:
    out = write_unfinished(tmp_path / "out")
    finish(out, "/b.mp4")
    finalize_partial(out)
    readers = [open_timeline(out)]
    files = set((out / "tracks").rglob("*.parquet"))
    finish(out, "/a.mp4")
    finalize_partial(out)
    finish(out, "/c.mp4")
    finalize(out)
    assert readers[0].sql("SELECT count(*) FROM tracks").fetchall() == [(5,)]
    assert files <= set((out / "tracks").rglob("*.parquet"))

    def write_after_readers(write: Callable[[Any], Any], buckets: Iterable[Any]) -> Iterable[Any]:
        readers.clear()
        return map(write, buckets)

    finalize(out, rewrite_all=True, map_buckets=write_after_readers)
    assert len(set((out / "tracks").rglob("*.parquet"))) == 1


def test_videos_of_a_finished_run_stay_while_others_are_added(tmp_path: Path) -> None:
    out = write_run(tmp_path / "out", {"/a.mp4": VIDEOS["/a.mp4"]})
    plan_videos(out, {uri: VIDEOS[uri] for uri in ("/b.mp4", "/c.mp4")})
    finish(out, "/b.mp4")
    finalize_partial(out)
    assert list_uris(out) == ["/a.mp4", "/b.mp4"]


def test_commands_show_partial_results(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = write_unfinished(tmp_path / "out")
    finish(out, "/b.mp4")
    assert main(["query", str(out), "SELECT uri FROM videos"]) == 2
    assert "`fer-batch finalize --partial" in capfd.readouterr().err
    assert main(["finalize", "--partial", str(out)]) == 0
    assert "partial results: 1 of 3 videos" in capfd.readouterr().err
    assert main(["query", str(out), "SELECT uri FROM videos", "--format", "json"]) == 0
    streams = capfd.readouterr()
    assert json.loads(streams.out) == [{"uri": "/b.mp4"}]
    assert streams.err.startswith("partial results: 1 of 3 videos")
    assert "partial results: 1 of 3" in plot_strip(open_timeline(out)).get_suptitle()
    assert Catalogue(out).partial.startswith("partial results: 1 of 3")
    assert main(["finalize", str(out)]) == 2
    assert "segments" in capfd.readouterr().err


def test_failed_refresh_is_logged_and_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    out = write_unfinished(tmp_path / "out")
    finish(out, "/a.mp4")
    tables = PartialTables(out)
    tables.refresh()
    assert not (out / "snapshot.json").exists()  # it is not due
    monkeypatch.setattr(partial, "REFRESH_INTERVAL_S", 0.0)
    PartialTables(out).refresh()
    assert list_uris(out) == ["/a.mp4"]
    next((out / "results").glob("*.parquet")).write_bytes(b"damaged")
    (out / "snapshot.json").unlink()
    PartialTables(out).refresh()
    assert "cannot be written" in caplog.text


def test_reason_of_failed_refreshes_is_logged_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A manifest with new columns changes the tables, which only the end of the run can write."""
    out = write_run(tmp_path / "out", {"/a.mp4": VIDEOS["/a.mp4"]})
    plan_videos(out, {uri: VIDEOS[uri] for uri in ("/b.mp4", "/c.mp4")})
    finish(out, "/b.mp4")
    add_manifest_columns(out, {"topic": "string"})
    monkeypatch.setattr(partial, "REFRESH_INTERVAL_S", 0.0)
    monkeypatch.setattr(partial, "INTERVAL_PER_REFRESH", 0)
    tables = PartialTables(out)
    for _ in range(3):
        tables.refresh()
    (message,) = (record.message for record in caplog.records if record.levelname == "WARNING")
    assert "or lack columns of a new manifest): `fer-batch analyze` writes all of them again" in message
    assert list_uris(out) == ["/a.mp4"]


def test_error_of_a_store_does_not_stop_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Libraries of stores have errors that are no OSError."""

    class ClientError(Exception):
        pass

    def fail(out: Path) -> None:
        raise ClientError("slow down")

    monkeypatch.setattr(partial, "REFRESH_INTERVAL_S", 0.0)
    monkeypatch.setattr(partial, "finalize_partial", fail)
    PartialTables(tmp_path).refresh()
    assert "cannot be written: slow down" in caplog.text
