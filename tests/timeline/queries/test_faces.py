"""Answers about each face and its neighbours in time, against their plain definitions."""

import itertools
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fer_batch.schema import EMOTIONS, probability_column
from fer_batch.timeline.assign import assign_by_position
from fer_batch.timeline.sql import MAX_GAP_STEPS, TIME_TOLERANCE_S
from fer_batch.timeline.store import Timeline, open_timeline
from tests.runs import Seen, write_tables

COLUMNS = [probability_column(name) for name in EMOTIONS]
ORDER = ["uri", "track_id", "time_s"]
STEP_S = 0.2
WINDOWS = st.one_of(st.sampled_from([0.1, 0.4, 1.0, 1e9]), st.floats(0.01, 20))


@pytest.fixture(scope="module", params=["sorted", "mixed up"])
def timeline(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Timeline]:
    """Three tracks in each of four videos, not seen at all moments; worked on few at a time."""
    chance = np.random.default_rng(0)
    grid_s = [k * STEP_S for k in range(60)]
    videos = {"/z/none.mp4": Seen(duration_s=12.0, moments_s=grid_s)}
    for video in "cabd":
        seen = []
        for track in range(3):
            emotion = "happy"
            for time_s in grid_s:
                emotion = str(chance.choice(["happy", "sad", "angry"])) if chance.random() < 0.3 else emotion
                if chance.random() < 0.9:
                    seen.append((track, time_s, emotion, float(chance.choice([0.4, 0.7, 0.9])), track / 4))
        if request.param == "mixed up":
            chance.shuffle(seen)
        videos[f"/{video}.mp4"] = Seen(duration_s=12.0, moments_s=grid_s, faces=seen)
    out = write_tables(tmp_path_factory.mktemp("faces") / "out", videos)
    assign_by_position(out, ["Bo", "Ann"], ["a.mp4", "b.mp4"], max_faces=3)
    yield open_timeline(out)


def tracks_of(timeline: Timeline) -> list[pd.DataFrame]:
    rows = timeline.to_pandas()
    return [track for _, track in rows.groupby(["uri", "track_id"])]


def same(found: pd.DataFrame, wanted: pd.DataFrame) -> None:
    """Rows, their order, and values; numbers nearly."""
    columns = list(found.columns)
    pd.testing.assert_frame_equal(
        found, wanted[columns].reset_index(drop=True), check_dtype=False, rtol=0, atol=1e-9
    )


@settings(max_examples=10, deadline=None)
@given(window_s=WINDOWS)
def test_smoothed_is_the_mean_of_the_moments_around(timeline: Timeline, window_s: float) -> None:
    found = timeline.smooth(window_s).df()
    parts = []
    for track in tracks_of(timeline):
        time_s, probs = track["time_s"].to_numpy(), track[COLUMNS].to_numpy(float)
        near = np.abs(time_s[:, None] - time_s) <= window_s / 2 + TIME_TOLERANCE_S
        track[COLUMNS] = means = (near @ probs) / near.sum(1, keepdims=True)
        parts.append(track.assign(confidence=means.max(1), moments=near.sum(1)))
    same(found.drop(columns="emotion"), pd.concat(parts))
    chosen = found["emotion"].map({name: k for k, name in enumerate(EMOTIONS)}).to_numpy()
    probs = found[COLUMNS].to_numpy()
    assert (probs[np.arange(len(found)), chosen] == probs.max(1)).all()


@settings(max_examples=10, deadline=None)
@given(
    distance_s=WINDOWS, emotion=st.sampled_from([None, "angry", "sad"]), threshold=st.sampled_from([0, 0.6])
)
def test_a_peak_is_higher_than_what_is_around(
    timeline: Timeline, distance_s: float, emotion: str | None, threshold: float
) -> None:
    found = timeline.peaks(emotion, threshold, distance_s).df()
    parts = []
    for track in tracks_of(timeline):
        time_s, name = track["time_s"].to_numpy(), track["emotion"].to_numpy()
        values = track["confidence" if emotion is None else probability_column(emotion)].to_numpy()
        away = time_s - time_s[:, None]
        near = (np.abs(away) <= distance_s + TIME_TOLERANCE_S) & (values >= threshold)
        if emotion is None:
            near &= name == name[:, None]
        beaten = (near & (away < 0) & (values >= values[:, None])).any(1)
        beaten |= (near & (away > 0) & (values > values[:, None])).any(1)
        track = track.assign(probability=values, emotion=emotion or name)
        parts.append(track[~beaten & (values >= threshold)])
    same(found, pd.concat(parts))


@pytest.mark.parametrize("by", ["person", "track"])
def test_a_baseline_is_the_mean_of_the_same_face(timeline: Timeline, by: str) -> None:
    found = timeline.baseline(by).df()
    rows = timeline.to_pandas()
    who = rows["uri"] + rows["track_id"].astype(str)
    if by == "person":
        assert rows["person"].nunique() == 2
        who = rows["person"].fillna(who)
    names = [f"d_{name}" for name in EMOTIONS]
    rows[names] = rows[COLUMNS] - rows[COLUMNS].astype(float).groupby(who).transform("mean")
    same(found.drop(columns="rises"), rows)
    assert (found[names].max(axis=1) == [found[f"d_{e}"][k] for k, e in enumerate(found["rises"])]).all()


@settings(max_examples=10, deadline=None)
@given(min_s=st.sampled_from([0.0, 0.2, 0.4, 1.0]))
def test_an_emotion_turns_from_one_run_to_the_next_of_another(timeline: Timeline, min_s: float) -> None:
    parts = []
    for track in tracks_of(timeline):
        time_s, emotion = track["time_s"].to_numpy(), track["emotion"].to_numpy()
        breaks = (emotion[1:] != emotion[:-1]) | (np.diff(time_s) > MAX_GAP_STEPS * STEP_S)
        runs = np.split(np.arange(len(track)), np.flatnonzero(breaks) + 1)
        long = [run for run in runs if time_s[run[-1]] + STEP_S - time_s[run[0]] >= min_s - TIME_TOLERANCE_S]
        for one, other in itertools.pairwise(long):
            if emotion[one[0]] != emotion[other[0]]:
                gap_s = time_s[other[0]] - time_s[one[-1]] - STEP_S
                said = {"before": emotion[one[0]], "after": emotion[other[0]], "gap_s": gap_s}
                parts.append(track.iloc[other[:1]].assign(**said))
    same(timeline.turning_points(min_s).df(), pd.concat(parts))


@pytest.mark.parametrize("by", [[], ["video"], ["pair"], ["video", "pair"]])
def test_faces_of_a_moment_are_pairs(timeline: Timeline, by: list[str]) -> None:
    pairs: Counter[tuple[str, ...]] = Counter()
    for (uri, _), moment in timeline.to_pandas().groupby(["uri", "time_s"]):
        track = "track " + moment["track_id"].astype(str)
        called = moment["person"].fillna(track if "video" in by else track + " of " + moment["uri"])
        shown = sorted(zip(called, moment["track_id"], moment["emotion"], strict=True))
        for (one, _, a), (other, _, b) in itertools.combinations(shown, 2):
            video = (uri,) if "video" in by else ()
            pairs[(*video, one, other, a, b) if "pair" in by else (*video, *sorted((a, b)))] += 1
    found = timeline.co_occurrence(by).df().drop(columns="video_id", errors="ignore")
    keys = list(found.columns[: list(found.columns).index("pairs")])
    assert {tuple(row[keys]): row["pairs"] for _, row in found.iterrows()} == pairs
    groups = found.groupby(keys[:-2])["share"] if keys[:-2] else found.groupby(lambda _: 0)["share"]
    assert groups.sum().to_numpy() == pytest.approx(1)


def test_an_answer_can_be_read_again_and_in_part(timeline: Timeline) -> None:
    answer = timeline.smooth()
    rows = answer.fetchall()
    assert answer.fetchall() == rows
    assert answer.limit(3).fetchall() == rows[:3]
    assert answer.filter("track_id = 1 AND uri = '/b.mp4'").fetchall() == [
        row for row in rows if row[1:3] == ("/b.mp4", 1)
    ]
