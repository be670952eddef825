"""Seconds of videos with uneven frames, and times of videos whose picture begins late in the file."""

import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from fer_batch.run.record import add_manifest_columns
from fer_batch.run.snapshot import TABLES, write_snapshot
from fer_batch.schema import EMOTIONS
from fer_batch.timeline.cells import NOT_ANALYZED, divide_videos
from fer_batch.timeline.store import Timeline, open_timeline
from fer_batch.timeline.viewer.catalogue import Catalogue
from fer_batch.timeline.viewer.page import render_report
from tests.runs import VideoContent, add_videos, video_id, write_run, write_tables
from tests.timeline.conftest import Seen
from tests.timeline.queries.helpers import select

UNEVEN, LATE, ODD = "/a/uneven.mp4", "/a/late.mp4", "/a/odd.mp4"
FAST_S = [k / 5 for k in range(10)]
MOMENTS_S = [*FAST_S, 2.0, 4.0, 6.0, *(8 + k / 5 for k in range(5)), *(69 + k / 5 for k in range(5))]
"""Five frames a second for 2 s, one every two seconds for 6 s, five a second for 1 s, a pause, 1 s more."""
ODD_S = [k / 12 for k in range(120) if k % 12 in (0, 3, 5, 8, 10)]
"""A video of twelve frames a second, sampled at five."""


@pytest.fixture(scope="module")
def timeline(tmp_path_factory: pytest.TempPathFactory) -> Timeline:
    odd = [(0, time_s, ("happy", "sad", "fear")[k // 4 % 3], 0.9, 0.1) for k, time_s in enumerate(ODD_S)]
    uneven = [(0, time_s, "sad" if time_s >= 8 else "happy", 0.9, 0.1) for time_s in MOMENTS_S]
    late = [(0, time_s, "happy" if time_s < 1 else "sad", 0.9, 0.1) for time_s in FAST_S]
    videos = {
        UNEVEN: VideoContent(duration_s=70, moments_s=MOMENTS_S, faces=uneven),
        LATE: VideoContent(duration_s=2, moments_s=FAST_S, faces=late, start_s=2.5),
        ODD: VideoContent(duration_s=10, moments_s=ODD_S, faces=odd),
    }
    return open_timeline(write_tables(tmp_path_factory.mktemp("seconds") / "out", videos))


def test_a_pause_belongs_to_no_episode(timeline: Timeline) -> None:
    found = timeline.episodes(video=UNEVEN)
    assert select(found, "emotion", "start_s", "end_s", "duration_s") == [
        ("happy", 0.0, 8.0, 8.0),
        ("sad", 8.0, 9.0, 1.0),
        ("sad", 69.0, 70.0, 1.0),
    ]
    assert select(timeline.turning_points(video=UNEVEN), "time_s", "gap_s") == [(8.0, 0.0)]


def test_a_pause_adds_no_seconds_to_shares(timeline: Timeline) -> None:
    seconds = dict(select(timeline.shares(video=UNEVEN), "emotion", "seconds"))
    assert (seconds["happy"], seconds["sad"]) == (8.0, 2.0)


def test_frames_fill_the_intervals_that_they_last(timeline: Timeline) -> None:
    found = timeline.resample(1.0, video=UNEVEN).df()
    assert found["state"].tolist() == ["face"] * 9 + ["not analyzed"] * 60 + ["face"]
    assert found["frames"].tolist()[:9] == [5, 5, 1, 1, 1, 1, 1, 1, 5]
    assert found["emotion"].tolist()[:9] == ["happy"] * 8 + ["sad"]


@pytest.mark.parametrize(
    ("event", "faces"),
    [({"time_s": 5.0}, 1), ({"start_s": 4.5, "end_s": 5.5}, 1), ({"start_s": 1.9, "end_s": 4.5}, 2),
     ({"time_s": 30.0}, 0), ({"start_s": 30.0, "end_s": 40.0}, 0)],
)  # fmt: skip
def test_events_get_the_frame_that_lasts(timeline: Timeline, event: dict[str, float], faces: int) -> None:
    found = timeline.join_events(pa.Table.from_pylist([event]), video=UNEVEN)
    assert select(found, "faces") == [(faces,)]


def test_cells_and_strips_leave_out_a_pause(timeline: Timeline) -> None:
    (cells,) = divide_videos(timeline, [video_id(UNEVEN)], 400).values()
    assert (cells.find(np.array([3.0, 5.9, 8.9, 9.1, 68.9, 69.1])) >= 0).tolist() == [1, 1, 1, 0, 0, 1]
    catalogue = Catalogue(timeline.out)
    strip = catalogue.draw_strips([video_id(UNEVEN)])[video_id(UNEVEN)]
    kinds = [EMOTIONS[cell] if cell < len(EMOTIONS) else None for cell in strip["cells"]]
    assert [kind for kind, _ in itertools.groupby(kinds)] == ["happy", "sad", None, "sad"]
    assert strip["cells"].count(NOT_ANALYZED) == kinds.count(None)
    assert sum(strip["counts"]) == len(MOMENTS_S)


def test_strip_has_no_holes_in_a_slow_section(tmp_path: Path) -> None:
    moments_s = [k / 5 for k in range(100)] + [20 + 4.0 * k for k in range(10)]
    faces = [(0, time_s, "happy", 0.9, 0.1) for time_s in moments_s]
    out = write_tables(
        tmp_path / "out", {"/v.mp4": VideoContent(duration_s=60, moments_s=moments_s, faces=faces)}
    )
    strip = Catalogue(out).draw_strips([video_id("/v.mp4")])[video_id("/v.mp4")]
    assert set(strip["cells"]) == {EMOTIONS.index("happy")}
    assert sum(strip["counts"]) == len(moments_s)


def test_workbook_has_the_same_seconds(timeline: Timeline, tmp_path: Path) -> None:
    timeline.export(tmp_path / "a.xlsx", videos=[UNEVEN])
    faces = pd.read_excel(tmp_path / "a.xlsx", "faces")
    assert faces[["from_s", "to_s", "seconds"]].to_numpy() == pytest.approx(np.array([[0, 70, 10]]))


def read_times_s(path: Path) -> list[tuple[float, float]]:
    """Return the spans of a WebVTT file, the episodes of an ELAN file or of a TextGrid."""
    text = path.read_text()
    if path.suffix == ".vtt":
        stamps = re.findall(r"(\d+):(\d+):([\d.]+) --> (\d+):(\d+):([\d.]+)", text)
        numbers = [[float(value) for value in stamp] for stamp in stamps]
        return [(n[1] * 60 + n[2], n[4] * 60 + n[5]) for n in numbers]
    if path.suffix == ".eaf":
        times = dict(re.findall(r'TIME_SLOT_ID="(\w+)" TIME_VALUE="(\d+)"', text))
        refs = [re.findall(rf'TIME_SLOT_REF{n}="(\w+)"', text) for n in (1, 2)]
        return [(int(times[a]) / 1000, int(times[b]) / 1000) for a, b in zip(*refs, strict=True)]
    spans = re.findall(r'xmin = ([\d.]+)\s+xmax = ([\d.]+)\s+text = "\w+"', text)
    return [(float(start), float(end)) for start, end in spans]


@pytest.mark.parametrize("suffix", [".vtt", ".eaf", ".TextGrid"])
def test_annotations_that_adjoin_share_their_border(timeline: Timeline, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"odd{suffix}"
    timeline.export(path, videos=[ODD])
    spans = read_times_s(path)
    assert len(spans) == 13
    assert [end for _, end in spans[:-1]] == [start for start, _ in spans[1:]]
    assert (spans[0][0], spans[-1][1]) == (0.0, 10.0)


@pytest.mark.parametrize("suffix", [".vtt", ".eaf", ".TextGrid"])
def test_exports_for_players_count_from_the_start_of_the_file(
    timeline: Timeline, tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"late{suffix}"
    timeline.export(path, videos=[LATE])
    assert read_times_s(path) == [(2.5, 3.5), (3.5, 4.5)]
    if suffix == ".TextGrid":
        assert "xmax = 4.5" in path.read_text()


@pytest.mark.parametrize(
    ("events", "faces"),
    [
        ({"start_s": [0.0, 2.5, 3.0, 4.5], "end_s": [2.5, 3.5, 4.0, 9.0]}, [0, 5, 5, 0]),
        ({"time_s": [2.4, 2.5, 4.4, 4.6]}, [0, 1, 1, 0]),
    ],
)
def test_events_count_from_the_start_of_the_file(
    timeline: Timeline, events: dict[str, list[float]], faces: list[int]
) -> None:
    found = timeline.join_events(pa.table(events), video=LATE).df()
    assert found["faces"].tolist() == faces
    assert found["emotion"].tolist()[1] == "happy"
    assert found.iloc[:, 0].tolist() == next(iter(events.values()))  # the events' own times


def test_manifest_columns_with_new_names_are_renamed(tmp_path: Path) -> None:
    """An older version allowed the names that tables have now."""
    out = write_run(tmp_path / "out", {})
    add_manifest_columns(out, {"start_s": "double", "step_s": "string"})
    run = json.loads((out / "run.json").read_text())
    assert run["columns"].keys() == {"start_s", "step_s"}
    add_videos(out, {"/a.mp4": [["happy"] * 5]})
    timeline = open_timeline(out)
    assert timeline.manifest_columns == ["manifest_start_s", "manifest_step_s"]
    assert select(timeline.sql("SELECT sum(step_s) AS s FROM tracks"), "s") == [(1.0,)]


@pytest.fixture
def old_timeline(timeline: Timeline, tmp_path: Path) -> Timeline:
    """The same rows in tables of schema 4, with columns of a manifest that have the names of later ones."""
    out = tmp_path / "old"
    out.mkdir()
    run = json.loads((Path(str(timeline.out)) / "run.json").read_text())
    columns = {"start_s": "string", "precision": "string", "yaw_deg": "string"}
    (out / "run.json").write_text(json.dumps(run | {"schema_version": 4, "columns": columns}))
    tables, new = {}, ("step_s", "start_s", "precision", "detected_on", "pitch_deg")
    for name in TABLES:
        rows = DeltaTable(f"{timeline.out}/{name}").to_pyarrow_table()
        rows = rows.select([column for column in rows.column_names if column not in new])
        if name == "videos":
            rows = rows.append_column("start_s", pa.array(["noon"] * len(rows)))
            rows = rows.append_column("precision", pa.array(["low"] * len(rows)))
            rows = rows.append_column("yaw_deg", pa.array(["left"] * len(rows)))
        if name == "tracks":
            rows = rows.set_column(
                rows.column_names.index("yaw_deg"), "yaw", pa.repeat(pa.scalar(1.17, pa.float32()), len(rows))
            )
        write_deltalake(str(out / name), rows, partition_by=["bucket"])
        tables[name] = DeltaTable(str(out / name))
    write_snapshot(out, tables, "")
    return open_timeline(out)


def test_tables_of_older_schemas_have_mean_steps(timeline: Timeline, old_timeline: Timeline) -> None:
    assert old_timeline.manifest_columns == ["manifest_start_s", "manifest_precision", "manifest_yaw_deg"]
    poses = old_timeline.sql("SELECT DISTINCT yaw_deg, pitch_deg, manifest_yaw_deg FROM tracks").fetchall()
    assert poses == [(pytest.approx(45), None, "left")]
    columns = "manifest_start_s, start_s, manifest_precision, precision"
    rows = old_timeline.sql(f"SELECT {columns} FROM videos").fetchall()
    assert rows == [("noon", None, "low", None)] * 3
    for query in (Timeline.episodes, Timeline.shares):
        one, other = (query(each, video=ODD).df() for each in (old_timeline, timeline))
        pd.testing.assert_frame_equal(one[other.columns], other, atol=0.05)
    ends = select(old_timeline.episodes(video=UNEVEN), "end_s")
    assert ends[-1] == (70.0,)
    assert old_timeline.join_events(pa.table({"time_s": [0.1]}), video=LATE).df()["faces"].tolist() == [1]
    old_timeline.export(Path(str(old_timeline.out)).parent / "a.vtt", videos=[LATE])
    assert render_report(old_timeline, UNEVEN)
    assert divide_videos(old_timeline, [video_id(UNEVEN)], 400)


@pytest.fixture(scope="module")
def report(timeline: Timeline, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("report") / "uneven.html"
    path.write_text(render_report(timeline, UNEVEN))
    return path.as_uri()


def test_page_shows_frames_as_long_as_they_last(look: Callable[..., Seen], report: str) -> None:
    page = look().open(report)

    def moment_at(time_s: float) -> Any:
        return page.evaluate("(t) => fer.page.video.times[fer.page.video.momentAt(t)] ?? null", time_s)

    times = [0.1, 5.9, 8.9, 9.1, 68.9, 69.0, 69.95, 70.1]
    assert [moment_at(time_s) for time_s in times] == [0.0, 4.0, 8.8, None, None, 69.0, 69.8, None]
    runs = page.evaluate(
        "(width) => fer.runsOf(fer.pointsOf(fer.page.video, fer.page.video.faces[0], 0, 70, width))", 5000
    )
    wide = page.evaluate(
        "() => fer.runsOf(fer.pointsOf(fer.page.video, fer.page.video.faces[0], 0, 70, 200))"
    )
    happy, sad = EMOTIONS.index("happy"), EMOTIONS.index("sad")
    for found in (runs, wide):
        assert [kind for kind, *_ in found] == [happy, sad, sad]
        spans = np.array([[0, 8], [8, 9], [69, 70]])
        assert np.array([span for _, *span in found]) == pytest.approx(spans, abs=1.3)
    assert np.array([span for _, *span in runs]) == pytest.approx(spans)
    assert page.evaluate("[fer.page.video.end_s, fer.page.video.step_s]") == [70, 0.2]


def test_page_adds_the_start_to_seek(timeline: Timeline, look: Callable[..., Seen], tmp_path: Path) -> None:
    path = tmp_path / "late.html"
    path.write_text(render_report(timeline, LATE))
    page = look().open(path.as_uri())
    assert page.evaluate("fer.page.video.start_s") == 2.5
    facts = page.locator(".facts div").all_text_contents()
    assert "picture begins at0:02.5" in facts
