"""Test `fer-batch ask` and `fer-batch assign`."""

import json
from pathlib import Path
from typing import Any

import pytest

from fer_batch.cli.app import app
from fer_batch.cli.main import main
from fer_batch.timeline.store import open_timeline
from tests.cli.conftest import ReadError
from tests.runs import write_tables
from tests.timeline.videos import VIDEOS


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tables(tmp_path_factory.mktemp("ask") / "out", VIDEOS)


def run(*words: object) -> int:
    return main([*map(str, words)])


def ask(capsys: pytest.CaptureFixture[str], *words: object) -> list[dict[str, Any]]:
    assert run("ask", *words, "--format", "json") == 0
    streams = capsys.readouterr()
    assert streams.err == ""
    rows: list[dict[str, Any]] = json.loads(streams.out)
    return rows


def test_every_question_is_a_command(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "events.csv").write_text("video,time_s,what\ntalk.mp4,0.3,bang\n")
    for question in app["ask"].resolved_commands():
        if question.startswith("-"):
            continue
        rows = ask(capsys, question, out, *([tmp_path / "events.csv"] if question == "join" else []))
        assert rows or question == "turning-points", question


def test_options_reach_the_question(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    timeline = open_timeline(out)
    rows = ask(capsys, "episodes", out, "talk.mp4", "--emotion", "sad", "--min", 0.8, "--end", 3)
    wanted = timeline.episodes("sad", min_s=0.8, video="talk.mp4", end_s=3.0).df()
    assert [row["start_s"] for row in rows] == wanted["start_s"].tolist() == [0.8]
    rows = ask(capsys, "shares", out, "--by", "--track", 1, "--every", 2)
    assert {row["start_s"] for row in rows} == {0.0, 2.0}
    rows = ask(capsys, "peaks", out, "--emotion", "happy", "--threshold", 0.8, "--distance", 3)
    assert [row["time_s"] for row in rows] == [0.4, 0.6]
    rows = ask(capsys, "shares", out, "shop.mp4", "--min-confidence", 0.9)
    assert (rows[0]["emotion"], rows[0]["moments"]) == ("happy", 3)
    assert ask(capsys, "shares", out, "shop.mp4", "--min-confidence", 0.91) == []
    rows = ask(capsys, "shares", out, "shop.mp4", "--unsure", "--weigh", "probability")
    assert {row["emotion"]: row["share"] for row in rows}["unsure"] == 0
    for option in ("--min-face-px", "--min-sharpness", "--max-yaw-deg"):
        assert ask(capsys, "baseline", out, option, 30) == []  # the rows lack these values


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["episodes", "OUT", "--emotion", "love"], "There is no emotion love"),
        (["smooth", "OUT", "--window", "0"], "--window must be above 0, got 0"),
        (["smooth", "OUT", "--window", "wide"], 'unable to convert "wide" into float'),
        (["shares", "OUT", "--by", "age"], "Cannot group by age"),
        (
            ["join", "OUT", "x.srt", "--min-confidence", "60"],
            "--min-confidence must be at least 0 and at most 1",
        ),
        (["peaks", "OUT", "--max-yaw-deg", "90"], "--max-yaw-deg must be at least 0 and below 90, got 90"),
        (["join", "OUT", "gone.srt"], "There is no file gone.srt"),
        (["love", "OUT"], 'unknown command "love"'),
        (["shares", "gone"], "does not exist"),
        (["shares", "OUT", "--output", "OUT/x.csv"], "lies in the folder of the run"),
    ],
    ids=["emotion", "zero", "a word", "group", "confidence", "yaw", "events", "question", "folder", "output"],
)
def test_invalid_question_is_reported_in_one_line(
    out: Path, read_error: ReadError, words: list[str], message: str
) -> None:
    assert message in read_error("ask", *(word.replace("OUT", str(out)) for word in words))


def test_assign(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = write_tables(tmp_path / "out", VIDEOS)
    assert run("assign", out, "talk.mp4", "--seats", "Ann", "Bo") == 0
    assert capsys.readouterr().out == "Ann: 1 track in 1 video\nBo: 1 track in 1 video\n"
    assert ask(capsys, "shares", out, "--by", "person", "--person", "Bo")[0]["person"] == "Bo"
    (tmp_path / "people.csv").write_text("video,track_id,person\nshop.mp4,0,Cy\n")
    assert run("assign", out, "--list", tmp_path / "people.csv") == 0
    assert run("assign", out, "empty.mp4", "--largest", "Di") == 0
    assert "no assignments: no track matches" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give one of --list, --seats, --largest and --name"),
        (["--list", "people.csv", "--largest", "Ann"], "give one of"),
        (["--list", "people.csv", "--max-faces", "2"], "--max-faces is for --seats"),
        (["talk.mp4", "--list", "people.csv"], "leave VIDEOS out"),
        (["--largest", "Ann", "--max-faces", "2"], "--max-faces is for --seats"),
        (["--seats", "Ann", "--max-faces", "0"], "--max-faces must be at least 1, got 0"),
    ],
    ids=["nothing", "both", "list", "video", "largest", "none"],
)
def test_invalid_assignment_is_reported_in_one_line(
    out: Path, read_error: ReadError, words: list[str], message: str
) -> None:
    assert message in read_error("assign", out, *words)
