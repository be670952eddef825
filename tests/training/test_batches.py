"""Batches of examples for each worker."""

import pytest
import torch

from fer_batch.training.batches import BatchSource
from tests.training.examples import make_bars, make_config


@pytest.mark.parametrize(("examples", "world"), [(3, 3), (7, 2), (23, 3), (40, 4)])
def test_workers_get_different_examples_and_the_same_number(examples: int, world: int) -> None:
    bars = make_bars([number % 3 for number in range(examples)])
    taken = []
    for rank in range(world):
        source = BatchSource(make_config(batch_size=4), bars, None, "stills", rank, world)
        drawn = source.draw_epoch(0, torch.Generator().manual_seed(rank))
        taken.append([frame.tobytes() for windows, _ in drawn for frame in windows.frames])
    assert len({len(frames) for frames in taken}) == 1
    assert len(taken[0]) == max(1, examples // world // 4) * min(4, examples // world)
    everything = [frame for frames in taken for frame in frames]
    assert len(set(everything)) == len(everything)
