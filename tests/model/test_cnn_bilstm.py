"""The recognizer's network: its shapes, its size, and that padding and batches change no answer."""

import pytest
import torch
from torch import nn

from fer_batch.model.cnn_bilstm import CROP_SIZE, CnnBiLstm, Encoder

SMALL = (8, 8, 8, 8)


def small_network(seed: int = 0, **options: object) -> CnnBiLstm:
    torch.manual_seed(seed)
    return CnnBiLstm(filters=SMALL, **options).eval()


def some_crops(batch: int, steps: int, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, steps, 1, CROP_SIZE, CROP_SIZE, generator=generator)


@pytest.mark.parametrize("count", [0, 1, 3])
@pytest.mark.parametrize("filters", [SMALL, (32, 64, 128, 256)])
def test_the_encoder_gives_an_embedding_a_crop(count: int, filters: tuple[int, ...]) -> None:
    encoder = Encoder(filters).eval()
    assert encoder.width == filters[-1]
    assert encoder(torch.zeros(count, 1, CROP_SIZE, CROP_SIZE)).shape == (count, filters[-1])


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


def test_a_padded_batch_answers_as_each_sequence_alone() -> None:
    network = small_network()
    lengths = torch.tensor([1, 5, 9, 2])
    crops = some_crops(len(lengths), 9)
    together = network(crops, lengths)
    for row, length in enumerate(lengths.tolist()):
        alone = network(crops[row : row + 1, :length])
        torch.testing.assert_close(together[row, :length], alone[0], atol=1e-5, rtol=0)


def test_what_stands_in_the_padding_does_not_matter() -> None:
    network = small_network()
    lengths = torch.tensor([3, 6])
    embeddings = torch.randn(2, 6, SMALL[-1], generator=torch.Generator().manual_seed(0))
    other = embeddings.clone()
    other[0, 3:] = 1e6
    first, second = network.classify(embeddings, lengths), network.classify(other, lengths)
    assert torch.equal(first[0, :3], second[0, :3])
    assert torch.equal(first[1], second[1])


def test_without_lengths_every_sequence_is_whole() -> None:
    network = small_network()
    crops = some_crops(3, 4)
    assert torch.equal(network(crops), network(crops, torch.tensor([4, 4, 4])))


def test_a_moment_hears_of_moments_before_and_after_it() -> None:
    network = small_network()
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
    embeddings = torch.ones(1, 3, SMALL[-1])
    assert torch.equal(network.classify(embeddings), network.classify(embeddings))
    network.train()
    torch.manual_seed(0)
    assert not torch.equal(network.classify(embeddings), network.classify(embeddings))
