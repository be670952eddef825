"""Teachers: their mean predictions, and stills that learn from them."""

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fer_batch.errors import CheckpointError, ConfigError
from fer_batch.model.card import Card
from fer_batch.model.cnn_bilstm import CnnBiLstm
from fer_batch.model.weights import load_checkpoint, save_checkpoint
from fer_batch.training.distill import check_teachers, predict_teachers
from fer_batch.training.loop import train_network
from fer_batch.training.predict import predict_log_probs
from fer_batch.training.state import TrainState
from tests.training.examples import CLASSES, CPU, find_differences, make_bars, make_config

ARCHITECTURE: dict[str, Any] = {"classes": 3, "filters": [4], "depths": [1], "fold": 2}


def write_teacher(path: Path, seed: int, classes: tuple[str, ...] = CLASSES, **changes: Any) -> str:
    """Write a network with large random weights in its head."""
    torch.manual_seed(seed)
    network = CnnBiLstm(**ARCHITECTURE | {"classes": len(classes)}).eval()
    torch.nn.init.normal_(network.crop_head.weight, std=5)
    card = Card(classes=classes, architecture=ARCHITECTURE | {"classes": len(classes)}, **changes)
    save_checkpoint(path, network, card)
    return str(path)


def test_the_predictions_are_calibrated_means_over_mirror_images_and_teachers(tmp_path: Path) -> None:
    first = write_teacher(tmp_path / "a.safetensors", 1, temperature=2.0)
    second = write_teacher(tmp_path / "b.safetensors", 2, classes=CLASSES[::-1])
    clips = make_bars([0, 1, 2, 0], frames=2)
    wanted = np.zeros((8, 3))
    for path, temperature in ((first, 2.0), (second, 1.0)):
        network = load_checkpoint(Path(path))[0]
        views = (clips.frames[:, None], clips.frames[:, None, :, ::-1].copy())
        log_probs = sum(predict_log_probs(network, view, CPU.device) for view in views) / 2 / temperature
        probs = np.exp(log_probs) / np.exp(log_probs).sum(axis=1, keepdims=True)
        wanted += (probs if path == first else probs[:, ::-1]) / 2
    taught = predict_teachers(make_config(teacher=(first, second)), clips, CPU.device)
    assert taught is not None
    assert np.allclose(taught, wanted, atol=1e-5)
    assert np.ptp(taught, axis=0).max() > 0.01
    assert predict_teachers(make_config(), clips, CPU.device) is None


def test_a_network_learns_the_teachers_answers_instead_of_wrong_labels(tmp_path: Path) -> None:
    """The labels are shifted by one class; the teacher of the true labels prevails with its weight."""
    mild = {"erasing": 0, "dropout": 0, "shift": 0.01, "zoom": 0.01, "rotation_deg": 1.0, "lr": 0.05}
    settings = mild | {"ema_decay": 0.5, "epochs": 8, "sequence_epochs": 0}
    true = make_bars([0, 1, 2] * 16)
    config = make_config(**settings)
    teacher = train_network(config, true, make_bars([]), CPU).build_network()
    path = tmp_path / "teacher.safetensors"
    architecture = {"classes": 3, "filters": [8, 8], "depths": [1, 1], "fold": 2}
    save_checkpoint(path, teacher, Card(classes=CLASSES, architecture=architecture))
    wrong = dataclasses.replace(true, labels=(true.labels + 1) % 3)
    selection = make_bars([0, 1, 2] * 4, seed=1)
    accuracies = [
        train_network(
            make_config(**settings, teacher=(str(path),), teacher_weight=weight), wrong, selection, CPU
        ).history[-1].accuracy
        for weight in (0.0, 1.0)
    ]  # fmt: skip
    assert accuracies[0] < 0.2
    assert accuracies[1] > 0.8


def test_a_resumed_distillation_ends_with_the_same_weights(tmp_path: Path) -> None:
    teacher = write_teacher(tmp_path / "a.safetensors", 1)
    config = make_config(epochs=2, teacher=(teacher,))
    states: list[TrainState] = []
    data = make_bars([0, 1, 2] * 8), make_bars([0, 1, 2], seed=1)
    whole = train_network(config, *data, CPU, on_epoch=lambda state: states.append(copy.deepcopy(state)))
    resumed = train_network(config, *data, CPU, state=states[0])
    assert not find_differences(whole.weights, resumed.weights)
    assert find_differences(whole.weights, train_network(make_config(epochs=2), *data, CPU).weights)


def test_teachers_of_other_classes_and_videos_are_refused(tmp_path: Path) -> None:
    teacher = write_teacher(tmp_path / "a.safetensors", 1, classes=("a", "b", "x"))
    with pytest.raises(CheckpointError, match="has the classes a, b, x, but the data has a, b, c"):
        check_teachers(make_config(teacher=(teacher,)), CLASSES)
    with pytest.raises(CheckpointError, match="does not exist"):
        check_teachers(make_config(teacher=(str(tmp_path / "none.safetensors"),)), CLASSES)
    videos = dataclasses.replace(make_config(teacher=(teacher,)), data=(("clips", "videos"),))
    with pytest.raises(ConfigError, match="--teacher works with images"):
        check_teachers(videos, ("a", "b", "x"))
