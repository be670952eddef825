"""Attribution: maps point to the places a network uses, and weights to the frames it reads."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fer_batch.evaluation.explain.attribution import (
    METHODS,
    attribute_face,
    find_map_layer,
    weigh_frames,
)
from fer_batch.model.backbone import BackboneEncoder
from fer_batch.model.card import Card
from fer_batch.model.network import Network
from fer_batch.model.recognize import Recognizer
from fer_batch.model.registry import NETWORKS, build_network
from fer_batch.model.weights import load_checkpoint

CARD = Card(classes=("a", "b", "c"), architecture={}, temperature=1.5)
TINY: dict[str, dict[str, Any]] = {
    "cnn-bilstm": {"filters": (2, 3), "depths": (1, 1), "lstm": (3, 2)},
    "cnn4": {"filters": (4, 4, 4, 4), "dense": (8, 6)},
    "cnn4bn": {"filters": (4, 4, 4, 4), "depths": (1, 1, 1, 1), "dense": (8, 6)},
    "cnn-lstm": {"filters": (4, 4, 4, 4), "depths": (1, 1, 1, 1), "lstm": (4, 3)},
    "dcnn-bilstm": {"filters": (4, 4, 4, 4), "depths": (1, 1, 1, 1), "lstm": (3, 2), "dense": 4},
}


def network(name: str, **architecture: Any) -> Network:
    torch.manual_seed(0)
    made = build_network(name, {"classes": 3} | (architecture or TINY[name])).eval()
    for layer in made.encoder.modules():
        if isinstance(layer, nn.Conv2d):  # small ones of random weights are dead otherwise
            nn.init.normal_(layer.weight, std=0.6)
    if name == "cnn-bilstm":  # untrained LSTMs do not change the prediction
        nn.init.normal_(made.context_head.weight)  # type: ignore[arg-type]
    return made


def noise(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 48, 48), np.uint8)


def brightness() -> Network:
    """Return a network in which bright pixels raise class 1 and lower class 2."""
    made = network("cnn-bilstm", filters=(2,), depths=(1,), lstm=(2, 2))
    conv, norm = (layer for layer in made.encoder.modules() if isinstance(layer, nn.Conv2d | nn.BatchNorm2d))
    with torch.no_grad():
        for weights in (conv.weight, made.crop_head.weight, made.crop_head.bias):
            weights.zero_()
        conv.weight[0, 0, 1, 1] = 1
        norm.bias[0] = -1
        made.crop_head.weight[1, 0], made.crop_head.weight[2, 0] = 50, -50
        made.context_head.weight.zero_()  # type: ignore[operator]
    return made


@pytest.mark.parametrize("left", [(4, 30), (30, 10)])
def test_maps_point_to_the_patch_that_causes_the_prediction(left: tuple[int, int]) -> None:
    row, column = left
    crop = np.full((1, 48, 48), 60, np.uint8)
    crop[0, row : row + 6, column : column + 6] = 250
    attribution = attribute_face(brightness(), CARD, crop, 0, emotions=[1, 2])
    near, far = np.zeros((48, 48), bool), np.ones((48, 48), bool)
    near[row - 2 : row + 8, column - 2 : column + 8] = True
    far[max(row - 8, 0) : row + 14, max(column - 8, 0) : column + 14] = False
    for method in METHODS:
        of = attribution.maps[method][0]
        assert near.ravel()[of.argmax()], method
        assert np.abs(of[far]).max() < of.max() / 100, method
    assert attribution.maps["grad-cam"][1].max() == 0  # nothing supports class 2
    assert near.ravel()[attribution.maps["occlusion"][1].argmin()]
    assert attribution.frames is None


def test_occlusion_points_to_the_only_place_that_is_read() -> None:
    """The network reads one place of its map for class 2, and another for class 0."""
    made = network("cnn4", filters=(1,), depths=(1,), dense=(2,), dropouts=(0.0, 0.0))
    conv, dense = (layer for layer in made.encoder.modules() if isinstance(layer, nn.Conv2d | nn.Linear))
    with torch.no_grad():
        for layer in (conv, dense, made.crop_head):
            layer.weight.zero_()
            layer.bias.zero_()  # type: ignore[union-attr]
        conv.weight[0, 0, 1, 1] = 1
        conv.bias += 3
        dense.weight[0, 23 * 5 + 17] = dense.weight[1, 23 * 15 + 4] = 1
        made.crop_head.weight[2, 0] = made.crop_head.weight[0, 1] = 1
    crop = noise(1)
    crop[0, 9:15, 33:39] = crop[0, 29:35, 7:13] = 255
    maps = attribute_face(made, CARD, crop, 0, [2, 0], ["occlusion"]).maps["occlusion"]
    for number, (row, column) in enumerate([(5, 17), (15, 4)]):
        down, along = np.unravel_index(maps[number].argmax(), (48, 48))
        assert abs(down - 2 * row - 1.5) <= 3 and abs(along - 2 * column - 1.5) <= 3
    assert np.abs(maps[:, :, 44:]).max() < 1e-6
    # The maps of several emotions equal those of each emotion alone.
    for number, emotion in enumerate([2, 0]):
        alone = attribute_face(made, CARD, crop, 0, [emotion], ["occlusion"]).maps["occlusion"]
        np.testing.assert_allclose(alone[0], maps[number], atol=1e-6)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("steps", [1, 3])
def test_every_network_has_an_attribution(name: str, steps: int) -> None:
    made, crops = network(name), noise(steps)
    centre = steps // 2
    attribution = attribute_face(made, CARD, crops, centre)
    given = torch.tensor(crops).float().div(255).sub(CARD.mean).div(CARD.std)[None, :, None]
    with torch.no_grad():
        embeddings = made.encode(given[0])[None]
        logits = made.classify(embeddings) / CARD.temperature
        probs = made.smooth_log_probs(logits, embeddings)[0, centre].exp().numpy()
    np.testing.assert_allclose(attribution.probs, probs, atol=1e-6)
    assert attribution.emotions == np.argsort(-probs)[:2].tolist()
    assert attribution.crop_only == (made.first_phase == "stills" or steps == 1)
    if not attribution.crop_only:
        np.testing.assert_allclose(attribution.crop_probs, attribution.probs, atol=1e-6)
    assert attribution.crop_probs.sum() == pytest.approx(1, abs=1e-5)
    assert list(attribution.maps) == list(METHODS)
    for maps in attribution.maps.values():
        assert (maps.shape, maps.dtype) == ((2, 48, 48), np.float32)
        assert np.isfinite(maps).all()
    assert attribution.maps["grad-cam"].min() >= 0
    assert np.abs(attribution.maps["occlusion"]).max() > 0
    assert (attribution.frames is not None) == (bool(made.lstms) and steps > 1)
    if attribution.frames is not None:
        assert attribution.frames.weights.shape == (2, steps)
        assert np.abs(attribution.frames.error).max() < 1e-3


def test_map_layer_is_the_activation_after_the_last_convolution() -> None:
    encoder = network("cnn-bilstm").encoder
    layer = find_map_layer(encoder)
    assert isinstance(layer, nn.ReLU)
    assert layer is [module for module in encoder.modules() if isinstance(module, nn.ReLU)][-1]
    resnet = BackboneEncoder("resnet18", 64).eval()
    assert find_map_layer(resnet) is resnet.network.layer4  # with the shortcut, before the mean


def test_encoders_without_places_have_no_map_layer() -> None:
    assert find_map_layer(BackboneEncoder("resnet18", 32).eval()) is None  # 1×1
    with torch.device("meta"):  # which takes no memory
        vit = BackboneEncoder("vit_b_32")
    assert find_map_layer(vit) is None
    made = network("cnn-bilstm", backbone="resnet18", size=32, lstm=(2, 2))
    assert list(attribute_face(made, CARD, noise(1), 0).maps) == ["occlusion"]


@pytest.mark.parametrize("name", ["cnn-bilstm", "dcnn-bilstm"])
def test_contributions_sum_to_the_difference_from_grey_frames(name: str) -> None:
    made, crops = network(name), noise(5)
    frames = attribute_face(made, CARD, crops, 1, [0, 1, 2], []).frames
    assert frames is not None
    given = torch.tensor(crops).float().div(255).sub(CARD.mean).div(CARD.std)[:, None]
    with torch.no_grad():
        seen, unseen = (made.encode(images)[None] for images in (given, torch.zeros_like(given)))
        window, grey = (
            made.smooth_log_probs(made.classify(embeddings) / CARD.temperature, seen)[0, 1].numpy()
            for embeddings in (seen, unseen)
        )
    np.testing.assert_allclose(frames.difference, window - grey, atol=1e-6)
    np.testing.assert_allclose(frames.contributions.sum(axis=1), window - grey, atol=1e-4)
    np.testing.assert_allclose(np.abs(frames.weights).sum(axis=1), 1, atol=1e-6)
    assert (np.sign(frames.weights) == np.sign(frames.contributions)).all()


def test_decisive_frame_has_the_weight() -> None:
    alone = brightness()
    with torch.no_grad():
        alone.stay.copy_(torch.tensor(-1e6))  # type: ignore[operator]
    crops = noise(7)
    frames = attribute_face(alone, CARD, crops, 2, [1], []).frames
    assert frames is not None
    assert frames.weights[0, 2] > 0.99  # each frame decides for itself
    # In a network that reads all frames, only the frame that differs from grey has weight.
    crops[:] = round(255 * CARD.mean)
    crops[4, :, :20] = 255
    frames = attribute_face(brightness(), CARD, crops, 2, [1, 2], []).frames
    assert frames is not None
    assert frames.weights[0, 4] > 0.99 and frames.weights[1, 4] < -0.99


def test_grey_frames_have_no_weight() -> None:
    made = network("cnn-bilstm")
    grey = made.encode(torch.zeros(3, 1, 48, 48)).detach()
    frames = weigh_frames(made, CARD, grey, 1, [0])
    assert not frames.weights.any() and not frames.error.any()


def test_prediction_equals_that_of_analyze_without_flip() -> None:
    made, card = load_checkpoint()
    crops, times = noise(17, seed=3), np.arange(17) / card.window_rate_hz
    attribution = attribute_face(made, card, crops, 8, [0], [])
    expected = Recognizer(device="cpu", flip=False, precision="fp32").predict_tracks(
        crops, np.zeros(17, np.int64), times, np.arange(17) == 8
    )
    np.testing.assert_allclose(attribution.probs, expected[8], atol=0.02)  # which may be in half precision
    assert attribution.maps == {}
