"""Random crops of tracked faces, more than a batch, for tests of the recognizer."""

from dataclasses import dataclass

import numpy as np

from fer_batch.model.recognize import BATCH_SIZE, Recognizer

COUNT = 80
assert BATCH_SIZE["cpu"] < COUNT


@dataclass(frozen=True)
class TrackedFaces:
    """The arguments of `Recognizer.predict_tracks`."""

    crops: np.ndarray
    tracks: np.ndarray
    times: np.ndarray

    def take(self, selected: np.ndarray) -> "TrackedFaces":
        """Select faces by indices or a mask."""
        return TrackedFaces(self.crops[selected], self.tracks[selected], self.times[selected])

    def predict(self, recognizer: Recognizer, selected: np.ndarray | None = None) -> np.ndarray:
        """Predict the selected faces, by default all."""
        selected = np.ones(len(self.crops), bool) if selected is None else selected
        return recognizer.predict_tracks(self.crops, self.tracks, self.times, selected)


def make_faces() -> TrackedFaces:
    """Return five tracks of 1 to 33 faces in random order; some have gaps, some are closer than the slots."""
    return TrackedFaces(
        crops=np.random.default_rng(0).integers(0, 256, (COUNT, 48, 48), np.uint8),
        tracks=np.random.default_rng(1).permutation(np.repeat([0, 3, 4, 7, 9], [1, 4, 15, 27, 33])),
        times=np.cumsum(
            np.random.default_rng(2).choice([0.04, 0.2, 0.4, 3.0], COUNT, p=[0.4, 0.4, 0.1, 0.1])
        ),
    )


def assert_independent(faces: TrackedFaces, recognizer: Recognizer) -> None:
    """Assert that a face's probabilities depend on neither other tracks, the selection nor the order."""
    probs = faces.predict(recognizer)
    for track in np.unique(faces.tracks):
        rows = faces.tracks == track
        assert np.array_equal(faces.take(rows).predict(recognizer), probs[rows]), f"track {track}"
    for face in range(0, COUNT, 9):
        alone = faces.predict(recognizer, np.arange(COUNT) == face)
        assert np.array_equal(alone[face], probs[face]), f"face {face}"
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(COUNT)
        assert np.array_equal(faces.take(order).predict(recognizer), probs[order]), f"order {seed}"
