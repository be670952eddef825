"""The initial weights of a training, and those from a checkpoint."""

from pathlib import Path

import pytest
import torch

from fer_batch.errors import CheckpointError
from fer_batch.model.card import Card
from fer_batch.model.cnn_bilstm import CnnBiLstm
from fer_batch.model.weights import load_checkpoint, save_checkpoint
from fer_batch.training.loop import train_network
from tests.training.examples import CLASSES, CPU, make_bars, make_config


def write_checkpoint(folder: Path, classes: tuple[str, ...]) -> Path:
    """Write a checkpoint of random weights, with another architecture than the tests' configuration."""
    torch.manual_seed(7)
    architecture = {"classes": len(classes), "filters": [6, 10], "depths": [1, 1], "fold": 2, "dropout": 0.0}
    network = CnnBiLstm(**architecture)
    torch.nn.init.normal_(network.context_head.weight)
    torch.nn.init.normal_(network.context_head.bias)
    path = folder / "initial.safetensors"
    save_checkpoint(path, network, Card(classes=classes, architecture=architecture))
    return path


@pytest.mark.parametrize(
    ("classes", "rows"),
    [
        (CLASSES, {0: 0, 1: 1, 2: 2}),
        (("c", "b", "a"), {0: 2, 1: 1, 2: 0}),
        (("c", "x", "y", "z"), {2: 0}),
        (("x", "y"), {}),
    ],
    ids=["the same", "another order", "one shared", "none shared"],
)
def test_training_starts_with_the_weights_of_the_checkpoint_and_maps_the_heads_by_class(
    tmp_path: Path, classes: tuple[str, ...], rows: dict[int, int]
) -> None:
    path = write_checkpoint(tmp_path, classes)
    initial = load_checkpoint(path)[0].state_dict()
    config = make_config(init=str(path), lr=1e-12, sequence_lr=1e-12, weight_decay=0.0)
    trained = train_network(config, make_bars([0, 1, 2] * 6), make_bars([0, 1, 2], seed=1), CPU)
    assert trained.architecture["filters"] == [6, 10]
    assert trained.architecture["classes"] == len(CLASSES)
    for name, value in initial.items():
        weights = trained.weights[name]
        if name.split(".")[0] in ("crop_head", "context_head"):
            assert len(weights) == len(CLASSES)
            for row, source in rows.items():
                torch.testing.assert_close(weights[row], value[source], atol=1e-5, rtol=0)
            for row in {0, 1, 2} - rows.keys():
                assert not any(torch.allclose(weights[row], old, atol=1e-3) for old in value)
        elif "running" not in name and "tracked" not in name:
            torch.testing.assert_close(weights, value, atol=1e-5, rtol=0)


def test_sequences_alone_start_with_the_weights_of_the_checkpoint(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, CLASSES)
    config = make_config(init=str(path), epochs=0, sequence_epochs=1)
    trained = train_network(config, make_bars([0, 1, 2] * 6), make_bars([0, 1, 2], seed=1), CPU)
    initial = load_checkpoint(path)[0].state_dict()
    for name in ("crop_head.weight", *(key for key in initial if key.startswith("encoder."))):
        assert torch.equal(trained.weights[name], initial[name])


def test_a_chain_of_an_earlier_version_starts_anew(tmp_path: Path) -> None:
    torch.manual_seed(7)
    architecture = {"classes": len(CLASSES), "filters": [6, 10], "depths": [1, 1], "dropout": 0.0}
    network = CnnBiLstm(**architecture)
    network.stay.data, network.change_slope.data = torch.tensor(5.0), torch.tensor(0.0)
    path = tmp_path / "old.safetensors"
    save_checkpoint(path, network, Card(classes=CLASSES, architecture=architecture))
    config = make_config(init=str(path), lr=1e-12, sequence_lr=1e-12)
    trained = train_network(config, make_bars([0, 1, 2] * 6), make_bars([0, 1, 2], seed=1), CPU)
    fresh = CnnBiLstm(**architecture).state_dict()
    for name in ("stay", "change_slope"):
        torch.testing.assert_close(trained.weights[name], fresh[name], atol=1e-5, rtol=0)


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    config = make_config(init=str(tmp_path / "gone.safetensors"))
    with pytest.raises(CheckpointError, match="gone"):
        train_network(config, make_bars([0, 1]), make_bars([0]), CPU)
