"""Test `fer-batch forget`."""

from pathlib import Path

import pytest

from fer_batch.cli.main import main
from fer_batch.storage.lease import hold_lease
from fer_batch.timeline.store import open_timeline
from tests.cli.conftest import ReadError
from tests.runs import kill_at, write_run
from tests.timeline.test_store import VIDEOS


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", VIDEOS)


def forget(*words: object) -> int:
    return main(["forget", *map(str, words)])


def uris(out: Path) -> set[str]:
    return {uri for (uri,) in open_timeline(out).sql("SELECT uri FROM videos").fetchall()}


@pytest.mark.parametrize(
    ("names", "gone"),
    [
        (["it's.mp4"], ["/talks/it's.mp4"]),
        (["/talks/wow!.mp4", "50%_off.mp4"], ["/talks/50%_off.mp4", "/talks/wow!.mp4"]),
    ],
)
def test_forgotten_videos_are_listed_and_removed(
    names: list[str], gone: list[str], out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert forget(out, *names) == 0
    text = capsys.readouterr().out.splitlines()
    assert text[:-1] == [f"forgotten: {uri}" for uri in gone]
    assert "would analyze a video again" in text[-1]
    assert uris(out) == VIDEOS.keys() - set(gone)


def test_unfinished_run_is_reported(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (bundle,) = (out / "results").iterdir()
    bundle.unlink()
    assert forget(out, "it's.mp4") == 0
    assert "is not finished" in capsys.readouterr().out.splitlines()[-1]
    assert uris(out) == VIDEOS.keys() - {"/talks/it's.mp4"}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "has no video"),
        ("nothing.mp4", "has no video nothing.mp4"),
        ("wow!.mp4", "/talks/old/wow!.mp4, /talks/wow!.mp4"),
    ],
)
def test_unknown_video_is_reported_in_one_line(
    name: str, message: str, out: Path, read_error: ReadError
) -> None:
    assert message in read_error("forget", out, name)
    assert uris(out) == VIDEOS.keys()


def test_run_in_use_is_reported(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with hold_lease(out, "analyze"):
        assert forget(out, "it's.mp4") == 2
    assert "`fer-batch analyze` has written there since" in capsys.readouterr().err
    assert uris(out) == VIDEOS.keys()


@pytest.mark.parametrize("command", [["forget", "nowhere", "a.mp4"], ["finalize", "nowhere"]])
def test_folder_without_a_run_is_not_created(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(command) == 2
    assert "contains no run" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_finalize_completes_an_interrupted_forget(out: Path) -> None:
    kill_at("forget.marker", main, ["forget", str(out), "it's.mp4"])
    assert main(["finalize", str(out)]) == 0
    assert uris(out) == VIDEOS.keys() - {"/talks/it's.mp4"}
    assert main(["verify", str(out)]) == 0
