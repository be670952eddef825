"""Clips are selected, concatenated and counted with all of their frames."""

import numpy as np
import pytest

from fer_batch.data.clips import Clips, concatenate_clips, count_classes
from fer_batch.schema import EMOTIONS
from tests.datasets import get_frames


def make_clips() -> Clips:
    """Make three clips of 1, 3 and 2 frames; each frame has one grey value."""
    values = np.array([0, 10, 11, 12, 20, 21], np.uint8)
    return Clips(
        frames=np.broadcast_to(values[:, None, None], (6, 48, 48)).copy(),
        starts=np.array([0, 1, 4, 6]),
        labels=np.array([3, 0, 5]),
        splits=np.array(["train", "select", "train"]),
        classes=EMOTIONS,
        votes=np.eye(7, dtype=np.float32)[[2, 0, 1]],
        subjects=np.array(["S1", "S2", ""]),
        datasets=np.array(["ck48", "ck48", "folder"]),
    )


@pytest.mark.parametrize(
    ("keep", "values", "starts", "labels"),
    [
        (np.zeros(3, bool), [], [0], []),
        (np.array([], np.int64), [], [0], []),
        (np.array([True, False, True]), [0, 20, 21], [0, 1, 3], [3, 5]),
        (np.array([2, 1]), [20, 21, 10, 11, 12], [0, 2, 5], [5, 0]),
        (np.array([1, 1]), [10, 11, 12, 10, 11, 12], [0, 3, 6], [0, 0]),
    ],
)
def test_taking_clips_keeps_all_their_frames(
    keep: np.ndarray, values: list[int], starts: list[int], labels: list[int]
) -> None:
    taken = make_clips().take(keep)
    assert taken.frames.shape == (len(values), 48, 48)
    assert taken.frames[:, 0, 0].tolist() == values
    assert taken.starts.tolist() == starts
    assert taken.labels.tolist() == labels
    assert len(taken) == len(taken.splits) == len(taken.votes) == len(taken.subjects) == len(labels)
    assert taken.datasets.tolist() == [{3: "ck48", 0: "ck48", 5: "folder"}[label] for label in labels]
    assert taken.subjects.tolist() == [{3: "S1", 0: "S2", 5: ""}[label] for label in labels]


def test_clips_are_concatenated_and_counted_by_class() -> None:
    clips = make_clips()
    nothing = clips.take(np.zeros(3, bool))
    assert len(concatenate_clips([nothing])) == 0
    assert count_classes(nothing) == {}
    joined = concatenate_clips([clips, nothing, clips.take(np.array([1]))])
    assert joined.starts.tolist() == [0, 1, 4, 6, 9]
    assert get_frames(joined) == [*get_frames(clips), get_frames(clips)[1]]
    assert joined.labels.tolist() == [3, 0, 5, 0]
    assert joined.splits.tolist() == ["train", "select", "train", "select"]
    assert count_classes(joined) == {"angry": 2, "happy": 1, "sad": 1}
