"""Exports equal the tables with any names, and are written atomically."""

import csv
import io
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import openpyxl
import pandas as pd
import pytest

from fer_batch.errors import ConfigError, FerBatchError, OutputError, QueryError
from fer_batch.run.record import add_manifest_columns
from fer_batch.storage.folder import open_folder
from fer_batch.timeline.assign import assign_from_csv
from fer_batch.timeline.export import rows as rows_module
from fer_batch.timeline.export import workbook
from fer_batch.timeline.export.export import SUFFIXES, ExportedFile, export
from fer_batch.timeline.names import unique_file_names
from fer_batch.timeline.store import Timeline, open_timeline
from tests.runs import Tracks, add_videos, video_id, write_run
from tests.s3 import Store
from tests.timeline.export.test_annotations import of_eaf, of_srt, of_textgrid, of_vtt

TALK, FORMULA = "/talks/talk.mp4", '/talks/=cmd("x")&<b>é, {where}.mp4'
VIDEOS: dict[str, Tracks | None] = {
    TALK: [["happy", "happy", "sad", "sad", "happy"], ["neutral", "fear"]],
    "/older/talk.mkv": [["angry"]],
    FORMULA: [["surprise"] * 4],
    "/talks/empty.mp4": [],
    "/talks/broken.mp4": None,
}
PERSON = '=1+1 "Ann" <i>'
ANNOTATIONS = ("vtt", "srt", "eaf", "textgrid")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in which one track of each of two videos has a person."""
    folder = tmp_path_factory.mktemp("export")
    out = write_run(folder / "run", VIDEOS, in_bucket=1)
    people = pd.DataFrame({"video": [TALK, FORMULA], "track_id": [1, 0], "person": PERSON})
    people.to_csv(folder / "people.csv", index=False)
    assign_from_csv(out, folder / "people.csv")
    return out


@pytest.fixture(scope="module")
def timeline(finished: Path) -> Timeline:
    return open_timeline(finished)


def export_files(timeline: Timeline, target: Path, *arguments: Any, **options: Any) -> list[ExportedFile]:
    return list(export(timeline, target, *arguments, **options))


def parquet(out: Path) -> pd.DataFrame:
    """Read the rows of `tracks` from its files."""
    rows = pd.read_parquet(out / "tracks").drop(columns="bucket")
    return rows.sort_values(["uri", "track_id", "time_s"]).reset_index(drop=True)


def read_csv(path: Path) -> pd.DataFrame:
    content = path.read_bytes()
    assert content.count(b"\n") == content.count(b"\r\n")
    rows = list(csv.reader(io.StringIO(content.decode(), newline=""), strict=True))
    assert {len(row) for row in rows} == {len(rows[0])}
    return pd.read_csv(path, dtype={"person": object, "video_id": object}, keep_default_na=False)


def read_jsonl(path: Path) -> pd.DataFrame:
    rows = [json.loads(line, parse_constant=pytest.fail) for line in path.read_text().splitlines()]
    return pd.DataFrame(rows).fillna({"person": ""}) if rows else pd.DataFrame()


@pytest.mark.parametrize(("format", "read"), [("csv", read_csv), ("jsonl", read_jsonl)])
@pytest.mark.parametrize("at_once", [1, 250_000])
def test_rows_equal_the_tables(
    format: str,
    read: Any,
    at_once: int,
    finished: Path,
    timeline: Timeline,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rows_module, "MAX_ROWS_IN_MEMORY", at_once)
    wanted = parquet(finished)
    (file,) = export_files(timeline, tmp_path / f"rows.{format}")
    assert file == ExportedFile(tmp_path / f"rows.{format}", len(wanted), None)
    rows = read(file.path)
    assert rows["person"].value_counts().to_dict() == {"": len(wanted) - 6, PERSON: 6}
    order = {uri: number for number, uri in enumerate(dict.fromkeys(rows["uri"]))}
    assert rows["uri"].map(order).is_monotonic_increasing  # a video's rows stand together
    if at_once > 1:
        assert list(order) == sorted(order)
    rows = rows.drop(columns="person").sort_values(["uri", "track_id", "time_s"]).reset_index(drop=True)
    pd.testing.assert_frame_equal(rows.astype(wanted.dtypes), wanted, check_exact=True)


def test_numbers_have_shortest_digits(timeline: Timeline, tmp_path: Path) -> None:
    """A 32-bit number is not written with the digits of its 64-bit value."""
    for name in ("rows.csv", "rows.jsonl"):
        export_files(timeline, tmp_path / name)
        assert re.search(r"\b0\.9\b", (tmp_path / name).read_text())
        assert not re.search(r"0\.89999|0\.9000", (tmp_path / name).read_text())


@pytest.mark.parametrize("format", SUFFIXES)
@pytest.mark.parametrize("videos", [[], [TALK], ["empty.mp4", video_id(FORMULA), "/talks/empty.mp4"]])
def test_folder_gets_a_file_for_each_video(
    format: str, videos: list[str], timeline: Timeline, tmp_path: Path
) -> None:
    files = export_files(timeline, tmp_path / "a" / "b", format, videos)
    wanted = {timeline.video_id(name) for name in videos} or {video_id(uri) for uri in VIDEOS}
    assert len(files) == len({file.path for file in files}) == len(wanted)
    assert sorted(file.path for file in files) == sorted((tmp_path / "a" / "b").iterdir())
    assert all(file.path.suffix == SUFFIXES[format] for file in files)
    troubles = {"no_faces", "failed: no index"} if not videos else {"no_faces"} if len(videos) == 3 else set()
    assert {file.trouble for file in files} - {None} == troubles


READ = {"vtt": of_vtt, "srt": of_srt, "eaf": of_eaf, "textgrid": of_textgrid}


@pytest.mark.parametrize("format", ANNOTATIONS)
@pytest.mark.parametrize("uri", [uri for uri, tracks in VIDEOS.items() if tracks])
def test_captions_and_annotations_equal_the_tables(
    format: str, uri: str, finished: Path, timeline: Timeline, tmp_path: Path
) -> None:
    (file,) = export_files(timeline, tmp_path / f"file{SUFFIXES[format]}", None, [uri])
    named = READ[format](file.path)
    rows = parquet(finished)
    rows = rows[rows.uri == uri]
    faces = {
        track: PERSON if (uri, track) in ((TALK, 1), (FORMULA, 0)) else f"track {track}"
        for track in rows.track_id
    }
    assert named.keys() == set(faces.values())
    for time_ms in range(50, 1000, 100):  # each moment stands for 0.2 s
        seen = rows[rows.time_s.round(3) == time_ms // 200 / 5]
        wanted = {(faces[row.track_id], row.emotion) for row in seen.itertuples()}
        assert wanted == {(n, i[2]) for n, own in named.items() for i in own if i[0] <= time_ms < i[1]}


@pytest.mark.parametrize("format", ANNOTATIONS)
@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, {"track 0": 3, PERSON: 2}),
        ({"min_s": 0.4}, {"track 0": 2}),
        ({"threshold": 0.89, "min_s": 0.2}, {"track 0": 3, PERSON: 2}),
        ({"threshold": 0.91}, {}),
    ],
)
def test_threshold_and_min_s_select_episodes(
    format: str, options: dict[str, float], wanted: dict[str, int], timeline: Timeline, tmp_path: Path
) -> None:
    (file,) = export_files(timeline, tmp_path / f"file{SUFFIXES[format]}", None, [TALK], **options)
    episodes = {name: len({i[2:] + i[:1] for i in own}) for name, own in READ[format](file.path).items()}
    if format in ("vtt", "srt"):  # a face's episode is divided where another face changes
        assert episodes.keys() == wanted.keys()
    else:
        assert episodes == wanted


@pytest.mark.parametrize("format", ANNOTATIONS)
@pytest.mark.parametrize("name", ["empty.mp4", "broken.mp4"])
def test_file_of_a_video_without_faces_has_a_note(
    format: str, name: str, timeline: Timeline, tmp_path: Path
) -> None:
    (file,) = export_files(timeline, tmp_path / f"file{SUFFIXES[format]}", None, [name])
    assert file.entries == 0
    assert file.trouble in ("no_faces", "failed: no index")
    assert READ[format](file.path) == {}
    if format in ("vtt", "eaf"):
        assert file.trouble in file.path.read_text()


def sheets(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Read the rows of each sheet as dicts."""
    found = {}
    for sheet in openpyxl.load_workbook(path):
        titles, *rows = sheet.iter_rows(values_only=True)
        found[sheet.title] = [dict(zip(titles, row, strict=True)) for row in rows]
    return found


def test_workbook_has_videos_faces_and_episodes(finished: Path, timeline: Timeline, tmp_path: Path) -> None:
    (file,) = export_files(timeline, tmp_path / "all.xlsx")
    assert file.entries == len(VIDEOS)
    found = sheets(file.path)
    assert list(found) == ["videos", "faces", "episodes", "about"]
    rows = parquet(finished)
    summary = timeline.videos().set_index("uri")
    assert [row["uri"] for row in found["videos"]] == sorted(VIDEOS)
    for row in found["videos"]:
        wanted = summary.loc[row["uri"]]
        assert (row["status"], row["moments"]) == (wanted["status"], wanted["moments"])
        for name in timeline.classes:
            seen = rows[rows.uri == row["uri"]].emotion
            assert row[name] == (pytest.approx((seen == name).mean()) if len(seen) else None)
    assert found["videos"][0]["with_face"] == pytest.approx(0.2)
    faces = {(row["uri"], row["face"]): row for row in found["faces"]}
    assert len(faces) == len(found["faces"]) == len(rows.groupby(["uri", "track_id"]))
    talk = faces[TALK, "track 0"]
    assert (talk["from_s"], talk["to_s"], talk["seconds"]) == pytest.approx((0, 1, 1))
    assert (talk["happy"], talk["sad"], talk["fear"]) == pytest.approx((0.6, 0.4, 0))
    assert talk["confidence"] == pytest.approx(0.9)
    assert (TALK, PERSON) in faces
    wanted = [("track 0", "happy", 0.0, 0.4), (PERSON, "neutral", 0.0, 0.2), (PERSON, "fear", 0.2, 0.4)]
    wanted += [("track 0", "sad", 0.4, 0.8), ("track 0", "happy", 0.8, 1.0)]
    of_talk = [row for row in found["episodes"] if row["uri"] == TALK]
    keys = ("face", "emotion", "start_s", "end_s")
    assert [tuple(row[key] for key in keys) for row in of_talk] == [
        (face, emotion, pytest.approx(start), pytest.approx(end)) for face, emotion, start, end in wanted
    ]


def test_workbook_keeps_text_and_formats_numbers(timeline: Timeline, tmp_path: Path) -> None:
    export_files(timeline, tmp_path / "all.xlsx")
    for sheet in openpyxl.load_workbook(tmp_path / "all.xlsx"):
        assert sheet.freeze_panes == "A2"
        titles = [cell.value for cell in sheet[1]]
        for row in sheet.iter_rows(min_row=2):
            for title, cell in zip(titles, row, strict=True):
                assert cell.data_type in ("s", "n", "inlineStr"), cell
                assert cell.hyperlink is None
                if cell.data_type == "n" and cell.value is not None:
                    wanted = (
                        "0.0%"
                        if title in (*timeline.classes, "peak", "mean", "confidence", "with_face")
                        else ("0.00" if title.endswith("_s") or title == "seconds" else "0")
                    )
                    assert cell.number_format == wanted
    assert PERSON in {row["face"] for row in sheets(tmp_path / "all.xlsx")["faces"]}


def test_long_sheet_continues_in_another(
    timeline: Timeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_files(timeline, tmp_path / "one.xlsx")
    monkeypatch.setattr(workbook, "MAX_SHEET_ROWS", 4)
    monkeypatch.setattr(rows_module, "MAX_ROWS_IN_MEMORY", 1)
    export_files(timeline, tmp_path / "more.xlsx")
    one, more = sheets(tmp_path / "one.xlsx"), sheets(tmp_path / "more.xlsx")
    assert [name for name in more if name.startswith("videos")] == ["videos", "videos 2"]
    for name in ("videos", "faces", "episodes"):
        rows = [str(row) for title, part in more.items() if title.startswith(name) for row in part]
        assert sorted(rows) == sorted(map(str, one[name]))


@pytest.mark.parametrize("format", SUFFIXES)
def test_empty_run_gives_empty_file_or_folder(format: str, tmp_path: Path) -> None:
    timeline = open_timeline(write_run(tmp_path / "run", {}))
    assert export_files(timeline, tmp_path / "folder", format) == []
    assert list((tmp_path / "folder").iterdir()) == []
    target = tmp_path / f"file{SUFFIXES[format]}"
    if format in ANNOTATIONS:
        with pytest.raises(QueryError, match=r"can hold one video, got 0"):
            export_files(timeline, target)
        assert not target.exists()
        return
    assert [file.entries for file in export_files(timeline, target)] == [0]
    if format == "csv":
        assert len(target.read_text().splitlines()) == 1
    elif format == "jsonl":
        assert target.read_bytes() == b""
    elif format == "label-studio":
        assert json.loads(target.read_text()) == []
    else:
        assert {name: len(rows) for name, rows in sheets(target).items() if name != "about"} == {
            "videos": 0,
            "faces": 0,
            "episodes": 0,
        }


@pytest.mark.parametrize("format", SUFFIXES)
def test_manifest_columns_may_have_any_name(format: str, tmp_path: Path) -> None:
    names = ["happy", "face", "line", "shares", "person", "select"]
    out = write_run(tmp_path / "run", {})
    add_manifest_columns(out, dict.fromkeys(names, "string"))
    add_videos(out, {TALK: VIDEOS[TALK]})
    (file,) = export_files(open_timeline(out), tmp_path / f"file{SUFFIXES[format]}")
    shown = ["manifest_person" if name == "person" else name for name in names]
    if format == "csv":
        assert set(shown) <= set(read_csv(file.path).columns)
    elif format == "jsonl":
        assert set(shown) <= set(read_jsonl(file.path).columns)
    elif format == "xlsx":
        titles = [cell.value for cell in openpyxl.load_workbook(file.path)["videos"][1]]
        assert titles[-len(shown) :] == shown
    elif format == "label-studio":
        (task,) = json.loads(file.path.read_text())
        assert {region["meta"]["text"][0] for region in task["predictions"][0]["result"]} == {
            "track 0",
            "track 1",
        }
    else:
        assert READ[format](file.path).keys() == {"track 0", "track 1"}


@pytest.mark.parametrize("version", [1, 2, 3])
def test_runs_of_older_versions_can_be_exported(version: int, tmp_path: Path) -> None:
    timeline = open_timeline(Path(__file__).parents[2] / "fixtures" / f"schema_{version}")
    for format in SUFFIXES:
        files = export_files(timeline, tmp_path / format, format)
        assert sum(file.entries for file in files) > 0


@pytest.mark.parametrize(
    ("uris", "names"),
    [
        ([], []),
        (["/a/talk.mp4"], ["talk"]),
        (["/a/talk.tar.mp4"], ["talk.tar"]),
        (["/a/talk"], ["talk"]),
        (["/a/talk.mp4", "/b/talk.mp4"], ["talk-0", "talk-1"]),
        (
            ["/a/talk.mp4", "/a/talk.mkv", "/a/Talk.mov", "/a/other.mp4"],
            ["talk-0", "talk-1", "Talk-2", "other"],
        ),
        (["/a/é.mp4", "/a/e\u0301.mp4"], ["é-0", "e\u0301-1"]),
        (["/a/talk.mp4", "/b/talk.mp4", "/c/talk-ID0.mp4"], ["talk-0", "talk-1", "talk-ID0-2"]),
        (["/a/..", "/a/...mp4", "/a/.hidden.mp4", "/", "-rf.mp4"], ["_-0", "__", "_hidden", "_-3", "_rf"]),
        (["s3://b/k/x.mp4", "/a.zip!/in/y.mp4", "/a.zip!/..\\..\\z.mp4"], ["x", "y", "_._.._z"]),
        (["file:///a/two%0Alines%2F..%2Fx.mp4"], ["x"]),
        (["file:///a/%FF%00.mp4"], ["__"]),
        (['/a/a:b*c?"<d>|.mp4'], ["a_b_c___d__"]),
        (["/a/" + "é" * 200 + ".mp4"], ["é" * 60 + "-0"]),
    ],
)
def test_unique_file_names(uris: Sequence[str], names: list[str]) -> None:
    ids = [f"{number:016x}" for number in range(len(uris))]
    uris = [uri.replace("ID0", ids[0]) for uri in uris]
    wanted = [
        re.sub(r"-(\d)$", lambda m: f"-{int(m[1]):016x}", name).replace("ID0", ids[0]) for name in names
    ]
    found = unique_file_names(dict(zip(ids, uris, strict=True)))
    assert list(found.values()) == wanted
    assert len({name.casefold() for name in wanted}) == len(uris)
    assert all(Path("folder", name + ".vtt").parent == Path("folder") for name in wanted)


@pytest.mark.parametrize(
    ("target", "options", "error", "reason"),
    [
        ("rows.txt", {}, ConfigError, "format of .* is not clear"),
        ("folder", {}, ConfigError, "format of .* is not clear"),
        ("rows.csv", {"format": "vtt"}, ConfigError, "has the suffix of csv, not of vtt"),
        ("all.vtt", {}, QueryError, "can hold one video, got 5"),
        ("all.vtt", {"videos": ["nowhere.mp4"]}, QueryError, "has no video nowhere.mp4"),
        ("a.vtt", {"videos": [TALK], "threshold": 1.1}, ConfigError, "got 1.1"),
        ("a.vtt", {"videos": [TALK], "threshold": math.nan}, ConfigError, "got nan"),
        ("a.vtt", {"videos": [TALK], "min_s": -1}, ConfigError, "must be 0 or more, got -1"),
        ("rows.csv", {"min_s": 1}, ConfigError, "has rows"),
        ("nowhere/rows.csv", {}, OutputError, "Cannot write .*: No such file"),
        ("a_file/rows", {"format": "csv"}, OutputError, "Cannot write"),
        ("s3://bucket/rows.csv", {}, OutputError, "give a file on this machine"),
    ],
)
def test_invalid_export_raises_error_and_writes_nothing(
    target: str,
    options: dict[str, Any],
    error: type[FerBatchError],
    reason: str,
    timeline: Timeline,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "a_file").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=reason):
        export_files(timeline, target, **options)
    assert [path.name for path in tmp_path.rglob("*")] == ["a_file"]


@pytest.mark.parametrize("target", [".", "rows.csv", "tracks/rows.csv", "../run/x", "new/folder"])
def test_export_into_the_run_raises_output_error(
    target: str, finished: Path, timeline: Timeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(finished.rglob("*"))
    monkeypatch.chdir(finished)
    with pytest.raises(OutputError, match="lies in the folder of the run"):
        export_files(timeline, Path(target), "csv")
    assert sorted(finished.rglob("*")) == before


def test_failed_export_keeps_the_old_file(
    timeline: Timeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rows.csv").write_text("before")
    monkeypatch.setattr(rows_module, "_select_columns", lambda timeline: {"nothing": "no_such_column"})
    with pytest.raises(QueryError):
        export_files(timeline, tmp_path / "rows.csv")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("rows.csv", "before")]


def test_run_in_a_store_gives_the_same_files(store: Store, tmp_path: Path) -> None:
    videos = {TALK: VIDEOS[TALK], "/talks/broken.mp4": None}
    here = open_timeline(write_run(tmp_path / "run", videos))
    there = open_timeline(write_run(open_folder("s3://archive/run"), videos))
    for format in ("csv", "vtt"):
        for timeline, name in ((here, "here"), (there, "there")):
            export_files(timeline, tmp_path / name, format)
    assert len(list((tmp_path / "here").iterdir())) == 4
    for path in (tmp_path / "here").iterdir():
        assert path.read_bytes() == (tmp_path / "there" / path.name).read_bytes()
