"""Every part that names a video, a person or an emotion accepts the names that people use."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fer_batch.errors import QueryError
from fer_batch.timeline.assign import assign_by_position
from fer_batch.timeline.plots.ribbons import plot_ribbons
from fer_batch.timeline.plots.shares import plot_shares
from fer_batch.timeline.store import Timeline, open_timeline
from tests.runs import video_id, write_tables
from tests.timeline.videos import SHOP, TALK, VIDEOS


@pytest.fixture(scope="module")
def timeline(tmp_path_factory: pytest.TempPathFactory) -> Timeline:
    return open_timeline(write_tables(tmp_path_factory.mktemp("names") / "out", VIDEOS))


@pytest.mark.parametrize(
    "name", [TALK, "talk.mp4", "a/talk.mp4", Path(TALK), Path("talk.mp4"), video_id(TALK)]
)
@pytest.mark.parametrize(
    "use",
    [
        lambda timeline, name: timeline.video_id(name),
        lambda timeline, name: timeline.episodes(video=name).fetchall(),
        lambda timeline, name: timeline.resample(video=name).fetchall(),
        lambda timeline, name: len(timeline.to_pandas(video=name)),
        lambda timeline, name: len(plot_ribbons(timeline, name).axes),
        lambda timeline, name: len(plot_shares(timeline, name).axes),
    ],
    ids=["video_id", "episodes", "resample", "to_pandas", "plot_ribbons", "plot_shares"],
)
def test_video_has_many_names(
    timeline: Timeline, name: str | Path, use: Callable[[Timeline, Any], Any]
) -> None:
    assert use(timeline, name) == use(timeline, TALK) != []


@pytest.mark.parametrize("name", ["./talk.mp4", "../a/talk.mp4", "./../a/./talk.mp4"])
def test_relative_path_names_a_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (tmp_path / "a").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    uri = str(tmp_path / "a" / "talk.mp4")
    timeline = open_timeline(write_tables(tmp_path / "out", {uri: VIDEOS[TALK], SHOP: VIDEOS[SHOP]}))
    assert timeline.video_id(name) == video_id(uri)


@pytest.mark.parametrize("name", ["happy", "Happy", "happiness", "JOY", " joyful "])
def test_emotion_has_synonyms(timeline: Timeline, name: str) -> None:
    assert timeline.episodes(name).fetchall() == timeline.episodes("happy").fetchall() != []
    assert timeline.peaks(name).fetchall() == timeline.peaks("happy").fetchall()
    timeline.plot_strip(name)


def test_unknown_emotion_is_reported(timeline: Timeline) -> None:
    with pytest.raises(QueryError, match="no emotion love; this run has angry"):
        timeline.episodes("love")


@pytest.mark.parametrize("query", [Timeline.shares, Timeline.resample])
def test_groups_by_person_need_persons(tmp_path: Path, query: Callable[..., Any]) -> None:
    out = write_tables(tmp_path / "out", VIDEOS)
    with pytest.raises(QueryError, match=r"no face in .* has one; give persons with `fer-batch assign`"):
        query(open_timeline(out), by="person")
    assign_by_position(out, ["Ann"], ["shop.mp4"])
    assert "Ann" in set(query(open_timeline(out), by="person").df()["person"])
