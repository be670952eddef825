"""The list, the page, the plots and `resample` show the same cells."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fer_batch.schema import EMOTIONS
from fer_batch.timeline.cells import NO_FACE, NOT_ANALYZED, VideoCells, divide_videos
from fer_batch.timeline.store import Timeline, open_timeline
from fer_batch.timeline.viewer import payload
from fer_batch.timeline.viewer.catalogue import STRIP_CELLS, Catalogue
from tests.runs import VideoContent, video_id, write_tables

HAPPY, SAD = EMOTIONS.index("happy"), EMOTIONS.index("sad")
TWELVE_S = [round(k / 12, 3) for k in range(120)]
KEY_FRAMES_S = [0.0, 2.5, 5.1, 7.4]
VIDEOS = {
    "/a/failed.mp4": VideoContent(duration_s=0.0, moments_s=[]),
    "/a/empty.mp4": VideoContent(duration_s=4.0, moments_s=[k / 5 for k in range(20)]),
    "/a/twelve.mp4": VideoContent(
        duration_s=10.0, moments_s=TWELVE_S, faces=[(0, t, "happy", 0.9, 0.1) for t in TWELVE_S]
    ),
    "/a/keys.mp4": VideoContent(
        duration_s=10.0, moments_s=KEY_FRAMES_S, faces=[(0, t, "sad", 0.9, 0.1) for t in KEY_FRAMES_S]
    ),
    "/a/pause.mp4": VideoContent(
        duration_s=20.0,
        moments_s=[k / 5 for k in (*range(25), *range(50, 75))],
        faces=[(0, k / 5, "happy", 0.9, 0.1) for k in (*range(10), *range(50, 75))],
    ),
    "/a/tie.mp4": VideoContent(
        duration_s=1.0,
        moments_s=[0.0, 0.5],
        faces=[
            (track, t, kind, 0.8, 0.1 + 0.5 * track)
            for t in (0.0, 0.5)
            for track, kind in ((0, "sad"), (1, "happy"))
        ],
    ),
}


@pytest.fixture(scope="module")
def timeline(tmp_path_factory: pytest.TempPathFactory) -> Timeline:
    return open_timeline(write_tables(tmp_path_factory.mktemp("cells") / "out", VIDEOS))


def resample(timeline: Timeline, uri: str, count: int) -> list[int]:
    """Return the numbers of a video's cells by `resample`."""
    rows = timeline.resample(VIDEOS[uri].duration_s / count, video=uri).df()
    states = {"no face": NO_FACE, "not analyzed": NOT_ANALYZED}
    return [
        states.get(state, -1) if state != "face" else EMOTIONS.index(emotion)
        for state, emotion in zip(rows["state"], rows["emotion"], strict=True)
    ]


@pytest.mark.parametrize("uri", [uri for uri in VIDEOS if VIDEOS[uri].duration_s])
def test_all_views_show_the_same_cells(timeline: Timeline, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payload, "STRIP_CELLS", STRIP_CELLS)
    video = video_id(uri)
    in_list = Catalogue(timeline.out).draw_strips([video])[video]["cells"]
    packed = payload.pack_video(timeline, video, boxes=False)
    assert bytes(in_list) in packed
    cells = divide_videos(timeline, [video], STRIP_CELLS)[video]
    assert in_list == cells.number().tolist() == resample(timeline, uri, STRIP_CELLS)


def test_cells_have_the_state_of_their_time(timeline: Timeline) -> None:
    numbers = {
        uri: cells.number()
        for uri in VIDEOS
        for cells in divide_videos(timeline, [video_id(uri)], 100).values()
    }
    assert numbers["/a/failed.mp4"].tolist() == [NOT_ANALYZED]
    assert set(numbers["/a/empty.mp4"]) == {NO_FACE}
    assert set(numbers["/a/twelve.mp4"]) == {HAPPY}
    assert set(numbers["/a/keys.mp4"][:98]) == {SAD}
    pause = numbers["/a/pause.mp4"].tolist()
    assert pause == [HAPPY] * 10 + [NO_FACE] * 15 + [NOT_ANALYZED] * 25 + [HAPPY] * 25 + [NOT_ANALYZED] * 25
    assert set(numbers["/a/tie.mp4"]) == {min(HAPPY, SAD)}  # of equal means, the first class


def test_times_without_cells_have_no_means(timeline: Timeline) -> None:
    cells = divide_videos(timeline, [video_id("/a/pause.mp4")], 100, ["track 0"])[video_id("/a/pause.mp4")]
    times_s = np.array([-0.1, 0.1, 3.0, 7.0, 12.0, 19.0, 20.0])
    assert (cells.find(times_s) >= 0).tolist() == [False, True, True, False, True, False, False]
    assert np.isnan(cells.means_at(times_s, "track 0")[:, 0]).tolist() == [
        True,
        False,
        True,
        True,
        False,
        True,
        True,
    ]


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(st.sampled_from([2, 3]), min_size=30, max_size=60),
    fps=st.sampled_from([10, 12, 24, 25, 29.97, 30]),
    digits=st.sampled_from([3, 9]),
    count=st.integers(1, 300),
)
def test_a_face_in_all_frames_has_no_gaps(
    tmp_path_factory: pytest.TempPathFactory, steps: list[int], fps: float, digits: int, count: int
) -> None:
    times_s = [round(float(frame / fps), digits) for frame in np.cumsum([0, *steps])]
    content = VideoContent(
        duration_s=times_s[-1] + 1 / fps,
        moments_s=times_s,
        faces=[(0, t, "happy", 0.9, 0.1) for t in times_s],
    )
    timeline = open_timeline(write_tables(tmp_path_factory.mktemp("gaps") / "out", {"/v.mp4": content}))
    (cells,) = divide_videos(timeline, [video_id("/v.mp4")], count).values()
    assert isinstance(cells, VideoCells)
    assert set(cells.number()) == {HAPPY}
