"""Overlays: boxes, names and emotions on the frames of a video, and hidden faces."""

import os
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pytest

from fer_batch.config import AnalyzeConfig
from fer_batch.errors import DecodeError, FerBatchError, InputError, OutputError, QueryError
from fer_batch.inputs.listing import list_videos
from fer_batch.inputs.segments import plan_segments
from fer_batch.plotting import pick_colour
from fer_batch.run.finalize import finalize
from fer_batch.run.plan import add_planning_round
from fer_batch.run.record import create_run
from fer_batch.run.results import write_bundle
from fer_batch.schema import EMOTIONS, PROBED_SCHEMA, RESULTS_SCHEMA, pack_bundle
from fer_batch.timeline.assign import assign_from_csv
from fer_batch.timeline.plots.overlay import BLUR_MARGIN, write_overlay
from fer_batch.timeline.store import open_timeline
from fer_batch.video.redraw import RedrawResult
from tests.conftest import write_video
from tests.runs import CARD, Tracks, make_segment_result, probed, video_id
from tests.s3 import Store

WIDTH, HEIGHT = 640, 360
FACES: Tracks = [["happy"] * 5, ["sad", "sad"]]
"""The first face is visible at 0, 0.2 … 0.8 s, the second at 0 and 0.2 s."""


def move_first_face(row: dict[str, Any]) -> None:
    """Move the first face to the right, by a tenth of the frame in each step."""
    for face in row["faces"]:
        if face["track"] == 0:
            for side in ("box_x0", "box_x1"):
                face[side] += 0.5 * face["time_s"]


def write_run_of(
    out: Path,
    uri: str,
    tracks: Tracks = FACES,
    change: Callable[[dict[str, Any]], None] = move_first_face,
    **known: Any,
) -> Path:
    """Write a finished run of one video of one second; `change` may edit the row of its results."""
    out.mkdir(parents=True)
    create_run(out, AnalyzeConfig(), CARD, bucket_s=1e6)
    rows = pa.Table.from_pylist([probed(uri, tracks) | known], schema=PROBED_SCHEMA)
    plan = plan_segments(rows, AnalyzeConfig(), CARD.half_window_s, CARD.model_id, workers=1)
    add_planning_round(out, rows, plan)
    (out / "results").mkdir()
    for segment in plan.to_pylist():
        row = make_segment_result(segment, tracks)
        change(row)
        for moment in row["moments"]:
            moment["faces"] = sum(face["time_s"] == moment["time_s"] for face in row["faces"])
        write_bundle(
            out / "results",
            pack_bundle(segment["bundle_id"], pa.Table.from_pylist([row], schema=RESULTS_SCHEMA)),
        )
    finalize(out)
    return out


@pytest.fixture(scope="module")
def grey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write one second of fine grey stripes, on which drawings and blurring are visible."""
    image = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    image[:, ::4] = image[:, 1::4] = 160
    return write_video(tmp_path_factory.mktemp("grey") / "grey.mp4", [image] * 25, crf="10")


def read_overlay(out: Path, video: Path, target: Path, **options: Any) -> list[np.ndarray]:
    """Write an overlay and return its frames, `(H, W, 3) int`."""
    write_video_overlay(out, video, target, **options)
    return read_frames(target)


def write_video_overlay(out: Path, video: object, target: Path, **options: Any) -> RedrawResult:
    return write_overlay(open_timeline(out), video_id(str(video)), target, **options)


def read_frames(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(video=0)]


def parse_colour(colour: str) -> list[int]:
    return [int(colour[at : at + 2], 16) for at in (1, 3, 5)]


def measure_detail(image: np.ndarray) -> float:
    """Return the mean difference of pixels that are two apart, the width of a stripe."""
    return float(np.abs(image[:, 2:] - image[:, :-2]).mean())


@pytest.fixture(scope="module")
def moving(grey: Path, tmp_path_factory: pytest.TempPathFactory) -> list[np.ndarray]:
    """The frames of an overlay with one face, which moves to the right."""
    folder = tmp_path_factory.mktemp("moving")
    return read_overlay(write_run_of(folder / "run", str(grey), [["happy"] * 5]), grey, folder / "out.mp4")


@pytest.mark.parametrize(
    ("frame", "left"), [(0, 0.1), (1, 0.12), (4, 0.18), (5, 0.2), (12, 0.34), (20, 0.5), (24, 0.5)]
)
def test_boxes_move_evenly_between_sampled_frames(
    grey: Path, moving: list[np.ndarray], frame: int, left: float
) -> None:
    image = moving[frame]
    x0, x1, y0, y1 = left * WIDTH, (left + 0.2) * WIDTH, 0.2 * HEIGHT, 0.6 * HEIGHT
    yellow = np.abs(image - parse_colour(pick_colour("happy", EMOTIONS))).max(axis=2) < 60
    middle = yellow[int(y0 + y1) // 2]
    columns = np.flatnonzero(middle)[[0, -1]]
    # The right edge may have a bar of the panel beside it; the left has the box's line alone.
    assert columns[0] == pytest.approx(x0, abs=3)
    assert yellow[int(y1) - 8, int(x1) - 4 : int(x1) + 1].any()
    lines = np.flatnonzero(yellow[:, int(x0 + x1) // 2])
    assert lines[-1] == pytest.approx(y1, abs=3)
    inside = image[int(y0) + 8 : int(y1) - 8, int(x0) + 8 : int(x1) - 8]
    assert measure_detail(inside) > 40
    assert np.abs(image[300:] - read_frames(grey)[frame][300:]).mean() < 4


def test_box_stays_one_step_after_the_last_row(grey: Path, tmp_path: Path) -> None:
    images = read_overlay(write_run_of(tmp_path / "run", str(grey)), grey, tmp_path / "out.mp4")
    blue = parse_colour(pick_colour("sad", EMOTIONS))
    edge = [np.abs(image[180, 256:264] - blue).max(axis=1).min() < 40 for image in images]
    assert edge == [n < 10 for n in range(25)]  # 0.2 s and a step


def test_face_in_a_gap_is_hidden_but_not_drawn(grey: Path, tmp_path: Path) -> None:
    def away(row: dict[str, Any]) -> None:
        row["faces"] = [face for face in row["faces"] if face["time_s"] not in (0.2, 0.4)]

    out = write_run_of(tmp_path / "run", str(grey), [["happy"] * 5], away)
    for blur in (False, True):
        images = read_overlay(out, grey, tmp_path / f"{blur}.mp4", blur_faces=blur)
        yellow = parse_colour(pick_colour("happy", EMOTIONS))
        edge = [np.abs(image[140, 60:72] - yellow).max(axis=1).min() < 60 for image in images]
        assert edge == [n < 5 or n >= 15 for n in range(25)]
        inside = [measure_detail(image[90:200, 80:180]) for image in images]
        assert max(inside) < 15 if blur else min(inside) > 40


def test_hidden_faces_lose_all_detail(grey: Path, tmp_path: Path) -> None:
    out = write_run_of(tmp_path / "run", str(grey))
    images = read_overlay(out, grey, tmp_path / "out.mp4", blur_faces=True)
    original = read_frames(grey)
    for number, image in enumerate(images):
        left = int((0.1 + 0.5 * min(number / 25, 0.8)) * WIDTH)
        wide, high = int(BLUR_MARGIN * 0.2 * WIDTH), int(BLUR_MARGIN * 0.4 * HEIGHT)
        hidden = image[int(0.6 * HEIGHT) + 6 : int(0.6 * HEIGHT) + high - 4, left - wide + 4 : left + wide]
        assert measure_detail(hidden) < 15  # the margin below the box
        assert measure_detail(image[80:200, left + 10 : left + 110]) < 15
        assert np.abs(image[290:] - original[number][290:]).mean() < 4
        assert measure_detail(image[290:]) > 40
    # The second face is hidden to a step after it was last seen.
    assert [measure_detail(image[100:200, 276:370]) < 15 for image in images][:10] == [True] * 10


def test_face_is_hidden_one_step_before_its_first_row(grey: Path, tmp_path: Path) -> None:
    def later(row: dict[str, Any]) -> None:
        row["faces"] = [face for face in row["faces"] if face["time_s"] >= 0.4]

    out = write_run_of(tmp_path / "run", str(grey), [["happy"] * 5], later)
    images = read_overlay(out, grey, tmp_path / "out.mp4", blur_faces=True)
    assert [measure_detail(image[100:200, 80:180]) < 15 for image in images] == [n >= 5 for n in range(25)]


def test_times_without_sampled_frames_are_hidden_as_a_whole(grey: Path, tmp_path: Path) -> None:
    def partly(row: dict[str, Any]) -> None:
        for name in ("moments", "faces"):
            row[name] = [one for one in row[name] if one["time_s"] < 0.5]
        row["read_s"] = 0.6

    out = write_run_of(tmp_path / "run", str(grey), change=partly)
    images = read_overlay(out, grey, tmp_path / "out.mp4", blur_faces=True)
    assert [measure_detail(image[290:]) < 15 for image in images] == [n >= 15 for n in range(25)]


def test_video_without_faces_is_unchanged(grey: Path, tmp_path: Path) -> None:
    out = write_run_of(tmp_path / "run", str(grey), [])
    for blur in (False, True):
        images = read_overlay(out, grey, tmp_path / "out.mp4", blur_faces=blur)
        assert max(np.abs(a - b).mean() for a, b in zip(images, read_frames(grey), strict=True)) < 4


def test_name_of_a_person_is_drawn(grey: Path, tmp_path: Path) -> None:
    out = write_run_of(tmp_path / "run", str(grey), [["happy"] * 5], lambda row: None)
    before = read_overlay(out, grey, tmp_path / "before.mp4")[0]
    (tmp_path / "people.csv").write_text('video,track_id,person\ngrey.mp4,0,"Zoë\n<script>"\n')
    assign_from_csv(out, tmp_path / "people.csv")
    after = read_overlay(out, grey, tmp_path / "after.mp4")[0]
    label = slice(56, 72), slice(60, 240)  # above the box
    assert np.abs(before[label] - after[label]).mean() > 15
    assert np.abs(before[220:] - after[220:]).mean() < 3


@pytest.mark.parametrize("faces", [12, 40])
def test_many_small_faces_are_drawn(grey: Path, tmp_path: Path, faces: int) -> None:
    def small(row: dict[str, Any]) -> None:
        for face in row["faces"]:
            x, y = face["track"] % 8 / 8, face["track"] // 8 / 5
            face |= {"box_x0": x, "box_y0": y, "box_x1": x + 0.06, "box_y1": y + 0.1}

    out = write_run_of(tmp_path / "run", str(grey), [["fear"] * 5] * faces, small)
    images = read_overlay(out, grey, tmp_path / "out.mp4")
    assert np.abs(images[12] - read_frames(grey)[12]).mean() > 4


def archived(tmp_path: Path, grey: Path, _store: Callable[[], Store]) -> str:
    path = tmp_path / "clips.tar"
    with tarfile.open(path, "w") as archive:
        archive.add(grey, "a/grey.mp4")
    return f"{path}!/a/grey.mp4"


def stored(_tmp_path: Path, grey: Path, store: Callable[[], Store]) -> str:
    return store().put("grey.mp4", grey.read_bytes())


@pytest.mark.parametrize("place", [archived, stored])
def test_overlay_of_videos_in_archives_and_stores(
    grey: Path, tmp_path: Path, request: pytest.FixtureRequest, place: Callable[..., Any]
) -> None:
    uri = place(tmp_path, grey, lambda: request.getfixturevalue("store"))
    (listed,) = list_videos([uri]).sources.select(["version", "offset"]).to_pylist()
    out = write_run_of(tmp_path / "run", uri, **listed)
    assert write_video_overlay(out, uri, tmp_path / "out.mp4").frames == 25


def test_invalid_overlay_raises_error(grey: Path, tmp_path: Path) -> None:
    video = tmp_path / "film.mp4"
    video.write_bytes(grey.read_bytes())
    (tmp_path / "link.mp4").symlink_to(video)
    os.link(video, tmp_path / "hard.mp4")
    out = write_run_of(tmp_path / "run", str(video))
    cases: Sequence[tuple[str, type[FerBatchError], str]] = [
        ("out.avi", OutputError, "must end in .mp4 or .mkv"),
        ("out", OutputError, "must end in .mp4 or .mkv"),
        ("run/out.mp4", OutputError, "lies in the folder of the run"),
        ("film.mp4", OutputError, "is the video itself"),
        ("link.mp4", OutputError, "is the video itself"),
        ("hard.mp4", OutputError, "is the video itself"),
        ("no/out.mp4", OutputError, "can't be written"),
    ]
    for name, error, message in cases:
        with pytest.raises(error, match=message):
            write_video_overlay(out, video, tmp_path / name)
    assert video.read_bytes() == grey.read_bytes()
    with video.open("ab") as file:
        file.write(b"more")
    with pytest.raises(InputError, match="changed since it was analyzed"):
        write_video_overlay(out, video, tmp_path / "out.mp4")
    video.unlink()
    video.symlink_to(grey)
    with pytest.raises(InputError, match="a link has replaced it"):
        write_video_overlay(out, video, tmp_path / "out.mp4")
    video.unlink()
    with pytest.raises(DecodeError, match=r"Cannot read .*film\.mp4: the file does not exist"):
        write_video_overlay(out, video, tmp_path / "out.mp4")
    assert not (tmp_path / "out.mp4").exists()


def test_failed_video_raises_query_error(tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    create_run(out, AnalyzeConfig(), CARD, bucket_s=1e6)
    rows = pa.Table.from_pylist([probed("/x.mp4", None)], schema=PROBED_SCHEMA)
    add_planning_round(
        out, rows, plan_segments(rows, AnalyzeConfig(), CARD.half_window_s, CARD.model_id, workers=1)
    )
    finalize(out)
    with pytest.raises(QueryError, match=r"no frame was analyzed \(no index\)"):
        write_video_overlay(out, "/x.mp4", tmp_path / "out.mp4")
