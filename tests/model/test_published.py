"""The published networks: layers, size, predictions and cost."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fer_batch.config import CROP_SIZE_PX
from fer_batch.model.card import Card
from fer_batch.model.cost import measure_cost
from fer_batch.model.network import Network
from fer_batch.model.published import Cnn4, Cnn4Bn, CnnLstm, DcnnBiLstm
from fer_batch.model.recognize import Recognizer
from fer_batch.model.registry import NETWORKS, build_network
from fer_batch.model.weights import load_checkpoint, save_checkpoint
from fer_batch.train_config import BLOCKS, DROPOUTS, TrainConfig
from fer_batch.train_config import NETWORKS as NAMES

SMALL: dict[str, dict[str, Any]] = {
    "cnn-bilstm": {"filters": (4, 4), "depths": (1, 1), "lstm": (4, 3)},
    "cnn4": {"filters": (4, 4, 4, 4), "dense": (6, 5)},
    "cnn4bn": {"filters": (4, 4, 4, 4), "depths": (1, 2, 1, 1), "dense": (6, 5)},
    "cnn-lstm": {"filters": (4, 4, 4, 4), "depths": (1, 1, 1, 1), "lstm": (4, 3)},
    "dcnn-bilstm": {"filters": (4, 4, 4, 4), "lstm": (4, 3), "dense": 5},
}


def make_small(name: str, classes: int = 5) -> Network:
    torch.manual_seed(0)
    return build_network(name, {**SMALL[name], "classes": classes}).eval()


def trace_shapes(network: Network, kind: type[nn.Module]) -> list[tuple[int, ...]]:
    """Return the output shapes of all layers of a kind for one crop, without the first axis."""
    seen: list[tuple[int, ...]] = []
    hooks = [
        layer.register_forward_hook(lambda _, given, made: seen.append(tuple(made.shape[1:])))
        for layer in network.modules()
        if isinstance(layer, kind)
    ]
    network.eval()(torch.zeros(1, 1, 1, CROP_SIZE_PX, CROP_SIZE_PX))
    for hook in hooks:
        hook.remove()
    return seen


def list_dropouts(network: nn.Module) -> list[float]:
    return [layer.p for layer in network.modules() if isinstance(layer, nn.Dropout)]


def count_parameters(network: nn.Module) -> int:
    return sum(value.numel() for value in network.parameters())


def test_registry_has_the_names_of_the_configuration() -> None:
    assert tuple(NETWORKS) == NAMES


@pytest.mark.parametrize("name", sorted(BLOCKS.keys() - {"cnn-bilstm"}))
def test_default_blocks_of_the_configuration_equal_those_of_the_network(name: str) -> None:
    config = TrainConfig(data=(("a", "a"),), network=name)
    given = build_network(name, {"filters": config.filters, "depths": config.depths})
    assert trace_shapes(given, nn.Conv2d) == trace_shapes(build_network(name, {}), nn.Conv2d)


@pytest.mark.parametrize("name", DROPOUTS)
def test_network_has_the_dropouts_of_the_configuration(name: str) -> None:
    given = [round(0.1 + number / 100, 2) for number in range(2 + DROPOUTS[name])]
    sizes = {"filters": (4, 4), "depths": (1, 1), "dropouts": given}
    made = build_network(name, sizes)
    found = [*list_dropouts(made), *getattr(made, "lstm_dropout", ())]
    assert sorted(filter(None, found)) == given


def test_unknown_network_raises_value_error() -> None:
    with pytest.raises(ValueError, match="unknown network 'cnn5'"):
        build_network("cnn5", {})


def test_cnn4_has_the_published_layers() -> None:
    network = Cnn4()
    assert count_parameters(network) == 4_232_199
    assert trace_shapes(network, nn.Conv2d) == [(128, 46, 46), (256, 21, 21), (512, 8, 8), (512, 2, 2)]
    assert trace_shapes(network, nn.MaxPool2d) == [(128, 23, 23), (256, 10, 10), (512, 4, 4), (512, 1, 1)]
    assert trace_shapes(network, nn.Linear) == [(512,), (256,), (1, 7)]
    assert list_dropouts(network) == [0.4, 0.4, 0.4, 0.4, 0.4, 0.3]
    assert not trace_shapes(network, nn.BatchNorm2d)


def test_cnn4bn_has_the_published_layers() -> None:
    network = Cnn4Bn()
    assert 10.4e6 < count_parameters(network) < 10.6e6
    convolutions = trace_shapes(network, nn.Conv2d)
    assert list(dict.fromkeys(convolutions)) == [(64, 48, 48), (128, 24, 24), (256, 12, 12), (512, 6, 6)]
    assert trace_shapes(network, nn.BatchNorm2d) == convolutions
    assert trace_shapes(network, nn.MaxPool2d)[-1] == (512, 3, 3)
    assert trace_shapes(network, nn.BatchNorm1d) == [(1024,), (512,)]
    assert list_dropouts(network) == [0.25, 0.3, 0.4, 0.5, 0.5, 0.5]


def test_cnn_lstm_has_the_published_layers() -> None:
    network = CnnLstm()
    assert list(dict.fromkeys(trace_shapes(network, nn.MaxPool2d))) == [
        (32, 24, 24), (64, 12, 12), (128, 6, 6), (256, 3, 3)
    ]  # fmt: skip
    lstms = [layer for layer in network.modules() if isinstance(layer, nn.LSTM)]
    assert [(lstm.input_size, lstm.hidden_size, lstm.bidirectional) for lstm in lstms] == [
        (256, 128, False),
        (128, 64, False),
    ]
    assert network.lstms == []  # no LSTM over a window
    assert list_dropouts(network) == [0.25, 0.3, 0.4, 0.5]


def test_dcnn_bilstm_has_the_published_layers() -> None:
    network = DcnnBiLstm()
    widths = [shape[0] for shape in trace_shapes(network, nn.Conv2d)]
    assert widths == [64, 64, 128, 128, 256, 256, 512, 512]
    assert len(trace_shapes(network, nn.BatchNorm2d)) == 8
    assert trace_shapes(network, nn.MaxPool2d) == [(64, 24, 24), (128, 12, 12), (256, 6, 6), (512, 3, 3)]
    assert trace_shapes(network, nn.AdaptiveMaxPool2d) == [(512, 1, 1)]
    assert [(lstm.input_size, lstm.hidden_size, lstm.bidirectional) for lstm in network.lstms] == [
        (512, 128, True),
        (256, 64, True),
    ]
    assert trace_shapes(network, nn.Linear) == [(128,), (5,)]
    assert network.lstm_dropout == (0.35, 0.45)
    assert list_dropouts(network) == [0.4, 0.4, 0.4, 0.45, 0.7]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("batch", "steps"), [(1, 1), (2, 1), (2, 3), (1, 20)])
def test_every_network_returns_a_distribution_per_frame(name: str, batch: int, steps: int) -> None:
    network = make_small(name)
    crops = torch.randn(batch, steps, 1, CROP_SIZE_PX, CROP_SIZE_PX)
    with torch.inference_mode():
        probs = network(crops).exp()
    assert probs.shape == (batch, steps, network.classes)
    torch.testing.assert_close(probs.sum(dim=2), torch.ones(batch, steps))
    assert network.encode(crops[:, 0]).shape == (batch, network.width)
    assert network.classify_crops(network.encode(crops[:, 0])).shape == (batch, 5)


@pytest.mark.parametrize("name", NAMES)
def test_padding_does_not_matter(name: str) -> None:
    network = make_small(name)
    crops = torch.randn(2, 4, 1, CROP_SIZE_PX, CROP_SIZE_PX)
    other = torch.cat([crops[:, :2], torch.randn(2, 2, 1, CROP_SIZE_PX, CROP_SIZE_PX)], dim=1)
    lengths = torch.tensor([2, 2])
    with torch.inference_mode():
        probs = [network(given, lengths)[:, :2] for given in (crops, other)]
    torch.testing.assert_close(*probs)


@pytest.mark.parametrize("name", ["cnn4", "cnn4bn", "cnn-lstm"])
def test_networks_of_stills_classify_each_frame_by_itself(name: str) -> None:
    network = make_small(name)
    crops = torch.randn(1, 3, 1, CROP_SIZE_PX, CROP_SIZE_PX)
    with torch.inference_mode():
        together, alone = network(crops), network(crops.transpose(0, 1)).transpose(0, 1)
    torch.testing.assert_close(together, alone)


def test_networks_of_clips_classify_the_ordered_sequence() -> None:
    network = make_small("dcnn-bilstm")
    crops = torch.randn(1, 3, 1, CROP_SIZE_PX, CROP_SIZE_PX)
    with torch.inference_mode():
        probs, turned = network(crops), network(crops.flip(1))
    assert torch.equal(probs[:, 0], probs[:, 2])
    assert not torch.allclose(probs, turned)


@pytest.mark.parametrize("name", NAMES)
def test_recognizer_of_a_saved_network_equals_the_network(name: str, tmp_path: Path) -> None:
    window = 3 if make_small(name).lstms else 1
    card = Card(
        classes=("a", "b", "c", "d", "e"),
        network=name,
        architecture={**SMALL[name], "classes": 5},
        window_length=window,
        window_rate_hz=5.0,
    )
    path = tmp_path / "model.safetensors"
    assert save_checkpoint(path, make_small(name), card).model_id.startswith(f"{name}-")
    network, _ = load_checkpoint(path)
    recognizer = Recognizer(path, device="cpu", flip=False, precision="fp32")
    crops = np.random.default_rng(0).integers(0, 256, (4, CROP_SIZE_PX, CROP_SIZE_PX), dtype=np.uint8)
    times = np.arange(4) / 5
    probs = recognizer.predict_tracks(crops, np.zeros(4, int), times, np.ones(4, bool))
    given = (torch.from_numpy(crops)[None, :, None] / 255 - card.mean) / card.std
    with torch.inference_mode():
        for frame in range(4):
            first, end = max(0, frame - window // 2), min(4, frame + window // 2 + 1)
            expected = network(given[:, first:end])[0, frame - first].exp()
            np.testing.assert_allclose(probs[frame], expected, atol=1e-4)
    again = recognizer.predict_tracks(crops[::-1], np.zeros(4, int), times[::-1], np.ones(4, bool))
    np.testing.assert_allclose(again[::-1], probs, atol=1e-6)


@pytest.mark.parametrize(
    ("network", "architecture", "window", "parameters", "multiply_adds"),
    [
        # 9·4·46² + 16·9·21² + 16·9·8² + 16·9·2², and 4·6 + 6·5 + 5·2
        ("cnn4", {"filters": (4, 4, 4, 4), "dense": (6, 5), "classes": 2}, 1, 40 + 3 * 148 + 30 + 35 + 12,
         76_176 + 63_504 + 9_216 + 576 + 64),
        # 9·4·48² + 4·(8·4·(4+4) + 8·3·(8+3)) and two heads of 4·2 and 6·2 per step
        ("cnn-bilstm", {"filters": (4,), "depths": (1,), "lstm": (4, 3), "classes": 2}, 2,
         36 + 8 + 2 * (4 * 4 * 8 + 32) + 2 * (4 * 3 * 11 + 24) + 10 + 14 + 2,
         82_944 + 2 * (2 * 4 * 4 * 8 + 2 * 4 * 3 * 11 + 8 + 12)),
    ],
)  # fmt: skip
def test_measure_cost_counts_parameters_and_multiply_adds(
    network: str, architecture: dict[str, Any], window: int, parameters: int, multiply_adds: int
) -> None:
    assert measure_cost(network, architecture, window) == (parameters, multiply_adds)
