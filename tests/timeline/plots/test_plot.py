"""Plots show the tables' rows, also without colour."""

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from fer_batch.config import AnalyzeConfig
from fer_batch.errors import QueryError
from fer_batch.plotting import SCREEN_DPI, pick_colour, save_figure
from fer_batch.run.finalize import finalize
from fer_batch.run.record import create_run
from fer_batch.run.results import write_bundle
from fer_batch.schema import EMOTIONS, RESULTS_SCHEMA, pack_bundle
from fer_batch.timeline.assign import assign_from_csv
from fer_batch.timeline.plots.ribbons import MAX_FACES
from fer_batch.timeline.plots.shares import MAX_BARS
from fer_batch.timeline.plots.strip import MAX_VIDEOS
from fer_batch.timeline.store import Timeline, open_timeline
from tests.runs import CARD, Tracks, make_segment_result, plan_videos, video_id, write_run

HOSTILE = "/talks/$x^2$ <script>.mp4"
VIDEOS: dict[str, Tracks | None] = {
    "/talks/a.mp4": [["happy", "happy", "sad", "sad", "sad"], ["neutral", "neutral"]],
    HOSTILE: [["surprise"] * 5],
    "/talks/empty.mp4": [],
    "/talks/broken.mp4": None,
}


@pytest.fixture(scope="module")
def timeline(tmp_path_factory: pytest.TempPathFactory) -> Timeline:
    return open_timeline(write_run(tmp_path_factory.mktemp("plot") / "run", VIDEOS))


@pytest.fixture(scope="module")
def gappy(tmp_path_factory: pytest.TempPathFactory) -> Timeline:
    """One face, and no frames from 0.4 to 0.8 s."""
    out = tmp_path_factory.mktemp("gappy") / "run"
    out.mkdir()
    create_run(out, AnalyzeConfig(), CARD, bucket_s=1e6)
    plan = plan_videos(out, {"/talks/gap.mp4": [["happy"] * 5]})
    row = make_segment_result(plan.to_pylist()[0], [["happy"] * 5])
    for name in ("moments", "faces"):
        row[name] = [one for one in row[name] if one["time_s"] not in (0.4, 0.6)]
        row[name][-1]["frame_index"] = 10
    row["frames"] = 15
    (out / "results").mkdir()
    write_bundle(
        out / "results",
        pack_bundle(plan["bundle_id"][0].as_py(), pa.Table.from_pylist([row], schema=RESULTS_SCHEMA)),
    )
    finalize(out)
    return open_timeline(out)


def colour_at(axes: Axes, x: float, y: float) -> str | None:
    """Return the class that is drawn at a place, None for an empty place."""
    for image in axes.images:
        left, right, bottom, top = image.get_extent()
        if left <= x < right and min(bottom, top) <= y < max(bottom, top):
            pixels = np.asarray(image.get_array())
            line = int((y - top) / (bottom - top) * pixels.shape[0])
            red, green, blue, alpha = pixels[line, int((x - left) / (right - left) * pixels.shape[1])]
            return f"#{red:02x}{green:02x}{blue:02x}" if alpha else None
    return None


def emotions_at(axes: Axes, places: Sequence[tuple[float, float]]) -> list[str | None]:
    names = {pick_colour(name, EMOTIONS): name for name in EMOTIONS} | {None: None}
    return [names[colour_at(axes, *place)] for place in places]


def hatched(axes: Axes) -> list[tuple[float, float]]:
    """Return the hatched ranges in units of the axis."""
    found = [p for p in axes.patches if isinstance(p, Rectangle) and p.get_hatch()]
    return [(round(p.get_x(), 2), round(p.get_x() + p.get_width(), 2)) for p in found]


def words(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts if text.get_text()]


def rows(axes: Axes) -> list[str]:
    return [label.get_text() for label in axes.get_yticklabels()]


def meanings(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_ribbons_show_each_face_over_time(timeline: Timeline) -> None:
    figure = timeline.plot_ribbons(video_id("/talks/a.mp4"))
    (axes,) = figure.axes
    assert rows(axes) == ["track 0", "track 1"]
    assert axes.get_xlim() == (0, 1)
    above = [(0.1, 0.2), (0.39, 0.2), (0.41, 0.2), (0.99, 0.2), (0.3, 1.2), (0.41, 1.2)]
    assert emotions_at(axes, above) == ["happy", "happy", "sad", "sad", "neutral", None]
    assert words(axes) == ["happy", "sad", "neutral"]
    # Below, probabilities from the bottom in the order of the classes: 0.9 happy above 3 × 0.1 / 6.
    below = [(0.1, 0.4 + 0.52 * (1 - share)) for share in (0.001, 0.1, 0.9, 0.999)]
    assert emotions_at(axes, below) == ["angry", "happy", "happy", "surprise"]
    assert hatched(axes) == []
    assert meanings(figure)[:3] == ["A  angry", "D  disgust", "F  fear"]
    assert meanings(figure)[7:] == ["no face"]


def test_ribbons_hatch_times_without_frames(gappy: Timeline) -> None:
    figure = gappy.plot_ribbons(video_id("/talks/gap.mp4"))
    (axes,) = figure.axes
    assert emotions_at(axes, [(0.1, 0.2), (0.6, 0.2), (0.9, 0.2)]) == ["happy", None, "happy"]
    assert hatched(axes) == [pytest.approx((0.4, 0.8), abs=0.01)]
    assert meanings(figure)[7:] == ["no face", "not analyzed"]


def test_ribbons_without_faces(timeline: Timeline) -> None:
    (axes,) = timeline.plot_ribbons(video_id("/talks/empty.mp4")).axes
    assert words(axes) == ["no face was found"]
    with pytest.raises(QueryError, match=r"broken.mp4: no frame was analyzed \(no index\)"):
        timeline.plot_ribbons(video_id("/talks/broken.mp4"))


def test_ribbons_show_the_longest_of_many_faces(tmp_path: Path) -> None:
    tracks = [["happy"] * (1 + number % 5) for number in range(MAX_FACES + 8)]
    figure = open_timeline(write_run(tmp_path / "run", {"/a.mp4": tracks})).plot_ribbons(video_id("/a.mp4"))
    assert len(rows(figure.axes[0])) == MAX_FACES
    assert "track 4" in rows(figure.axes[0])
    assert "track 0" not in rows(figure.axes[0])
    assert "the 12 faces seen longest of 20" in figure.get_suptitle()


@pytest.mark.parametrize("absolute", [False, True])
def test_strip_has_a_row_for_each_video(timeline: Timeline, absolute: bool) -> None:
    figure = timeline.plot_strip(absolute=absolute)
    (axes,) = figure.axes
    assert rows(axes) == ["$x^2$ <script>.mp4", "a.mp4", "broken.mp4", "empty.mp4"]
    places = [(0.1, 0.5), (0.1, 1.5), (0.9, 1.5), (0.1, 2.5), (0.1, 3.5)]
    assert emotions_at(axes, places) == ["surprise", "happy", "sad", None, None]
    assert hatched(axes) == [(0, 1)]  # of the one that failed
    assert axes.get_xlabel() == ("time, seconds" if absolute else "of each video's length")


def test_strip_of_one_emotion_shows_its_probability(timeline: Timeline) -> None:
    axes = timeline.plot_strip("happy").axes[0]
    row = np.ma.filled(axes.images[1].get_array(), np.nan)[0]
    assert row[0] == pytest.approx((0.9 + 0.1 / 6) / 2)  # of two faces
    assert row[-1] == pytest.approx(0.1 / 6)
    assert np.isnan(np.ma.filled(axes.images[3].get_array(), np.nan)).all()
    with pytest.raises(QueryError, match="There is no emotion love; this run has angry, disgust"):
        timeline.plot_strip("love")


def test_strip_and_shares_limit_their_rows(tmp_path: Path) -> None:
    videos: dict[str, Tracks | None] = {f"/{'v' * (n + 1)}.mp4": [["sad"]] for n in range(MAX_VIDEOS + 5)}
    timeline = open_timeline(write_run(tmp_path / "run", videos))
    for figure, most in ((timeline.plot_strip(), MAX_VIDEOS), (timeline.plot_shares(), MAX_BARS)):
        assert len(rows(figure.axes[0])) == most
        assert f"the first {most} of 65 videos" in figure.get_suptitle()
        assert figure.get_figheight() < 16


def test_plot_without_rows_raises_query_error(tmp_path: Path) -> None:
    timeline = open_timeline(write_run(tmp_path / "run", {}))
    with pytest.raises(QueryError, match="no videos"):
        timeline.plot_strip()
    with pytest.raises(QueryError, match="no face was found"):
        timeline.plot_shares()
    with pytest.raises(QueryError, match="fer-batch assign"):
        timeline.plot_shares(by_person=True)


def bars(axes: Axes) -> list[list[float]]:
    """Return the widths of each row's bars."""
    widths = [[round(float(bar.get_width()), 3) for bar in emotion] for emotion in axes.containers]
    return [list(row) for row in zip(*widths, strict=True)]


def test_shares_equal_the_tables(timeline: Timeline) -> None:
    (axes,) = timeline.plot_shares().axes
    assert rows(axes) == ["$x^2$ <script>.mp4  (5)", "a.mp4  (7)"]
    of_a = dict(zip(EMOTIONS, bars(axes)[1], strict=True))
    wanted = {"happy": 2 / 7, "sad": 3 / 7, "neutral": 2 / 7}
    assert of_a == {name: round(wanted.get(name, 0), 3) for name in EMOTIONS}
    assert sorted(words(axes)) == ["H 29 %", "N 29 %", "Sa 43 %", "Su 100 %"]
    (axes,) = timeline.plot_shares(video_id("/talks/a.mp4")).axes
    assert rows(axes) == ["track 0  (5)", "track 1  (2)"]


@pytest.mark.parametrize("suffix", [".png", ".svg", ".PNG"])
def test_same_figure_gives_the_same_file(timeline: Timeline, tmp_path: Path, suffix: str) -> None:
    paths = [tmp_path / f"{name}{suffix}" for name in ("one", "two")]
    for path in paths:
        figure = timeline.plot_strip()
        save_figure(figure, path, SCREEN_DPI)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == [path.name for path in paths]
    if suffix == ".svg":
        assert paths[0].read_bytes().startswith(b"<?xml")
        assert b"<script" not in paths[0].read_bytes()
    else:
        width, height = figure.get_size_inches()
        assert Image.open(paths[0]).size == (round(width * SCREEN_DPI), round(height * SCREEN_DPI))


def test_letters_fit_into_their_bars(timeline: Timeline) -> None:
    figure = timeline.plot_shares()
    figure.canvas.draw()
    for emotion in figure.axes[0].containers:
        for bar in emotion:
            inside = bar.get_window_extent()
            middle = (inside.x0 + inside.x1) / 2
            for text in figure.axes[0].texts:
                place = text.get_window_extent()
                if text.get_text() and place.x0 < middle < place.x1 and inside.y0 < place.y0 < inside.y1:
                    assert inside.x0 <= place.x0 < place.x1 <= inside.x1


def test_persons_have_lanes_and_bars(tmp_path: Path) -> None:
    out = write_run(tmp_path / "run", {"/a.mp4": [["happy"] * 2, ["sad"], ["angry"]], "/bb.mp4": [["sad"]]})
    (tmp_path / "people.csv").write_text(
        "video,track_id,person\na.mp4,0,Zoë $1$\na.mp4,2,Zoë $1$\nbb.mp4,0,Bo\n"
    )
    assign_from_csv(out, tmp_path / "people.csv")
    timeline = open_timeline(out)
    assert rows(timeline.plot_ribbons(video_id("/a.mp4")).axes[0]) == ["Zoë $1$", "track 1"]
    axes = timeline.plot_shares(by_person=True).axes[0]
    assert rows(axes) == ["Bo  (1)", "Zoë $1$  (3)"]
    assert dict(zip(EMOTIONS, bars(axes)[1], strict=True))["happy"] == pytest.approx(2 / 3, abs=0.001)


def test_hostile_names_are_drawn_as_text(tmp_path: Path) -> None:
    out = write_run(tmp_path / "run", {"/a.mp4": [["happy"]]})
    (tmp_path / "people.csv").write_text('video,track_id,person\na.mp4,0,"--><script>\n\x08$\\frac$"\n')
    assign_from_csv(out, tmp_path / "people.csv")
    timeline = open_timeline(out)
    for figure in (timeline.plot_ribbons(video_id("/a.mp4")), timeline.plot_shares(by_person=True)):
        save_figure(figure, tmp_path / "x.svg")
        elements = [element.tag for element in ElementTree.parse(tmp_path / "x.svg").iter()]
        assert "script" not in "".join(elements)
        assert rows(figure.axes[0])[0].startswith("--><script>  $\\frac$")
