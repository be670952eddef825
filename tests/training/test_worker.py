"""Checks of the workers of a run before they train."""

import pytest
import torch

from fer_batch.errors import ResourceError
from fer_batch.training.predict import choose_training_dtype
from fer_batch.training.worker import check_same_scaling, count_workers_by_dtype

HALF, BRAIN, SINGLE = torch.float16, torch.bfloat16, torch.float32


@pytest.mark.parametrize("workers", [{}, {HALF: 2}, {BRAIN: 1}, {BRAIN: 2, SINGLE: 1}])
def test_workers_that_all_or_none_scale_the_loss_may_train_together(workers: dict[torch.dtype, int]) -> None:
    check_same_scaling(workers)


def test_workers_of_which_some_scale_the_loss_are_refused() -> None:
    with pytest.raises(ResourceError, match=r"compute in float16 and bfloat16: use GPUs of one kind"):
        check_same_scaling({HALF: 1, BRAIN: 3})


def test_a_single_worker_is_counted() -> None:
    device = torch.device("cpu")
    assert count_workers_by_dtype(device) == {choose_training_dtype(device): 1}
