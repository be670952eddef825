"""Emotions of two faces in the same frame."""

import itertools
from collections import Counter

import pytest

from fer_batch.timeline.store import Timeline


def test_co_occurrence(timeline: Timeline) -> None:
    by_pair = timeline.co_occurrence(by=["pair"]).df()
    assert set(by_pair["face_a"]) == {"Ann"} and set(by_pair["face_b"]) == {"Bo"}
    counted = {(r.emotion_a, r.emotion_b): r.pairs for r in by_pair.itertuples()}
    assert counted == {
        ("happy", "sad"): 4,  # of 0, 0.2, 0.4 and 0.8 s; at 0.6 s Bo was not seen
        ("sad", "sad"): 3,
        ("happy", "neutral"): 1,
        ("happy", "happy"): 1,
    }
    assert by_pair["share"].sum() == pytest.approx(1)
    sad = by_pair[(by_pair["emotion_a"] == "sad")]["lift"].item()
    assert sad == pytest.approx(3 / 9 / (3 / 9 * 7 / 9))
    together = timeline.co_occurrence(by=[]).df()
    counted = {(r.emotion_a, r.emotion_b): r.pairs for r in together.itertuples()}
    assert counted == {("happy", "sad"): 4, ("sad", "sad"): 3, ("happy", "neutral"): 1, ("happy", "happy"): 1}
    assert together["share"].sum() == pytest.approx(1)
    lift = together[(together["emotion_a"] == "happy") & (together["emotion_b"] == "sad")]["lift"].item()
    assert lift == pytest.approx(4 / 18 / (7 / 18 * 10 / 18))  # of 18 faces in 9 pairs 7 and 10


@pytest.mark.parametrize("by", [[], ["video"], ["pair"], ["video", "pair"]])
def test_every_two_faces_of_a_frame_are_a_pair(random_timeline: Timeline, by: list[str]) -> None:
    pairs: Counter[tuple[str, ...]] = Counter()
    for (uri, _), moment in random_timeline.to_pandas().groupby(["uri", "time_s"]):
        track = "track " + moment["track_id"].astype(str)
        called = moment["person"].fillna(track if "video" in by else track + " of " + moment["uri"])
        shown = sorted(zip(called, moment["track_id"], moment["emotion"], strict=True))
        for (one, _, a), (other, _, b) in itertools.combinations(shown, 2):
            video = (uri,) if "video" in by else ()
            pairs[(*video, one, other, a, b) if "pair" in by else (*video, *sorted((a, b)))] += 1
    found = random_timeline.co_occurrence(by).df().drop(columns="video_id", errors="ignore")
    keys = list(found.columns[: list(found.columns).index("pairs")])
    assert {tuple(row[keys]): row["pairs"] for _, row in found.iterrows()} == pairs
    groups = found.groupby(keys[:-2])["share"] if keys[:-2] else found.groupby(lambda _: 0)["share"]
    assert groups.sum().to_numpy() == pytest.approx(1)
