"""Test `fer-batch report`."""

from pathlib import Path

import pytest

from fer_batch.cli.main import main
from fer_batch.storage.folder import open_folder
from tests.cli.conftest import ReadError
from tests.runs import video_id, write_run
from tests.s3 import BUCKET, Store

VIDEOS = {"/talks/monday.mp4": [["happy"] * 5], "/talks/old/monday.mp4": [["sad"]], "/talks/empty.mp4": []}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("report") / "run", VIDEOS)


def report(*words: object) -> int:
    return main(["report", *map(str, words)])


@pytest.mark.parametrize(
    "video", ["empty.mp4", "old/monday.mp4", "/talks/monday.mp4", video_id("/talks/monday.mp4")]
)
def test_video_is_named_by_id_path_or_file_name(
    video: str, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report(finished, video, "-o", tmp_path / "page.html") == 0
    streams = capsys.readouterr()
    assert (streams.out.count("\n"), streams.err) == (1, "")
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")


def test_run_in_a_store_is_reported(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = f"s3://{BUCKET}/talks"
    write_run(open_folder(out), VIDEOS)
    monkeypatch.chdir(tmp_path)
    assert report(out) == 0
    assert capsys.readouterr().out == "talks-report.html: 0.0 MB\n"
    assert (tmp_path / "talks-report.html").exists()


def test_report_without_a_video_has_all_videos(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report(finished, "--min-confidence", "0.5", "-o", tmp_path / "page.html") == 0
    assert capsys.readouterr().out == f"{tmp_path / 'page.html'}: 0.0 MB\n"
    assert "<title>run – emotions over time</title>" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    ("video", "output", "message"),
    [
        ("nothing.mp4", "page.html", "no video nothing.mp4"),
        ("monday.mp4", "page.html", "2 videos"),
        ("empty.mp4", "page.pdf", ".html"),
        ("empty.mp4", "nowhere/page.html", "Cannot write"),
    ],
)
def test_invalid_report_is_reported_in_one_line(
    video: str, output: str, message: str, finished: Path, tmp_path: Path, read_error: ReadError
) -> None:
    assert message in read_error("report", finished, video, "-o", tmp_path / output)
    if video == "empty.mp4":
        assert message in read_error("report", finished, "-o", tmp_path / output)
