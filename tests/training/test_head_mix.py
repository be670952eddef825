"""Mixes of the heads of several data sets."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from fer_batch.data.clips import Clips
from fer_batch.model.cnn_bilstm import CnnBiLstm
from fer_batch.training.head_mix import mix_heads
from fer_batch.training.predict import frames_to_tensor, normalize_crops
from tests.clips import make_clips

KNOWN = np.ones((2, 3), np.int64)


def make_network() -> CnnBiLstm:
    torch.manual_seed(0)
    return CnnBiLstm(classes=3, filters=(4, 8), depths=(1, 1)).eval()


@torch.no_grad()
def encode(network: CnnBiLstm, clips: Clips) -> torch.Tensor:
    return network.encode(normalize_crops(frames_to_tensor(clips.frames, torch.device("cpu"))))


def make_heads(network: CnnBiLstm, clips: Clips, datasets: list[str]) -> nn.Linear:
    """Train the network's head on the first data set, and return a head trained on the second."""
    heads = [network.crop_head, nn.Linear(network.width, 3)]
    embeddings = encode(network, clips)
    labels = torch.from_numpy(clips.labels)
    for head, name in zip(heads, datasets, strict=True):
        rows = torch.from_numpy(clips.datasets == name)
        optimizer = torch.optim.Adam(head.parameters(), lr=0.1)
        for _ in range(200):
            optimizer.zero_grad()
            nn.functional.cross_entropy(head(embeddings[rows]), labels[rows]).backward()
            optimizer.step()
    return heads[1]


def make_grey_clips(greys: list[int], labels: list[int], datasets: list[str]) -> Clips:
    noise = np.random.default_rng(0).integers(-5, 6, (len(greys), 48, 48))
    frames = np.clip(np.array(greys)[:, None, None] + noise, 0, 255).astype(np.uint8)
    return make_clips(frames, [1] * len(greys), classes="abc", labels=labels, datasets=datasets)


def measure_accuracy(network: CnnBiLstm, clips: Clips) -> dict[str, float]:
    correct = network.crop_head(encode(network, clips)).argmax(1).numpy() == clips.labels
    return {name: float(correct[clips.datasets == name].mean()) for name in set(clips.datasets.tolist())}


def test_heads_stay_without_examples() -> None:
    network = make_network()
    before = copy.deepcopy(network.state_dict())
    mix_heads(network, [nn.Linear(network.width, 3)], KNOWN, make_grey_clips([], [], []))
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_a_mix_suits_both_data_sets_where_each_head_suits_one() -> None:
    """Both data sets have dark and bright images, and different habits for the greys between."""
    one = make_grey_clips([20, 60, 120, 230] * 20, [0, 0, 0, 1] * 20, ["one"] * 80)
    other = make_grey_clips([20, 60, 120, 230] * 5, [0, 0, 1, 1] * 5, ["other"] * 20)
    clips = make_grey_clips(
        [20, 60, 120, 230] * 25, [*one.labels, *other.labels], ["one"] * 80 + ["other"] * 20
    )
    network = make_network()
    second = make_heads(network, clips, ["one", "other"])
    alone = measure_accuracy(network, clips)
    assert alone["one"] > 0.95 > alone["other"]
    encoder = copy.deepcopy(network.encoder.state_dict())
    mix_heads(network, [second], np.array([[60, 20, 0], [10, 10, 0]]), clips)
    mixed = measure_accuracy(network, clips)
    assert np.mean(list(mixed.values())) >= np.mean(list(alone.values()))
    assert all(torch.equal(encoder[name], value) for name, value in network.encoder.state_dict().items())


@pytest.mark.parametrize("known", [True, False])
def test_a_class_that_a_data_set_lacks_comes_from_the_first_head(known: bool) -> None:
    clips = make_grey_clips([20, 120, 230] * 10, [0, 1, 2] * 10, ["one"] * 30)
    network = make_network()
    second = make_heads(network, clips, ["one", "one"])
    with torch.no_grad():
        second.bias[2] = 50.0 if known else torch.inf  # as a class without examples may have any weights
    mix_heads(network, [second], np.array([[10, 10, 10], [10, 10, int(known)]]), clips)
    assert network.crop_head.bias.isfinite().all()
    assert measure_accuracy(network, clips)["one"] > 0.9
