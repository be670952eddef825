"""The default network: shapes, size, padding, batches and smoothing."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fer_batch.config import CROP_SIZE_PX
from fer_batch.model.cnn_bilstm import CnnBiLstm, Encoder

SMALL = (8, 8, 8, 8)


def make_network(seed: int = 0, **options: object) -> CnnBiLstm:
    torch.manual_seed(seed)
    return CnnBiLstm(filters=SMALL, **options).eval()


def make_crops(batch: int, steps: int, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, steps, 1, CROP_SIZE_PX, CROP_SIZE_PX, generator=generator)


def make_network_with_context(**options: object) -> CnnBiLstm:
    """Return a network whose context head has weights, as after training."""
    network = make_network(**options)
    nn.init.normal_(network.context_head.weight)
    nn.init.normal_(network.context_head.bias)
    return network


@pytest.mark.parametrize(
    ("filters", "depths", "fold", "convolutions"),
    [
        ((8,), (1,), 1, [(1, 8)]),
        ((8, 16), (2, 1), 1, [(1, 8), (8, 8), (8, 16)]),
        ((8, 16), (1, 3), 2, [(4, 8), (8, 16), (16, 16), (16, 16)]),
        ((12,), (1,), 4, [(16, 12)]),
    ],
)
def test_encoder_has_the_convolutions_of_its_depths(
    filters: tuple[int, ...], depths: tuple[int, ...], fold: int, convolutions: list[tuple[int, int]]
) -> None:
    encoder = Encoder(filters, depths, fold).eval()
    layers = [layer for layer in encoder.modules() if isinstance(layer, nn.Conv2d)]
    assert [(layer.in_channels, layer.out_channels) for layer in layers] == convolutions
    assert encoder.width == filters[-1]
    for count in (0, 1, 3):
        assert encoder(torch.zeros(count, 1, CROP_SIZE_PX, CROP_SIZE_PX)).shape == (count, filters[-1])


def test_depths_and_filters_must_have_equal_length() -> None:
    with pytest.raises(ValueError, match="shorter"):
        Encoder((8, 8), (1,), 1)


def test_default_encoder_has_the_documented_size() -> None:
    encoder = Encoder().eval()
    assert round(sum(parameter.numel() for parameter in encoder.parameters()) / 1e6, 2) == 1.17
    with FlopCounterMode(display=False) as counter:
        encoder(torch.zeros(1, 1, CROP_SIZE_PX, CROP_SIZE_PX))
    assert round(counter.get_total_flops() / 2 / 1e6) == 117


@pytest.mark.parametrize("steps", [1, 5])
def test_untrained_context_head_adds_nothing(steps: int) -> None:
    network = make_network()
    embeddings = torch.randn(3, steps, SMALL[-1], generator=torch.Generator().manual_seed(0))
    assert torch.equal(network.classify(embeddings), network.classify_crops(embeddings))
    assert not torch.equal(
        make_network_with_context().classify(embeddings), network.classify_crops(embeddings)
    )


def test_padded_batch_equals_single_sequences() -> None:
    network = make_network_with_context()
    lengths = torch.tensor([1, 5, 9, 2])
    crops = make_crops(len(lengths), 9)
    assert torch.equal(network(crops), network(crops, torch.full((4,), 9)))  # the default length
    together = network(crops, lengths)
    for row, length in enumerate(lengths.tolist()):
        alone = network(crops[row : row + 1, :length])
        torch.testing.assert_close(together[row, :length], alone[0], atol=1e-5, rtol=0)


def test_content_of_the_padding_does_not_matter() -> None:
    network = make_network_with_context()
    lengths = torch.tensor([3, 6])
    embeddings = torch.randn(2, 6, SMALL[-1], generator=torch.Generator().manual_seed(0))
    other = embeddings.clone()
    other[0, 3:] = 1e6
    first, second = network.classify(embeddings, lengths), network.classify(other, lengths)
    assert torch.equal(first[0, :3], second[0, :3])
    assert torch.equal(first[1], second[1])


def test_frame_depends_on_earlier_and_later_frames() -> None:
    network = make_network_with_context()
    embeddings = torch.randn(1, 5, SMALL[-1], generator=torch.Generator().manual_seed(0))
    result = network.classify(embeddings)
    for changed in (0, 4):
        other = embeddings.clone()
        other[0, changed] += 1
        assert (network.classify(other)[0, 2] != result[0, 2]).any()


def test_dropout_is_active_in_training_only() -> None:
    network = make_network(dropout=0.5)
    embeddings = torch.ones(3, SMALL[-1])
    assert torch.equal(network.classify_crops(embeddings), network.classify_crops(embeddings))
    network.train()
    torch.manual_seed(0)
    assert not torch.equal(network.classify_crops(embeddings), network.classify_crops(embeddings))


def enumerate_paths(probs: np.ndarray, stays: np.ndarray) -> np.ndarray:
    """Return the probabilities `(T - 1,)` of no change between neighbours of `(T, C)`, over all paths."""
    steps, classes = probs.shape
    others = (1 - stays) / (classes - 1)
    unchanged, total = np.zeros(steps - 1), 0.0
    for path in itertools.product(range(classes), repeat=steps):
        weight = float(np.prod([probs[step, state] for step, state in enumerate(path)]))
        for (before, after), stay, other in zip(itertools.pairwise(path), stays, others, strict=True):
            weight *= stay if before == after else other
        unchanged += weight * (np.diff(path) == 0)
        total += weight
    return unchanged / total


def draw_embeddings(batch: int, steps: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(batch, steps, SMALL[-1], generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("steps", [2, 3, 4, 5])
def test_smoothing_weights_equal_enumerated_path_probabilities(steps: int) -> None:
    network = make_network(classes=3)
    embeddings = draw_embeddings(4, steps)
    logits = 2 * torch.randn(4, steps, 3, generator=torch.Generator().manual_seed(steps))
    result = network.smooth_log_probs(logits, embeddings).exp().detach().numpy()
    stays = torch.sigmoid(network.compute_stay_logits(embeddings)).detach().numpy().astype(float)
    for row in range(4):
        shown = torch.softmax(logits[row], dim=1).numpy()
        unchanged = enumerate_paths(shown, stays[row])
        for frame in range(steps):
            weights = [float(np.prod(unchanged[min(frame, one) : max(frame, one)])) for one in range(steps)]
            expected = np.average(shown, axis=0, weights=weights)
            np.testing.assert_allclose(result[row, frame], expected, atol=1e-5)


def test_similar_embeddings_make_a_change_improbable() -> None:
    network = make_network()
    face, similar, other = torch.tensor([[1.0] + [0.0] * 15, [1.0, 0.05] + [0.0] * 14, [0.0] * 15 + [1.0]])
    stays = torch.sigmoid(network.compute_stay_logits(torch.stack([face, face, similar, other])[None]))[0]
    assert stays[0] >= stays[1] > 0.98
    assert stays[2] < 0.1
    assert network.compute_stay_logits(torch.zeros(2, 1, 16)).shape == (2, 0)


def test_smoothing_removes_an_outlier_and_keeps_a_change() -> None:
    network = make_network(classes=2)
    network.stay.data, network.change_slope.data = torch.tensor(0.9).logit(), torch.tensor(0.0)
    logits = torch.tensor([[0.8, 0.8, -0.4, 0.8, 0.8], [2.0, 2.0, -2.0, -2.0, -2.0]])  # of the first class
    pairs = torch.stack([logits, -logits], dim=2)
    result = network.smooth_log_probs(pairs, draw_embeddings(2, 5)).argmax(dim=2)
    assert result.tolist() == [[0, 0, 0, 0, 0], [0, 0, 1, 1, 1]]


def test_a_short_expression_is_kept_if_the_face_differs() -> None:
    network = make_network(classes=2)
    logits = torch.tensor([[0.8, 0.8, -0.4, 0.8, 0.8]])
    pairs, embeddings = torch.stack([logits, -logits], dim=2), torch.zeros(1, 5, 16)
    embeddings[:, :, 0] = 1
    assert network.smooth_log_probs(pairs, embeddings).argmax(dim=2).tolist() == [[0, 0, 0, 0, 0]]
    embeddings[:, 2] = embeddings[:, 2].roll(1, dims=1)
    assert network.smooth_log_probs(pairs, embeddings).argmax(dim=2).tolist() == [[0, 0, 1, 0, 0]]


def test_repeated_frames_do_not_raise_the_confidence() -> None:
    network = make_network()
    once, face = torch.randn(3, 1, 7), draw_embeddings(3, 1)
    alone = network.smooth_log_probs(once, face)
    repeated = network.smooth_log_probs(once.expand(3, 9, 7), face.expand(3, 9, -1))
    torch.testing.assert_close(repeated[:, :1], alone)
    torch.testing.assert_close(alone, torch.log_softmax(once, dim=2))


@settings(deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.integers(0, 1000))
def test_smoothing_ignores_padding(lengths: list[int], seed: int) -> None:
    network = make_network()
    logits = torch.randn(len(lengths), max(lengths), 7, generator=torch.Generator().manual_seed(seed))
    embeddings = draw_embeddings(len(lengths), max(lengths), seed)
    result = network.smooth_log_probs(logits, embeddings, torch.tensor(lengths))
    for row, length in enumerate(lengths):
        part = (slice(row, row + 1), slice(0, length))
        alone = network.smooth_log_probs(logits[part], embeddings[part])[0]
        torch.testing.assert_close(result[row, :length], alone, atol=1e-5, rtol=1e-4)
