"""Timelines for tests of queries."""

import numpy as np
import pytest

from fer_batch.timeline.assign import assign_by_position
from fer_batch.timeline.store import Timeline, open_timeline
from tests.runs import VideoContent, write_tables
from tests.timeline.queries.helpers import STEP_S
from tests.timeline.videos import VIDEOS


@pytest.fixture(scope="module")
def timeline(tmp_path_factory: pytest.TempPathFactory) -> Timeline:
    out = write_tables(tmp_path_factory.mktemp("queries") / "out", VIDEOS)
    assign_by_position(out, ["Ann", "Bo"], ["talk.mp4"])
    return open_timeline(out)


@pytest.fixture(scope="module")
def empty_timeline(tmp_path_factory: pytest.TempPathFactory) -> Timeline:
    return open_timeline(write_tables(tmp_path_factory.mktemp("empty") / "out", {}))


@pytest.fixture(scope="module", params=["sorted", "shuffled"])
def random_timeline(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Timeline:
    """Three tracks with random emotions in each of four videos, with gaps."""
    chance = np.random.default_rng(0)
    grid_s = [k * STEP_S for k in range(60)]
    videos = {"/z/none.mp4": VideoContent(duration_s=12.0, moments_s=grid_s)}
    for video in "cabd":
        seen = []
        for track in range(3):
            emotion = "happy"
            for time_s in grid_s:
                emotion = str(chance.choice(["happy", "sad", "angry"])) if chance.random() < 0.3 else emotion
                if chance.random() < 0.9:
                    seen.append((track, time_s, emotion, float(chance.choice([0.4, 0.7, 0.9])), track / 4))
        if request.param == "shuffled":
            chance.shuffle(seen)
        videos[f"/{video}.mp4"] = VideoContent(duration_s=12.0, moments_s=grid_s, faces=seen)
    out = write_tables(tmp_path_factory.mktemp("faces") / "out", videos)
    assign_by_position(out, ["Bo", "Ann"], ["a.mp4", "b.mp4"], max_faces=3)
    return open_timeline(out)
