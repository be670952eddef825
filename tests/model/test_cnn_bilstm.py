"""The recognizer's network: its shapes, its size, and that padding and batches change no answer."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fer_batch.model.cnn_bilstm import CnnBiLstm, Encoder
from fer_batch.model.network import CROP_SIZE

SMALL = (8, 8, 8, 8)


def small_network(seed: int = 0, **options: object) -> CnnBiLstm:
    torch.manual_seed(seed)
    return CnnBiLstm(filters=SMALL, **options).eval()


def some_crops(batch: int, steps: int, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, steps, 1, CROP_SIZE, CROP_SIZE, generator=generator)


def listening_network(**options: object) -> CnnBiLstm:
    """One whose context head has weights, as after training."""
    network = small_network(**options)
    nn.init.normal_(network.context_head.weight)
    nn.init.normal_(network.context_head.bias)
    return network


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(
    ("filters", "depths", "fold"),
    [
        (SMALL, (2, 2, 2, 2), 1),
        ((32, 64, 128, 256), (2, 2, 2, 2), 1),
        ((8, 16), (1, 1), 2),
        ((8, 16, 24), (3, 1, 2), 2),
        ((12,), (1,), 4),
    ],
)
def test_the_encoder_gives_an_embedding_a_crop(
    count: int, filters: tuple[int, ...], depths: tuple[int, ...], fold: int
) -> None:
    encoder = Encoder(filters, depths, fold).eval()
    assert encoder.width == filters[-1]
    assert encoder(torch.zeros(count, 1, CROP_SIZE, CROP_SIZE)).shape == (count, filters[-1])


def test_no_crops_have_no_embeddings() -> None:
    assert Encoder((8, 16), (1, 1)).eval()(torch.zeros(0, 1, CROP_SIZE, CROP_SIZE)).shape == (0, 16)


@pytest.mark.parametrize(
    ("filters", "depths", "fold", "convolutions"),
    [
        ((8,), (1,), 1, [(1, 8)]),
        ((8, 16), (2, 1), 1, [(1, 8), (8, 8), (8, 16)]),
        ((8, 16), (1, 3), 2, [(4, 8), (8, 16), (16, 16), (16, 16)]),
    ],
)
def test_an_encoder_has_as_many_convolutions_as_its_depths_say(
    filters: tuple[int, ...], depths: tuple[int, ...], fold: int, convolutions: list[tuple[int, int]]
) -> None:
    layers = [layer for layer in Encoder(filters, depths, fold).modules() if isinstance(layer, nn.Conv2d)]
    assert [(layer.in_channels, layer.out_channels) for layer in layers] == convolutions


def test_as_many_depths_as_filters_are_needed() -> None:
    with pytest.raises(ValueError, match="shorter"):
        Encoder((8, 8), (1,), 1)


@pytest.mark.parametrize("classes", [2, 7])
@pytest.mark.parametrize(("batch", "steps"), [(1, 1), (3, 1), (1, 2), (2, 9), (1, 40)])
def test_there_is_an_answer_for_every_moment_of_any_length(batch: int, steps: int, classes: int) -> None:
    logits = small_network(classes=classes)(some_crops(batch, steps))
    assert logits.shape == (batch, steps, classes)
    assert logits.isfinite().all()


def test_the_default_encoder_has_1_17_million_parameters() -> None:
    count = sum(parameter.numel() for parameter in Encoder().parameters())
    assert round(count / 1e6, 2) == 1.17


def test_the_default_encoder_takes_117_million_multiply_adds_a_crop() -> None:
    encoder = Encoder().eval()
    counted = []

    def count(layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        taps = layer.in_channels * layer.kernel_size[0] * layer.kernel_size[1] // layer.groups
        counted.append(output.numel() * taps)

    for layer in encoder.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(count)
    encoder(torch.zeros(1, 1, CROP_SIZE, CROP_SIZE))
    assert len(counted) == 8
    assert round(sum(counted) / 1e6) == 117


@pytest.mark.parametrize("steps", [1, 5])
def test_a_fresh_context_adds_nothing_to_what_a_crop_says(steps: int) -> None:
    network = small_network()
    embeddings = torch.randn(3, steps, SMALL[-1], generator=torch.Generator().manual_seed(0))
    assert torch.equal(network.classify(embeddings), network.classify_crops(embeddings))
    assert not torch.equal(listening_network().classify(embeddings), network.classify_crops(embeddings))


def test_a_padded_batch_answers_as_each_sequence_alone() -> None:
    network = listening_network()
    lengths = torch.tensor([1, 5, 9, 2])
    crops = some_crops(len(lengths), 9)
    together = network(crops, lengths)
    for row, length in enumerate(lengths.tolist()):
        alone = network(crops[row : row + 1, :length])
        torch.testing.assert_close(together[row, :length], alone[0], atol=1e-5, rtol=0)


def test_what_stands_in_the_padding_does_not_matter() -> None:
    network = listening_network()
    lengths = torch.tensor([3, 6])
    embeddings = torch.randn(2, 6, SMALL[-1], generator=torch.Generator().manual_seed(0))
    other = embeddings.clone()
    other[0, 3:] = 1e6
    first, second = network.classify(embeddings, lengths), network.classify(other, lengths)
    assert torch.equal(first[0, :3], second[0, :3])
    assert torch.equal(first[1], second[1])


def test_without_lengths_every_sequence_is_whole() -> None:
    network = listening_network()
    crops = some_crops(3, 4)
    assert torch.equal(network(crops), network(crops, torch.tensor([4, 4, 4])))


def test_a_moment_hears_of_moments_before_and_after_it() -> None:
    network = listening_network()
    embeddings = torch.randn(1, 5, SMALL[-1], generator=torch.Generator().manual_seed(0))
    answer = network.classify(embeddings)
    for changed in (0, 4):
        other = embeddings.clone()
        other[0, changed] += 1
        assert (network.classify(other)[0, 2] != answer[0, 2]).any()


def test_a_crop_is_encoded_alike_in_any_company() -> None:
    network = small_network()
    crops = some_crops(1, 6)[0]
    together = network.encode(crops)
    for row in range(len(crops)):
        torch.testing.assert_close(network.encode(crops[row : row + 1])[0], together[row], atol=1e-5, rtol=0)


def test_dropout_stops_outside_of_training() -> None:
    network = small_network(dropout=0.5)
    embeddings = torch.ones(3, SMALL[-1])
    assert torch.equal(network.classify_crops(embeddings), network.classify_crops(embeddings))
    network.train()
    torch.manual_seed(0)
    assert not torch.equal(network.classify_crops(embeddings), network.classify_crops(embeddings))


def by_enumeration(probs: np.ndarray, stay: float) -> np.ndarray:
    """`(T, C)` what each moment shows, to the chances `(T - 1,)` that nothing changes from each to the next,
    over all paths, one path after the other.
    """
    steps, classes = probs.shape
    other = (1 - stay) / (classes - 1)
    unchanged, total = np.zeros(steps - 1), 0.0
    for path in itertools.product(range(classes), repeat=steps):
        weight = float(np.prod([probs[step, state] for step, state in enumerate(path)]))
        for before, after in itertools.pairwise(path):
            weight *= stay if before == after else other
        unchanged += weight * (np.diff(path) == 0)
        total += weight
    return unchanged / total


@pytest.mark.parametrize(("steps", "stay"), [(2, 0.9), (3, 0.5), (4, 0.99), (5, 0.7)])
def test_moments_between_which_nothing_changes_answer_together(steps: int, stay: float) -> None:
    network = small_network(classes=3)
    network.stay_logit.data = torch.tensor(stay).logit()
    logits = 2 * torch.randn(4, steps, 3, generator=torch.Generator().manual_seed(steps))
    answer = network.smooth_log_probs(logits).exp().detach().numpy()
    for row in range(4):
        shown = torch.softmax(logits[row], dim=1).numpy()
        unchanged = by_enumeration(shown, stay)
        for moment in range(steps):
            weights = [float(np.prod(unchanged[min(moment, one) : max(moment, one)])) for one in range(steps)]
            expected = np.average(shown, axis=0, weights=weights)
            np.testing.assert_allclose(answer[row, moment], expected, atol=1e-5)


def test_a_single_moment_is_overruled_and_a_change_is_followed() -> None:
    network = small_network(classes=2)
    network.stay_logit.data = torch.tensor(0.9).logit()
    logits = torch.tensor([[0.8, 0.8, -0.4, 0.8, 0.8], [2.0, 2.0, -2.0, -2.0, -2.0]])  # of the first class
    answer = network.smooth_log_probs(torch.stack([logits, -logits], dim=2)).argmax(dim=2)
    assert answer.tolist() == [[0, 0, 0, 0, 0], [0, 0, 1, 1, 1]]


def test_the_same_look_again_makes_no_surer() -> None:
    network = small_network()
    once = torch.randn(3, 1, 7)
    torch.testing.assert_close(
        network.smooth_log_probs(once.expand(3, 9, 7))[:, :1], network.smooth_log_probs(once)
    )
    torch.testing.assert_close(network.smooth_log_probs(once), torch.log_softmax(once, dim=2))


@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.integers(0, 1000))
def test_padding_changes_no_answer_before_it(lengths: list[int], seed: int) -> None:
    network = small_network()
    logits = torch.randn(len(lengths), max(lengths), 7, generator=torch.Generator().manual_seed(seed))
    answer = network.smooth_log_probs(logits, torch.tensor(lengths))
    for row, length in enumerate(lengths):
        alone = network.smooth_log_probs(logits[row : row + 1, :length])[0]
        torch.testing.assert_close(answer[row, :length], alone, atol=1e-5, rtol=1e-4)
