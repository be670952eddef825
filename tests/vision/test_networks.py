"""Fast forms of MTCNN's networks, compared with the networks of facenet-pytorch."""

import pytest
import torch

from fer_batch.vision.mtcnn import MTCNN
from fer_batch.vision.networks import MIN_MATRIX_ROWS, FastPNet, PaddedLinear


@pytest.mark.parametrize(("height", "width"), [(12, 12), (12, 13), (13, 12), (15, 14), (90, 161)])
def test_fast_pnet_equals_pnet(height: int, width: int) -> None:
    pnet = MTCNN(device="cpu").pnet.to(memory_format=torch.channels_last)
    images = torch.rand(2, height, width, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
    fast = FastPNet(pnet).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        for ours, theirs in zip(
            fast(images.permute(0, 3, 1, 2)), pnet(images.permute(0, 3, 1, 2)), strict=True
        ):
            assert ours.shape == theirs.shape
            assert torch.allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize("count", [0, 1, MIN_MATRIX_ROWS, MIN_MATRIX_ROWS + 1])
def test_rows_of_padded_linear_do_not_depend_on_their_number(count: int) -> None:
    layer = torch.nn.Linear(576, 128)
    rows = torch.rand(3 * MIN_MATRIX_ROWS, 576, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(PaddedLinear(layer)(rows[:count]), layer(rows)[:count])
