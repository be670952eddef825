"""Predictions for labelled clips."""

import numpy as np
import pytest
import torch

from fer_batch.model.card import Card
from fer_batch.model.cnn_bilstm import CnnBiLstm
from fer_batch.model.registry import build_network
from fer_batch.training import predict
from fer_batch.training.predict import (
    autocast,
    choose_training_dtype,
    frames_to_tensor,
    normalize_crops,
    predict_log_probs,
    select_input_frames,
)
from tests.training.examples import CPU, make_bars


def make_network() -> CnnBiLstm:
    torch.manual_seed(0)
    return CnnBiLstm(classes=3, filters=(8, 8), depths=(1, 1), fold=2).eval()


@pytest.mark.parametrize(("network", "frames"), [("cnn-bilstm", 1), ("dcnn-bilstm", 3)])
def test_a_network_reads_the_last_frame_or_the_whole_clip(network: str, frames: int) -> None:
    clips = make_bars([0, 1], frames=3)
    model = build_network(network, {"classes": 3, "filters": (4, 4), "depths": (1, 1)})
    expected = clips.frames.reshape(2, 3, 48, 48)[:, -frames:]
    assert np.array_equal(select_input_frames(model, clips, 3), expected)


@pytest.mark.parametrize("count", [0, 1, 5])
def test_predictions_have_a_row_for_each_clip(count: int) -> None:
    log_probs = predict_log_probs(make_network(), make_bars([0] * count).frames[:, None], CPU.device)
    assert log_probs.shape == (count, 3)
    assert log_probs.dtype == np.float32
    assert np.isfinite(log_probs).all()


def test_workers_share_the_clips() -> None:
    network, frames = make_network(), make_bars([0, 1, 2] * 4).frames[:, None]
    whole = predict_log_probs(network, frames, CPU.device, batch=5)
    parts = [predict_log_probs(network, frames, CPU.device, rank=rank, world=2, batch=5) for rank in (0, 1)]
    assert ((parts[0] == 0).all(axis=1) != (parts[1] == 0).all(axis=1)).all()
    np.testing.assert_array_equal(parts[0] + parts[1], whole)
    np.testing.assert_allclose(whole, predict_log_probs(network, frames, CPU.device), atol=0.05)


@pytest.mark.parametrize("shape", [(0,), (2,), (2, 3)])
def test_pixels_are_scaled_and_normalized(shape: tuple[int, ...]) -> None:
    grey = frames_to_tensor(np.full((*shape, 48, 48), 51, np.uint8), CPU.device)
    assert grey.shape == (*shape, 1, 48, 48)
    torch.testing.assert_close(grey, torch.full(grey.shape, 0.2))
    torch.testing.assert_close(normalize_crops(grey), torch.full(grey.shape, (0.2 - Card.mean) / Card.std))


@pytest.mark.parametrize(
    ("has_bfloat16", "capability", "dtype"),
    [
        (True, (8, 0), torch.bfloat16),
        (False, (7, 5), torch.float16),
        (False, (7, 0), torch.float16),
        (False, (6, 1), torch.float32),
    ],
    ids=["A100", "T4", "V100", "GTX 1080"],
)
def test_gpus_that_emulate_bfloat16_use_float16(
    monkeypatch: pytest.MonkeyPatch, has_bfloat16: bool, capability: tuple[int, int], dtype: torch.dtype
) -> None:
    def is_supported(including_emulation: bool = True) -> bool:
        return has_bfloat16 or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_supported)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert choose_training_dtype(torch.device("cuda", 0)) == dtype


@pytest.mark.parametrize("name", ["cnn-bilstm", "dcnn-bilstm", "cnn-lstm"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_lstms_keep_single_precision_within_autocast(
    monkeypatch: pytest.MonkeyPatch, name: str, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(predict, "choose_training_dtype", lambda device: dtype)
    model = build_network(name, {"classes": 3, "filters": (4, 4), "depths": (1, 1)}).eval()
    seen: list[torch.dtype] = []
    for layer in model.modules():
        if isinstance(layer, torch.nn.LSTM):
            layer.register_forward_hook(lambda layer, given, made: seen.append(made[0].data.dtype))
        elif isinstance(layer, torch.nn.Conv2d):
            layer.register_forward_hook(lambda layer, given, made: seen.append(made.dtype))
    crops = normalize_crops(
        frames_to_tensor(make_bars([0, 1], frames=3).frames.reshape(2, 3, 48, 48), CPU.device)
    )
    with torch.inference_mode(), autocast(CPU.device):
        assert model(crops).isfinite().all()
    assert seen == [dtype, dtype, torch.float32, torch.float32]
