"""Predictions of a network for labelled clips, as training and cross-validation evaluate them."""

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from fer_batch.config import GREY_MEAN, GREY_STD
from fer_batch.data.clips import Clips
from fer_batch.model.inference import choose_dtype
from fer_batch.model.network import Network
from fer_batch.training.batches import stretch_clips


def predict_log_probs(
    model: Network,
    frames: np.ndarray,
    device: torch.device,
    *,
    rank: int = 0,
    world: int = 1,
    batch: int = 256,
) -> np.ndarray:
    """Predict the log probabilities at the last frame of each window.

    `frames` is `(N, T, 48, 48) uint8`, T from 1; the result is `(N, C) float32`. The `world` workers share
    the windows, and each returns all predictions. Computed in the precision of `autocast`.
    """
    predictions = torch.zeros(len(frames), model.classes, device=device)
    with torch.inference_mode(), autocast(device):
        for first in range(rank * batch, len(frames), world * batch):
            crops = normalize_crops(frames_to_tensor(frames[first : first + batch], device))
            predictions[first : first + batch] = model(crops)[:, -1].float()
    return sum_over_workers(predictions).cpu().numpy()


def choose_training_dtype(device: torch.device) -> torch.dtype:
    """Return the type in which a device computes fast: bfloat16, on older GPUs float16, or else float32.

    GPUs before Ampere (T4, V100) emulate bfloat16, many times slower than float16.
    """
    if device.type != "cuda":
        return choose_dtype(device)
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16
    return torch.float16 if torch.cuda.get_device_capability(device) >= (7, 0) else torch.float32


def autocast(device: torch.device) -> torch.autocast:
    """Compute in the type that `choose_training_dtype` returns."""
    dtype = choose_training_dtype(device)
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)


def select_input_frames(model: Network, clips: Clips, length: int) -> np.ndarray:
    """Select the frames of each clip that the network reads, `(N, T, 48, 48) uint8`.

    A network of whole clips reads `length` frames, other networks the last frame.
    """
    if model.first_phase == "clips":
        return stretch_clips(clips, np.arange(len(clips)), length)
    return clips.frames[clips.starts[1:] - 1][:, None]


def frames_to_tensor(frames: np.ndarray, device: torch.device) -> Tensor:
    """Convert `(…, 48, 48) uint8` to `(…, 1, 48, 48)` float32 from 0 to 1 on the device."""
    return torch.from_numpy(frames).to(device).float().div_(255).unsqueeze(-3)


def normalize_crops(crops: Tensor) -> Tensor:
    """Shift and scale grey values from 0 to 1 to the encoder's input range."""
    return (crops - GREY_MEAN) / GREY_STD


def sum_over_workers(value: Tensor) -> Tensor:
    """Sum a tensor over all workers, in place."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(value)
    return value
