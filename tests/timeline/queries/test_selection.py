"""Filters of confidence and quality."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from fer_batch.timeline.store import Timeline, open_timeline
from tests.runs import VideoContent, write_tables
from tests.timeline.queries.helpers import STEP_S

GRID_S = [k * STEP_S for k in range(20)]
CONFIDENCES = [0.3, 0.5, 0.7, 0.9]


@pytest.fixture(scope="module")
def qualities(tmp_path_factory: pytest.TempPathFactory) -> Timeline:
    """One face for each combination of values that a filter treats differently."""
    good = {"confidence": 0.9, "face_px": 80.0, "blur": 900.0, "yaw_deg": 0.0, "pitch_deg": 0.0}
    columns = [
        good,
        *({**good, "confidence": value} for value in (0.7, 0.3, math.nan, None)),
        *({**good, "face_px": value} for value in (60.0, 59.0, math.nan, None)),
        *({**good, "blur": value} for value in (200.0, 20.0, math.nan, None)),
        *({**good, "yaw_deg": value} for value in (30.0, -30.0, 45.0, -89.0, math.nan, None)),
        *({**good, "pitch_deg": value} for value in (20.0, -21.0, None)),
    ]
    video = VideoContent(
        duration_s=1.0,
        moments_s=[0.0],
        faces=[(track, 0.0, "happy", 0.9, 0.01 * track) for track in range(len(columns))],
        columns=dict(enumerate(columns)),
    )
    return open_timeline(write_tables(tmp_path_factory.mktemp("qualities") / "out", {"/a.mp4": video}))


@pytest.mark.parametrize(
    ("filters", "left_out"),
    [
        ({}, set()),
        ({"min_confidence": None, "max_yaw_deg": None}, set()),
        ({"min_confidence": 0}, {3, 4}),
        ({"min_confidence": 0.7}, {2, 3, 4}),
        ({"min_face_px": 60}, {6, 7, 8}),
        ({"min_sharpness": 20.5}, {10, 11, 12}),
        ({"max_yaw_deg": 30}, {15, 16, 17, 18}),
        ({"max_yaw_deg": 89.9}, {17, 18}),
        ({"max_pitch_deg": 20}, {20, 21}),
        ({"min_confidence": 0.7, "min_face_px": 60, "max_yaw_deg": 30}, {2, 3, 4, 6, 7, 8, 15, 16, 17, 18}),
    ],
    ids=str,
)
def test_filter_leaves_out_faces_below_it_or_without_the_value(
    qualities: Timeline, filters: Any, left_out: set[int]
) -> None:
    tracks = set(qualities.to_pandas(**filters)["track_id"])
    assert set(range(22)) - tracks == left_out


QUERIES: dict[str, Callable[..., duckdb.DuckDBPyRelation]] = {
    "shares": Timeline.shares,
    "episodes": Timeline.episodes,
    "peaks": lambda t, **filters: t.peaks(distance_s=0.1, **filters),
    "turning points": Timeline.turning_points,
    "co-occurrence": Timeline.co_occurrence,
    "baseline": Timeline.baseline,
    "smooth": Timeline.smooth,
    "resample": lambda t, **filters: t.resample(0.4, "track", **filters),
    "events": lambda t, **filters: t.join_events(
        pa.table({"video": ["a.mp4", "a.mp4"], "start_s": [0.0, 1.0], "end_s": [1.0, 3.0]}), **filters
    ),
}


@pytest.fixture(scope="module")
def all_faces(tmp_path_factory: pytest.TempPathFactory) -> Timeline:
    return open_timeline(write_random_faces(tmp_path_factory.mktemp("all") / "out", 0))


@pytest.fixture(scope="module")
def confident_faces(tmp_path_factory: pytest.TempPathFactory) -> Timeline:
    return open_timeline(write_random_faces(tmp_path_factory.mktemp("confident") / "out", 0.9))


def write_random_faces(out: Path, min_confidence: float) -> Path:
    """Write a run of random faces without those below a confidence."""
    chance = np.random.default_rng(3)
    faces: list[tuple[int, float, str, float, float]] = []
    for track in range(3):
        emotions = np.repeat(chance.choice(["happy", "sad"], 4), 5)
        for time_s, emotion in zip(GRID_S, emotions, strict=True):
            confidence = float(chance.choice(CONFIDENCES, p=[0.1, 0.1, 0.4, 0.4]))
            if confidence >= min_confidence:
                faces.append((track, time_s, str(emotion), confidence, 0.3 * track))
    return write_tables(out, {"/a.mp4": VideoContent(duration_s=4.0, moments_s=GRID_S, faces=faces)})


@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES)
def test_every_query_ignores_the_other_faces(
    query: Callable[..., duckdb.DuckDBPyRelation], all_faces: Timeline, confident_faces: Timeline
) -> None:
    rows = query(all_faces, min_confidence=0.9).fetchall()
    assert rows == query(confident_faces).fetchall() != query(all_faces).fetchall()
