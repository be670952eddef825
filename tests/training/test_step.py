"""Average probabilities of a clip's frames."""

import pytest
import torch

from fer_batch.training.step import average_clip_probs


def test_an_empty_batch_has_no_averages() -> None:
    none = torch.zeros(0, 3)
    assert average_clip_probs(torch.zeros(0, 3, 2), none.long(), none.bool()).shape == (0, 3, 2)


@pytest.mark.parametrize(
    ("probs", "clip_ids", "known", "means"),
    [
        ([0.8], [0], [True], [0.8]),
        ([0.8, 0.8], [0, 1], [True, True], [0.8, 0.8]),
        ([0.8, 0.6], [0, 0], [True, True], [0.7, 0.7]),
        ([0.8, 0.2], [0, 0], [True, True], [0.5, 0.5]),
        ([0.8, 0.6, 0.9], [0, 1, 0], [True, True, True], [0.85, 0.6, 0.85]),
        ([0.8, 0.9], [0, 0], [True, False], [0.8, None]),
    ],
    ids=["one frame", "two clips", "one clip", "undecided", "a clip that returns", "beyond the end"],
)
def test_frames_of_a_clip_have_the_same_probabilities(
    probs: list[float], clip_ids: list[int], known: list[bool], means: list[float | None]
) -> None:
    logits = torch.tensor([[[p, 1 - p] for p in probs]]).log()
    averaged = average_clip_probs(logits, torch.tensor([clip_ids]), torch.tensor([known]))
    torch.testing.assert_close(averaged.sum(2), torch.ones(1, len(probs)))
    for step, mean in enumerate(means):
        assert mean is None or averaged[0, step, 0].item() == pytest.approx(mean, rel=1e-5)
