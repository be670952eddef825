"""The published networks: their layers, their size, and that each answers as the recognizer takes it to."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fer_batch.config import BLOCKS, DROPOUTS, TrainConfig
from fer_batch.config import NETWORKS as NAMES
from fer_batch.model.cost import measure_cost
from fer_batch.model.network import CROP_SIZE, Network
from fer_batch.model.published import Cnn4, Cnn4Bn, CnnLstm, DcnnBiLstm
from fer_batch.model.recognize import Recognizer
from fer_batch.model.registry import NETWORKS, build_network
from fer_batch.model.weights import Card, load_checkpoint, save_checkpoint

SMALL: dict[str, dict[str, Any]] = {
    "cnn-bilstm": {"filters": (4, 4), "depths": (1, 1), "lstm": (4, 3)},
    "cnn4": {"filters": (4, 4, 4, 4), "dense": (6, 5)},
    "cnn4bn": {"filters": (4, 4, 4, 4), "depths": (1, 2, 1, 1), "dense": (6, 5)},
    "cnn-lstm": {"filters": (4, 4, 4, 4), "depths": (1, 1, 1, 1), "lstm": (4, 3)},
    "dcnn-bilstm": {"filters": (4, 4, 4, 4), "lstm": (4, 3), "dense": 5},
}


def small(name: str, classes: int = 5) -> Network:
    torch.manual_seed(0)
    return build_network(name, {**SMALL[name], "classes": classes}).eval()


def shapes(network: Network, kind: type[nn.Module]) -> list[tuple[int, ...]]:
    """What each layer of a kind gives of one crop, without the first axis."""
    seen: list[tuple[int, ...]] = []
    hooks = [
        layer.register_forward_hook(lambda _, given, made: seen.append(tuple(made.shape[1:])))
        for layer in network.modules()
        if isinstance(layer, kind)
    ]
    network.eval()(torch.zeros(1, 1, 1, CROP_SIZE, CROP_SIZE))
    for hook in hooks:
        hook.remove()
    return seen


def dropouts(network: nn.Module) -> list[float]:
    return [layer.p for layer in network.modules() if isinstance(layer, nn.Dropout)]


def parameters(network: nn.Module) -> int:
    return sum(value.numel() for value in network.parameters())


def test_the_names_are_those_of_the_configuration() -> None:
    assert tuple(NETWORKS) == NAMES


@pytest.mark.parametrize("name", sorted(BLOCKS.keys() - {"cnn-bilstm"}))
def test_blocks_that_nobody_gives_are_those_of_the_network(name: str) -> None:
    config = TrainConfig(data=(("a", "a"),), network=name)
    given = build_network(name, {"filters": config.filters, "depths": config.depths})
    assert shapes(given, nn.Conv2d) == shapes(build_network(name, {}), nn.Conv2d)


@pytest.mark.parametrize("name", DROPOUTS)
def test_a_network_has_as_many_dropouts_as_the_configuration_asks_for(name: str) -> None:
    given = [round(0.1 + number / 100, 2) for number in range(2 + DROPOUTS[name])]
    sizes = {"filters": (4, 4), "depths": (1, 1), "dropouts": given}
    made = build_network(name, sizes)
    found = [*dropouts(made), *getattr(made, "lstm_dropout", ())]
    assert sorted(filter(None, found)) == given


def test_there_is_no_network_of_another_name() -> None:
    with pytest.raises(ValueError, match="no network 'cnn5'"):
        build_network("cnn5", {})


def test_cnn4_is_as_published() -> None:
    network = Cnn4()
    assert parameters(network) == 4_232_199
    assert shapes(network, nn.Conv2d) == [(128, 46, 46), (256, 21, 21), (512, 8, 8), (512, 2, 2)]
    assert shapes(network, nn.MaxPool2d) == [(128, 23, 23), (256, 10, 10), (512, 4, 4), (512, 1, 1)]
    assert shapes(network, nn.Linear) == [(512,), (256,), (1, 7)]
    assert dropouts(network) == [0.4, 0.4, 0.4, 0.4, 0.4, 0.3]
    assert not shapes(network, nn.BatchNorm2d)


def test_cnn4bn_is_as_published() -> None:
    network = Cnn4Bn()
    assert 10.4e6 < parameters(network) < 10.6e6
    convolutions = shapes(network, nn.Conv2d)
    assert list(dict.fromkeys(convolutions)) == [(64, 48, 48), (128, 24, 24), (256, 12, 12), (512, 6, 6)]
    assert shapes(network, nn.BatchNorm2d) == convolutions
    assert shapes(network, nn.MaxPool2d)[-1] == (512, 3, 3)
    assert shapes(network, nn.BatchNorm1d) == [(1024,), (512,)]
    assert dropouts(network) == [0.25, 0.3, 0.4, 0.5, 0.5, 0.5]


def test_cnn_lstm_reads_its_map_place_by_place() -> None:
    network = CnnLstm()
    assert list(dict.fromkeys(shapes(network, nn.MaxPool2d))) == [
        (32, 24, 24), (64, 12, 12), (128, 6, 6), (256, 3, 3)
    ]  # fmt: skip
    lstms = [layer for layer in network.modules() if isinstance(layer, nn.LSTM)]
    assert [(lstm.input_size, lstm.hidden_size, lstm.bidirectional) for lstm in lstms] == [
        (256, 128, False),
        (128, 64, False),
    ]
    assert network.lstms == []  # none over a window
    assert dropouts(network) == [0.25, 0.3, 0.4, 0.5]


def test_dcnn_bilstm_is_as_published() -> None:
    network = DcnnBiLstm()
    widths = [shape[0] for shape in shapes(network, nn.Conv2d)]
    assert widths == [64, 64, 128, 128, 256, 256, 512, 512]
    assert len(shapes(network, nn.BatchNorm2d)) == 8
    assert shapes(network, nn.MaxPool2d) == [(64, 24, 24), (128, 12, 12), (256, 6, 6), (512, 3, 3)]
    assert shapes(network, nn.AdaptiveMaxPool2d) == [(512, 1, 1)]
    assert [(lstm.input_size, lstm.hidden_size, lstm.bidirectional) for lstm in network.lstms] == [
        (512, 128, True),
        (256, 64, True),
    ]
    assert shapes(network, nn.Linear) == [(128,), (5,)]
    assert network.lstm_dropout == (0.35, 0.45)
    assert dropouts(network) == [0.4, 0.4, 0.4, 0.45, 0.7]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("batch", "steps"), [(1, 1), (2, 1), (2, 3)])
def test_every_network_answers_every_moment_with_a_distribution(name: str, batch: int, steps: int) -> None:
    network = small(name)
    crops = torch.randn(batch, steps, 1, CROP_SIZE, CROP_SIZE)
    with torch.inference_mode():
        answers = network(crops).exp()
    assert answers.shape == (batch, steps, network.classes)
    torch.testing.assert_close(answers.sum(dim=2), torch.ones(batch, steps))
    assert network.encode(crops[:, 0]).shape == (batch, network.width)
    assert network.classify_crops(network.encode(crops[:, 0])).shape == (batch, 5)


@pytest.mark.parametrize("name", NAMES)
def test_padding_changes_no_answer(name: str) -> None:
    network = small(name)
    crops = torch.randn(2, 4, 1, CROP_SIZE, CROP_SIZE)
    other = torch.cat([crops[:, :2], torch.randn(2, 2, 1, CROP_SIZE, CROP_SIZE)], dim=1)
    lengths = torch.tensor([2, 2])
    with torch.inference_mode():
        answers = [network(given, lengths)[:, :2] for given in (crops, other)]
    torch.testing.assert_close(*answers)


@pytest.mark.parametrize("name", ["cnn4", "cnn4bn", "cnn-lstm"])
def test_networks_of_stills_answer_each_moment_alone(name: str) -> None:
    network = small(name)
    crops = torch.randn(1, 3, 1, CROP_SIZE, CROP_SIZE)
    with torch.inference_mode():
        together, alone = network(crops), network(crops.transpose(0, 1)).transpose(0, 1)
    torch.testing.assert_close(together, alone)


def test_networks_of_clips_have_one_answer_for_all_moments_and_the_order_counts() -> None:
    network = small("dcnn-bilstm")
    crops = torch.randn(1, 3, 1, CROP_SIZE, CROP_SIZE)
    with torch.inference_mode():
        answers, turned = network(crops), network(crops.flip(1))
    assert torch.equal(answers[:, 0], answers[:, 2])
    assert not torch.allclose(answers, turned)


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_network_answers_faces_of_tracks_like_the_trained_one(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fer_batch.model.recognize._bf16_pays", lambda device: False)
    window = 3 if small(name).lstms else 1
    card = Card(
        classes=("a", "b", "c", "d", "e"),
        network=name,
        architecture={**SMALL[name], "classes": 5},
        window_length=window,
        window_rate_hz=5.0,
    )
    path = tmp_path / "model.safetensors"
    assert save_checkpoint(path, small(name), card).model_id.startswith(f"{name}-")
    network, _ = load_checkpoint(path)
    recognizer = Recognizer(path, device="cpu", flip=False)
    crops = np.random.default_rng(0).integers(0, 256, (4, CROP_SIZE, CROP_SIZE), dtype=np.uint8)
    times = np.arange(4) / 5
    answers = recognizer.predict_tracks(crops, np.zeros(4, int), times, np.ones(4, bool))
    given = (torch.from_numpy(crops)[None, :, None] / 255 - card.mean) / card.std
    with torch.inference_mode():
        for moment in range(4):
            first, end = max(0, moment - window // 2), min(4, moment + window // 2 + 1)
            expected = network(given[:, first:end])[0, moment - first].exp()
            np.testing.assert_allclose(answers[moment], expected, atol=1e-4)
    again = recognizer.predict_tracks(crops[::-1], np.zeros(4, int), times[::-1], np.ones(4, bool))
    np.testing.assert_allclose(again[::-1], answers, atol=1e-6)


@pytest.mark.parametrize(
    ("network", "architecture", "window", "parameters", "multiply_adds"),
    [
        # 9·4·46² + 16·9·21² + 16·9·8² + 16·9·2², and 4·6 + 6·5 + 5·2
        ("cnn4", {"filters": (4, 4, 4, 4), "dense": (6, 5), "classes": 2}, 1, 40 + 3 * 148 + 30 + 35 + 12,
         76_176 + 63_504 + 9_216 + 576 + 64),
        # 9·4·48² + 4·(8·4·(4+4) + 8·3·(8+3)) and two heads of 4·2 and 6·2 a step
        ("cnn-bilstm", {"filters": (4,), "depths": (1,), "lstm": (4, 3), "classes": 2}, 2,
         36 + 8 + 2 * (4 * 4 * 8 + 32) + 2 * (4 * 3 * 11 + 24) + 10 + 14 + 1,
         82_944 + 2 * (2 * 4 * 4 * 8 + 2 * 4 * 3 * 11 + 8 + 12)),
    ],
)  # fmt: skip
def test_what_a_network_costs_is_counted(
    network: str, architecture: dict[str, Any], window: int, parameters: int, multiply_adds: int
) -> None:
    counted = measure_cost(network, architecture, window)
    assert counted == {"parameters": parameters, "multiply_adds": multiply_adds}
