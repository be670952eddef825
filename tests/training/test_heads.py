"""A head for each data set over one encoder."""

import copy
import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from fer_batch.data.clips import Clips
from fer_batch.errors import ConfigError, InputError
from fer_batch.train_config import TrainConfig
from fer_batch.training.batches import BatchSource
from fer_batch.training.initialize import check_initial_weights
from fer_batch.training.loop import train_network
from fer_batch.training.sources import check_examples
from fer_batch.training.state import TrainState
from fer_batch.training.step import compute_heads_loss
from tests.training.examples import CPU, SMALL_NETWORK, find_differences, make_bars

TWO = (("fer2013", "a"), ("ck48", "b"))


def make_config(**changes: Any) -> TrainConfig:
    settings = SMALL_NETWORK | {"epochs": 2, "sequence_epochs": 1, "heads": "per-dataset"} | changes
    return TrainConfig(data=TWO, **settings)


@pytest.fixture(scope="module")
def training() -> Clips:
    """Return clips of two data sets; the second has no class 2."""
    clips = make_bars([0, 1, 2] * 8 + [0, 1] * 12, votes=True)
    return dataclasses.replace(clips, datasets=np.repeat(["fer2013", "ck48"], 24))


def test_each_head_learns_from_its_data_set_and_the_checkpoint_has_one(training: Clips) -> None:
    states: list[TrainState] = []
    selection = make_bars([0, 1, 2], seed=1)
    trained = train_network(
        make_config(), training, selection, CPU, on_epoch=lambda state: states.append(copy.deepcopy(state))
    )
    shared = train_network(make_config(heads="shared"), training, selection, CPU)
    assert trained.weights.keys() == shared.weights.keys()
    heads = [states[1].module[f"{name}.weight"] for name in ("network.crop_head", "other_heads.0")]
    assert not torch.equal(heads[0], heads[1])
    first = states[0].module["other_heads.0.weight"]
    assert not torch.equal(first[:2], heads[1][:2])
    resumed = train_network(make_config(), training, selection, CPU, state=states[0])
    assert not find_differences(trained.weights, resumed.weights)


def test_a_resumed_training_mixes_the_heads_as_an_uninterrupted_one(training: Clips) -> None:
    states: list[TrainState] = []
    selection = dataclasses.replace(training, splits=np.full(48, "select"))
    config = make_config(ship_head="mix")
    trained = train_network(
        config, training, selection, CPU, on_epoch=lambda state: states.append(copy.deepcopy(state))
    )
    first, alone = (states[1].module[f"{name}.weight"] for name in ("network.crop_head", "other_heads.0"))
    mixed = trained.weights["crop_head.weight"]
    assert not torch.equal(mixed, first)
    assert not torch.equal(mixed, alone)
    for state in states:
        resumed = train_network(config, training, selection, CPU, state=state)
        assert not find_differences(trained.weights, resumed.weights)


@pytest.mark.parametrize("ship_head", [None, "fer2013", "ck48"])
def test_the_head_to_ship_comes_first(training: Clips, ship_head: str | None) -> None:
    config = make_config(ship_head=ship_head)
    batches = BatchSource(config, training, None, "stills", 0, 1)
    counts = [[8, 8, 8], [12, 12, 0]]
    assert batches.counts.tolist() == (counts[::-1] if ship_head == "ck48" else counts)
    for windows, annotations in batches.draw_epoch(0, torch.Generator()):
        of_ck48 = annotations.heads == config.head_names.index("ck48")
        assert not (windows.labels[of_ck48] == 2).any()


def test_a_head_ignores_classes_that_its_data_set_lacks() -> None:
    config = make_config(label_smoothing=0.1, imbalance="sqrt")
    counts = np.array([[4, 4, 4], [6, 2, 0]])
    logits, targets = torch.randn(4, 3, requires_grad=True), torch.eye(3)[[0, 2, 0, 1]]
    heads = np.array([0, 0, 1, 1])
    compute_heads_loss(logits, targets, heads, counts, counts > 0, config).backward()
    assert logits.grad is not None
    assert (logits.grad[2:, 2] == 0).all()
    assert (logits.grad[:2] != 0).all()
    assert torch.allclose(logits.grad.sum(dim=1), torch.zeros(4), atol=1e-6)


def test_a_head_without_all_classes_is_not_shipped(training: Clips) -> None:
    data = dataclasses.replace(training, splits=np.where(np.arange(48) % 4 == 0, "select", "train"))
    check_examples(make_config(), data)
    with pytest.raises(InputError, match="ck48 has no training examples of c, which its head must"):
        check_examples(make_config(ship_head="ck48"), data)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"ship_head": "muxspace"},
            "ship_head must be mix or one of the data sets fer2013, ck48",
        ),
        ({"ship_head": "mix", "sequence_epochs": 0}, "mix needs --sequence-epochs of 1 or more"),
        ({"ship_head": "ck48", "heads": "shared"}, 'ship_head must be given with heads "per-dataset"'),
        ({"mixup": 0.2}, 'mixup must be 0 with heads "per-dataset"'),
        ({"network": "dcnn-bilstm", "fold": 1, "filters": (), "depths": ()}, "works with networks of stills"),
    ],
)
def test_settings_that_do_not_fit_several_heads_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_initial_weights(make_config(**changes))
