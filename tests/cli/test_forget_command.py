"""`fer-batch forget`: says what it has forgotten, and in one line what it can't."""

from pathlib import Path

import pytest

from fer_batch.cli.main import main
from fer_batch.storage.lease import hold_lease
from fer_batch.timeline.store import open_timeline
from tests.runs import kill_at, write_run
from tests.timeline.test_store import VIDEOS


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", VIDEOS)


def forget(*words: object) -> int | str | None:
    try:
        return main(["forget", *map(str, words)])
    except SystemExit as end:
        return end.code


def uris(out: Path) -> set[str]:
    return {uri for (uri,) in open_timeline(out).sql("SELECT uri FROM videos").fetchall()}


@pytest.mark.parametrize(
    ("names", "gone"),
    [
        (["it's.mp4"], ["/talks/it's.mp4"]),
        (["/talks/wow!.mp4", "50%_off.mp4"], ["/talks/50%_off.mp4", "/talks/wow!.mp4"]),
    ],
)
def test_it_says_what_is_forgotten_and_how_that_stays_so(
    names: list[str], gone: list[str], out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert forget(out, *names) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[:-1] == [f"forgotten: {uri}" for uri in gone]
    assert "would analyze a video again" in said[-1]
    assert uris(out) == VIDEOS.keys() - set(gone)


def test_it_says_that_a_run_is_not_finished(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (bundle,) = (out / "results").iterdir()
    bundle.unlink()
    assert forget(out, "it's.mp4") == 0
    assert "is not finished" in capsys.readouterr().out.splitlines()[-1]
    assert uris(out) == VIDEOS.keys() - {"/talks/it's.mp4"}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("", "has no video"),
        ("nothing.mp4", "has no video nothing.mp4"),
        ("wow!.mp4", "/talks/old/wow!.mp4, /talks/wow!.mp4"),
    ],
)
def test_what_can_not_be_forgotten_is_one_line(
    name: str, said: str, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert forget(out, name) == 2
    streams = capsys.readouterr()
    assert streams.out == ""
    assert said in streams.err
    assert streams.err.count("\n") == 1
    assert uris(out) == VIDEOS.keys()


def test_a_run_in_use_is_one_line(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with hold_lease(out, "analyze"):
        assert forget(out, "it's.mp4") == 2
    assert "`fer-batch analyze` has written there since" in capsys.readouterr().err
    assert uris(out) == VIDEOS.keys()


@pytest.mark.parametrize("command", [["forget", "nowhere", "a.mp4"], ["finalize", "nowhere"]])
def test_a_folder_without_a_run_is_one_line_and_none_is_made(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(command) == 2
    assert "contains no run" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_finalize_completes_what_a_killed_one_has_begun(out: Path) -> None:
    kill_at("forget.marker", main, ["forget", str(out), "it's.mp4"])
    assert main(["finalize", str(out)]) == 0
    assert uris(out) == VIDEOS.keys() - {"/talks/it's.mp4"}
    assert main(["verify", str(out)]) == 0


@pytest.mark.parametrize("words", [[], ["out"]])
def test_words_that_name_no_video_are_one_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert forget(*words) == 2
    assert capsys.readouterr().err.count("\n") == 1
