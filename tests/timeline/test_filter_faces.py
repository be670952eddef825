"""A timeline with only some faces: its views, plots, exports and pages."""

from pathlib import Path

import pytest

from fer_batch.errors import QueryError
from fer_batch.schema import EMOTIONS
from fer_batch.timeline.assign import assign_by_position
from fer_batch.timeline.store import Timeline, open_timeline
from fer_batch.timeline.viewer.catalogue import Catalogue
from fer_batch.timeline.viewer.payload import pack_video
from tests.runs import VideoContent, video_id, write_tables

GRID_S = [0.0, 0.2, 0.4, 0.6]
TEXT = "faces with confidence ≥ 0.5"


@pytest.fixture(scope="module")
def timeline(tmp_path_factory: pytest.TempPathFactory) -> Timeline:
    """A video of Ann, who is surely happy, and Bo, who may be sad; and a video of Bo."""
    ann = [(0, time_s, "happy", 0.9, 0.1) for time_s in GRID_S]
    bo = [(1, time_s, "sad", 0.4, 0.6) for time_s in GRID_S]
    out = write_tables(
        tmp_path_factory.mktemp("filter") / "out",
        {
            "/both.mp4": VideoContent(duration_s=0.8, moments_s=GRID_S, faces=[*ann, *bo]),
            "/bo.mp4": VideoContent(duration_s=0.8, moments_s=GRID_S, faces=bo),
        },
    )
    assign_by_position(out, ["Ann", "Bo"], ["both.mp4"])
    return open_timeline(out)


@pytest.fixture(scope="module")
def sure(timeline: Timeline) -> Timeline:
    return timeline.filter_faces(min_confidence=0.5)


def test_views_have_only_these_faces(timeline: Timeline, sure: Timeline) -> None:
    for query, rows in {
        "SELECT uri, track_id, count(*) FROM tracks GROUP BY ALL": [("/both.mp4", 0, 4)],
        "SELECT uri, emotion FROM episodes": [("/both.mp4", "happy")],
        "SELECT uri, faces FROM summary ORDER BY uri": [("/bo.mp4", 0), ("/both.mp4", 4)],
        "SELECT DISTINCT person FROM moments WHERE person IS NOT NULL": [("Ann",)],
        "SELECT DISTINCT sum(moments) FROM videos": [(8,)],
    }.items():
        assert sure.sql(query).fetchall() == rows, query
    assert timeline.sql("SELECT count(*) FROM tracks").fetchall() == [(12,)]


def test_filters_add_up_and_hold_in_one_bucket(timeline: Timeline, sure: Timeline) -> None:
    assert timeline.filter_faces().to_pandas().equals(timeline.to_pandas())
    assert timeline.filter_faces(min_confidence=None).face_filter == ""
    assert sure.filter_faces(min_face_px=10).to_pandas().empty
    assert sure.narrow([video_id("/both.mp4")]).sql("SELECT count(*) FROM tracks").fetchall() == [(4,)]
    assert len(sure.to_pandas(video="both.mp4")) == 4
    assert sure.shares(video="bo.mp4").fetchall() == []
    with pytest.raises(QueryError, match="max_yaw_deg must be at least 0 and below 90, got 90"):
        timeline.filter_faces(max_yaw_deg=90)


def test_plots_show_these_faces_and_name_the_filter(timeline: Timeline, sure: Timeline) -> None:
    for figure in (sure.plot_ribbons("both.mp4"), sure.plot_strip(), sure.plot_shares()):
        assert figure.get_suptitle().endswith(f"only {TEXT}")
    assert "only" not in timeline.plot_strip().get_suptitle()
    (axes,) = sure.plot_ribbons("both.mp4").axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["Ann"]
    (axes,) = sure.plot_ribbons("bo.mp4").axes
    assert [text.get_text() for text in axes.texts] == ["no face matches the filter"]
    with pytest.raises(QueryError, match="no face matches the filter"):
        sure.plot_shares("bo.mp4")


def test_exports_have_these_faces_and_name_the_filter(sure: Timeline, tmp_path: Path) -> None:
    (rows,) = sure.export(tmp_path / "rows.csv")
    assert rows.entries == 4 == len((tmp_path / "rows.csv").read_text().splitlines()) - 1
    sure.export(tmp_path / "both.vtt", videos=["both.mp4"])
    text = (tmp_path / "both.vtt").read_text()
    assert f"Only {TEXT}." in text
    assert "happy" in text and "sad" not in text
    sure.export(tmp_path / "both.xlsx")


def test_pages_have_these_faces(timeline: Timeline, sure: Timeline) -> None:
    video = video_id("/both.mp4")
    strip = Catalogue(timeline.out).draw_strips([video])[video]
    assert sum(strip["counts"]) == 8
    strip = Catalogue(timeline.out, {"min_confidence": 0.5}).draw_strips([video])[video]
    assert sum(strip["counts"]) == 4
    assert strip["counts"][EMOTIONS.index("happy")] == 4
    assert TEXT.encode() in pack_video(sure, video, boxes=False)
    assert sure.write_report("both.mp4", timeline.out.path.parent / "both.html") > 0


def test_other_faces_are_never_left_visible(sure: Timeline, tmp_path: Path) -> None:
    with pytest.raises(QueryError, match=f"Cannot hide only {TEXT}: all other faces would stay visible"):
        sure.write_overlay("both.mp4", tmp_path / "x.mp4", blur_faces=True)
