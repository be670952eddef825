"""Command `people`, and the options of other commands that belong to it."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

import fer_batch
from fer_batch.cli.main import main
from fer_batch.cli.people import print_groups
from fer_batch.pipeline.people import UNREADABLE
from fer_batch.run.people import write_person_groups
from fer_batch.schema import PERSON_GROUPS_SCHEMA
from tests.runs import video_id, write_run

TALK = "/a/talk.mp4"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Return a run with four tracks, three of them grouped into two persons."""
    out = write_run(tmp_path / "out", {TALK: [["happy"] * 3, ["sad"] * 3, ["fear"] * 3, ["angry"]]})
    values = [(1, None), (2, None), (1, None), (None, "too small")]
    rows = [
        {"video_id": video_id(TALK), "version": "1", "attempt": 0, "track_id": track}
        | {"number": number, "reason": reason, "across_videos": False}
        for track, (number, reason) in enumerate(values)
    ]
    write_person_groups(out, pa.Table.from_pylist(rows, schema=PERSON_GROUPS_SCHEMA))
    return out


@pytest.fixture
def hide_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Python find neither dlib nor its weights."""
    find_spec: Callable[[str], object] = importlib.util.find_spec
    hidden = ("dlib", "face_recognition_models")
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name in hidden else find_spec(name, *more)
    )


@pytest.mark.usefixtures("hide_extra")
@pytest.mark.parametrize("command", [["people", "OUT"], ["analyze", "VIDEO", "--people", "--out", "NEW"]])
def test_missing_extra_is_one_line_and_changes_nothing(
    command: list[str], out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video = Path(fer_batch.__path__[0]) / "sample" / "two_faces.mp4"
    places = {"OUT": str(out), "VIDEO": str(video), "NEW": str(tmp_path / "new")}
    before = sorted(out.rglob("*"))
    assert main([places.get(word, word) for word in command]) == 2
    message = capsys.readouterr().err.strip()
    assert len(message.splitlines()) == 1
    assert "pip install 'fer-batch[people]'" in message
    assert sorted(out.rglob("*")) == before
    assert not (tmp_path / "new").exists()


def test_grouped_run_is_summed_up(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("dlib")
    assert main(["people", str(out)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{TALK}: 2 persons",
        "1 track of 4 without a person (too small: 1)",
    ]


def test_unreadable_videos_are_counted_together(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reasons = [f"{UNREADABLE}{name} is missing" for name in ("a.mp4", "b.mp4")] + ["blurred"]
    rows = [{"video_id": video_id(TALK), "reason": reason} for reason in reasons]
    print_groups(pa.Table.from_pylist(rows, schema=PERSON_GROUPS_SCHEMA), str(out))
    text = "3 tracks of 3 without a person (the video cannot be read: 2, blurred: 1)"
    assert capsys.readouterr().out.splitlines()[1:] == [text]


def test_groups_across_videos_are_those_of_all(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["people", str(out), "talk.mp4", "--across-videos"]) == 2
    assert "--across-videos groups all videos" in capsys.readouterr().err


def test_person_is_named(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["assign", str(out), "--name", "1=Ann"]) == 0
    assert capsys.readouterr().out.splitlines() == ["Ann: 2 tracks in 1 video"]
    rows = fer_batch.open_timeline(out).sql("SELECT DISTINCT track_id, person FROM tracks ORDER BY 1")
    assert rows.fetchall() == [(0, "Ann"), (1, "person 2"), (2, "Ann"), (3, None)]


@pytest.mark.parametrize("names", [["1"], ["=Ann"], ["one=Ann"], ["1="], ["1=Ann", "1=Bo"], ["7=Ann"]])
def test_wrong_name_is_an_error(names: list[str], out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["assign", str(out), "--name", *names]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert not (out / "people.parquet").exists()
