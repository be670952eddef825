"""The encoder in 8-bit integers, compared with single precision."""

import numpy as np
import pytest
import torch
from torch import nn

from fer_batch.errors import ConfigError
from fer_batch.model.cnn_bilstm import Encoder
from fer_batch.model.int8 import Int8Encoder
from fer_batch.model.precision import check_network_precision, has_cpu_precision, read_cpu_flags
from fer_batch.model.recognize import Recognizer
from tests.tracked_faces import make_faces

MEAN, STD = 0.5, 0.25
needs_vnni = pytest.mark.skipif(
    not has_cpu_precision("int8", read_cpu_flags()), reason="this CPU has no VNNI"
)


def make_encoder(fold: int) -> Encoder:
    """Return an encoder whose batch norms have the statistics of noise."""
    torch.manual_seed(0)
    encoder = Encoder((16, 32), (1, 2), fold).train()
    for layer in encoder.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None  # the mean of all batches
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.uniform_(layer.bias, -0.5, 0.5)
    with torch.inference_mode():
        for seed in range(4):
            encoder(make_crops(64, seed))
    return encoder.eval()


def make_crops(count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    small = torch.rand(count, 1, 12, 12, generator=generator)
    grey = (nn.functional.interpolate(small, size=48, mode="bilinear") * 255).round() / 255
    return (grey - MEAN) / STD


@needs_vnni
def test_no_crops_give_no_embeddings() -> None:
    recognizer = Recognizer(device="cpu", precision="int8")
    assert recognizer.encode(np.zeros((0, 48, 48), np.uint8)).shape == (0, recognizer.encoder.width)


@needs_vnni
@pytest.mark.parametrize("fold", [1, 2])
def test_embeddings_are_close_to_those_in_single_precision(fold: int) -> None:
    encoder, crops = make_encoder(fold), make_crops(32, 9)
    with torch.inference_mode():
        expected, found = encoder(crops), Int8Encoder(encoder, MEAN, STD)(crops)
    assert found.shape == expected.shape
    assert found.dtype == torch.float32
    assert torch.cosine_similarity(found, expected).min() > 0.995
    assert (found - expected).abs().max() < 0.05 * expected.abs().max()


@needs_vnni
def test_embeddings_depend_on_their_crop_alone() -> None:
    encoder, crops = Int8Encoder(make_encoder(1), MEAN, STD), make_crops(8, 5)
    with torch.inference_mode():
        together = encoder(crops)
        assert torch.equal(encoder(crops.flip(0)).flip(0), together)
        assert torch.equal(encoder(torch.cat([crops[:1], crops[3:]]))[0], together[0])


@needs_vnni
def test_packaged_model_gives_nearly_the_same_probabilities() -> None:
    faces = make_faces()
    int8, fp32 = (Recognizer(device="cpu", precision=precision) for precision in ("int8", "fp32"))
    assert (int8.precision, fp32.precision) == ("int8", "fp32")
    differences = np.abs(faces.predict(int8) - faces.predict(fp32)).max(axis=1)
    assert 0 < differences.max() < 0.15
    assert np.median(differences) < 0.02


@needs_vnni
def test_dead_channels_are_accepted() -> None:
    encoder = make_encoder(1)
    for layer in encoder.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.zeros_(layer.weight)
            nn.init.constant_(layer.bias, -1.0)
    with torch.inference_mode():
        assert (Int8Encoder(encoder, MEAN, STD)(make_crops(2, 1)) == 0).all()


def test_other_networks_refuse_int8() -> None:
    check_network_precision("int8", "cnn-bilstm", {"classes": 7})
    check_network_precision("bf16", "cnn4", {})
    for network, architecture in (("cnn4", {}), ("cnn-bilstm", {"backbone": "resnet18"})):
        with pytest.raises(ConfigError, match="does not compute in int8: give --precision auto"):
            check_network_precision("int8", network, architecture)
