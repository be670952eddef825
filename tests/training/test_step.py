"""The module that workers train together, and average probabilities of a clip's frames."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributed.utils import _to_kwargs

from fer_batch.model import network
from fer_batch.model.cnn_bilstm import CnnBiLstm
from fer_batch.model.published import DcnnBiLstm
from fer_batch.training.sequences import Windows, build_windows
from fer_batch.training.step import TrainingModule, average_clip_probs, compute_clip_shares


@pytest.mark.parametrize("phase", ["stills", "sequences", "clips"])
def test_the_module_accepts_the_arguments_as_ddp_moves_them_to_a_device(
    monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    """The meta device stands for a GPU: operations refuse to mix it with the CPU."""

    def pad(packed: Any, batch_first: bool, total_length: int) -> tuple[Tensor, None]:
        # Its real form copies an index to the CPU, which the meta device cannot.
        return torch.empty(4, total_length, packed.data.shape[1], device="meta"), None

    monkeypatch.setattr(network, "pad_packed_sequence", pad)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: False)  # the meta device has none
    model: nn.Module
    if phase == "clips":
        model = DcnnBiLstm(classes=3, filters=(4, 4), depths=(1, 1), dropouts=(0.1,) * 5)
    else:
        model = CnnBiLstm(classes=3, filters=(4, 4), depths=(1, 1))
    module = TrainingModule(model, phase, votes=0.5, heads=2).to("meta")
    given = (torch.rand(4, 5, 1, 48, 48), np.array([5, 4, 1, 3]), torch.tensor([0, 1, 0, 1]))
    (moved,), _ = _to_kwargs(given, {}, torch.device("meta"), False)
    logits, second = module(*moved)
    assert logits.device.type == "meta"
    assert logits.shape == (4, 5 if phase == "sequences" else 1, 3)
    assert (second is None) == (phase == "clips")


def build_still_windows(clip_ids: list[list[int]], next_shares: list[list[float]]) -> Windows:
    labels = np.zeros((len(clip_ids), len(clip_ids[0]) if clip_ids else 3), np.int64)
    windows = build_windows(np.zeros((*labels.shape, 48, 48), np.uint8), labels, moving=False)
    return dataclasses.replace(
        windows,
        clip_ids=np.array(clip_ids, np.int64).reshape(labels.shape),
        next_shares=np.array(next_shares, np.float32).reshape(labels.shape),
    )


def test_an_empty_batch_has_no_averages() -> None:
    shares = compute_clip_shares(build_still_windows([], []))
    assert average_clip_probs(torch.zeros(0, 3, 2), shares, torch.zeros(0, 3).bool()).shape == (0, 3, 2)


@pytest.mark.parametrize(
    ("probs", "clip_ids", "next_shares", "known", "means"),
    [
        ([0.8], [0], [0], [True], [0.8]),
        ([0.8, 0.8], [0, 1], [0, 0], [True, True], [0.8, 0.8]),
        ([0.8, 0.6], [0, 0], [0, 0], [True, True], [0.7, 0.7]),
        ([0.8, 0.2], [0, 0], [0, 0], [True, True], [0.5, 0.5]),
        ([0.8, 0.6, 0.9], [0, 1, 0], [0, 0, 0], [True, True, True], [0.85, 0.6, 0.85]),
        ([0.8, 0.9], [0, 0], [0, 0], [True, False], [0.8, None]),
        ([0.9, 0.2, 0.1], [0, 0, 1], [0, 0.25, 0], [True, True, True], [0.73, 0.57, 0.1]),
    ],
    ids=[
        "one frame",
        "two clips",
        "one clip",
        "undecided",
        "a clip that returns",
        "beyond the end",
        "change",
    ],
)
def test_frames_of_a_clip_have_the_same_probabilities(
    probs: list[float],
    clip_ids: list[int],
    next_shares: list[float],
    known: list[bool],
    means: list[float | None],
) -> None:
    logits = torch.tensor([[[p, 1 - p] for p in probs]]).log()
    shares = compute_clip_shares(build_still_windows([clip_ids], [next_shares]))
    averaged = average_clip_probs(logits, shares, torch.tensor([known]))
    torch.testing.assert_close(averaged.sum(2), torch.ones(1, len(probs)))
    for step, mean in enumerate(means):
        assert mean is None or averaged[0, step, 0].item() == pytest.approx(mean, abs=0.005)
