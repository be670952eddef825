"""The training loop: phases, early stopping, options, streams, and resuming to the same weights."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from fer_batch.data.clips import Clips
from fer_batch.train_config import IMBALANCE, OPTIMIZERS
from fer_batch.training.batches import ClipStream, StreamedBatch
from fer_batch.training.initialize import build_initial_network, choose_architecture
from fer_batch.training.loop import train_network
from fer_batch.training.predict import predict_log_probs
from fer_batch.training.state import EpochResult, StepProgress, TrainState, decode_state, encode_state
from tests.clips import make_clips
from tests.training.examples import CLASSES, CPU, SMALL_NETWORK, find_differences, make_bars, make_config


@pytest.fixture(scope="module")
def training() -> Clips:
    return make_bars([0] * 18 + [1] * 14 + [2] * 8, votes=True)


@pytest.fixture(scope="module")
def selection() -> Clips:
    return make_bars([0, 1, 2] * 4, seed=1)


def drop_seconds(history: list[EpochResult]) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.to_dict().items() if k != "seconds"} for row in history]


class SavedStates(list[TrainState]):
    """Every state of a training, encoded and decoded again."""

    def save(self, state: TrainState) -> None:
        self.append(decode_state(encode_state(state), "state"))


@pytest.fixture
def states() -> SavedStates:
    return SavedStates()


@pytest.mark.parametrize(
    ("epochs", "sequence_epochs", "phases"),
    [
        (1, 0, ["stills"]),
        (0, 1, ["sequences"]),
        (2, 1, ["stills", "stills", "sequences"]),
        (1, 4, ["stills", *["sequences"] * 4]),
    ],
)
def test_the_history_has_a_row_for_each_epoch_of_each_phase(
    training: Clips,
    selection: Clips,
    states: SavedStates,
    epochs: int,
    sequence_epochs: int,
    phases: list[str],
) -> None:
    config = make_config(epochs=epochs, sequence_epochs=sequence_epochs)
    trained = train_network(config, training, selection, CPU, on_epoch=states.save)
    history = trained.history
    assert [row.phase for row in history] == phases
    assert [row.epoch for row in history] == list(range(1, len(phases) + 1))
    numbers = [value for row in history for name, value in row.to_dict().items() if name != "phase"]
    assert all(math.isfinite(value) for value in numbers)
    assert {row.n for row in history} == {len(selection)}
    assert [len(state.history) for state in states] == [row.epoch for row in history]
    network = trained.build_network()
    assert network.encoder.width == SMALL_NETWORK["filters"][-1]
    assert network.crop_head.out_features == len(CLASSES)


def test_training_improves_loss_and_accuracy(training: Clips, selection: Clips) -> None:
    mild = {"erasing": 0, "dropout": 0, "shift": 0.01, "zoom": 0.01, "rotation_deg": 1.0}
    config = make_config(epochs=8, lr=0.05, ema_decay=0.5, **mild)
    history = train_network(config, training, selection, CPU).history
    assert history[-2].loss < 0.75 * history[0].loss
    assert history[-1].accuracy > 0.8
    assert history[-1].macro_f1 > 0.8


def test_few_clips_are_trained_on_and_without_selection_clips_the_metrics_are_nan() -> None:
    config = make_config(epochs=4, lr=1e-9)
    rows = train_network(config, make_bars([0, 1, 2]), make_bars([]), CPU).history
    assert [row.phase for row in rows] == [*["stills"] * 4, "sequences"]
    assert all(math.isfinite(row.loss) and row.n == 0 for row in rows)
    assert all(math.isnan(row.accuracy) and math.isnan(row.macro_f1) for row in rows)


def test_the_accuracy_is_measured_on_the_last_frame_of_each_clip(training: Clips) -> None:
    selection = make_bars([0, 1, 2] * 3, frames=3)
    trained = train_network(make_config(), training, selection, CPU)
    predicted = predict_log_probs(trained.build_network(), selection.frames[2::3, None], CPU.device).argmax(1)
    assert trained.history[-1].accuracy == np.mean(predicted == selection.labels)


def test_the_weights_depend_on_the_seed_only(training: Clips, selection: Clips) -> None:
    first, again, other = (
        train_network(make_config(seed=s), training, selection, CPU).weights for s in (3, 3, 4)
    )
    assert not find_differences(first, again)
    assert find_differences(first, other)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"schedule": "cosine", "optimizer": "adamw", "lr": 0.01},
        {"schedule": "plateau", "plateau_patience": 0, "votes": 0.5},
        {"early_stopping": 1, "epochs": 3, "mixup": 0.4},
        {"imbalance": "balanced-sampling", "optimizer": "nadam", "lr": 0.01},
        {"epochs": 0, "sequence_epochs": 3},
    ],
    ids=lambda changes: ",".join(changes) or "defaults",
)
def test_a_resumed_training_ends_with_the_same_weights(
    training: Clips, selection: Clips, states: SavedStates, changes: dict[str, Any]
) -> None:
    config = make_config(**{"epochs": 2, "sequence_epochs": 2} | changes)
    whole = train_network(config, training, selection, CPU, on_epoch=states.save)
    assert len(states) == len(whole.history)
    for state in states:
        resumed = train_network(config, training, selection, CPU, state=state)
        assert drop_seconds(resumed.history) == drop_seconds(whole.history)
        assert not find_differences(resumed.weights, whole.weights)
    assert not find_differences(states[-1].weights, whole.weights)


def test_stills_train_the_encoder_and_its_head_and_sequences_the_context(
    training: Clips, selection: Clips, states: SavedStates
) -> None:
    train_network(make_config(epochs=2, sequence_epochs=2), training, selection, CPU, on_epoch=states.save)
    first, stills, _, last = (state.ema for state in states)
    assert {name.split(".")[0] for name in find_differences(first, stills)} == {"encoder", "crop_head"}
    changed = {name.split(".")[0] for name in find_differences(stills, last)}
    assert changed == {"lstm1", "lstm2", "context_head", "stay", "change_slope"}
    assert not stills["context_head.weight"].any()


@pytest.mark.parametrize("sequence_epochs", [0, 1])
def test_early_stopping_ends_the_stills_and_keeps_their_best_epoch(
    states: SavedStates, sequence_epochs: int
) -> None:
    noise = make_bars([0, 1, 2] * 8)
    noise.labels[:] = np.random.default_rng(0).integers(0, 3, 24)
    config = make_config(epochs=9, sequence_epochs=sequence_epochs, early_stopping=2)
    trained = train_network(config, noise, noise, CPU, on_epoch=states.save)
    accuracies = [row.accuracy for row in trained.history if row.phase == "stills"]
    best = int(np.argmax(accuracies))
    assert len(accuracies) == min(best + 3, 9)
    assert len(accuracies) < 9
    changed = find_differences(states[best].ema, trained.weights)
    assert not [name for name in changed if name.startswith("encoder.")]
    assert bool(changed) == bool(sequence_epochs)
    assert len(trained.history) == len(accuracies) + sequence_epochs


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("imbalance", [*IMBALANCE]),
        ("optimizer", [*OPTIMIZERS]),
        ("mixup", [0.0, 0.4]),
        ("label_smoothing", [0.0, 0.2]),
        ("weight_decay", [0.0, 0.1]),
        ("dropout", [0.0, 0.5]),
        ("flip", [0.0, 1.0]),
        ("erasing", [0.0, 1.0]),
        ("votes", [0.0, 0.5]),
        ("grad_clip", [0.01, 5.0]),
        ("ema_decay", [0.0, 0.1]),
    ],
)
def test_each_value_of_an_option_changes_the_weights(
    training: Clips, selection: Clips, name: str, values: list[Any]
) -> None:
    results: list[TrainState] = []
    for value in values:
        config = make_config(sequence_epochs=0, lr=0.01, **{name: value})
        results.append(train_network(config, training, selection, CPU))
    assert all(math.isfinite(trained.history[0].loss) for trained in results)
    for number, first in enumerate(results):
        assert all(find_differences(first.weights, second.weights) for second in results[:number])


def test_the_votes_head_needs_votes_and_is_not_part_of_the_model(selection: Clips) -> None:
    without, voted = make_bars([0] * 9 + [1] * 7), make_bars([0, 1], votes=True)
    plain, ignored = (
        train_network(make_config(votes=v), without, selection, CPU).weights for v in (0.0, 0.5)
    )
    assert not find_differences(plain, ignored)
    assert plain.keys() == train_network(make_config(votes=0.5), voted, selection, CPU).weights.keys()


class RecordedStream:
    """A stream of batches `(4, 3)`, whose last clip is one frame short, that records its calls."""

    def __init__(self, steps: int, padding: int = 0) -> None:
        self.steps, self.padding = steps, padding
        self.epochs: list[int] = []
        self.batches_read = 0

    def read_epoch(self, epoch: int) -> Iterator[StreamedBatch]:
        self.epochs.append(epoch)
        for step in range(self.steps):
            self.batches_read += 1
            frames = make_bars([0, 1, 2, 0], frames=3, seed=step).frames.reshape(4, 3, 48, 48)
            labels = np.repeat(np.array([[0], [1], [2], [0]]), 3, axis=1)
            frames[3, 2], labels[3, 2] = self.padding, -1
            yield frames, labels

    def open(self) -> ClipStream:
        return ClipStream(
            counts=np.array([2, 1, 1]) * self.steps, steps=self.steps, read_epoch=self.read_epoch
        )


@pytest.mark.parametrize("images", [0, 20])
def test_streamed_clips_are_mixed_with_those_in_memory(images: int) -> None:
    stream = RecordedStream(steps=3)
    in_memory = make_bars([0, 1] * (images // 2))
    trained = train_network(make_config(epochs=2), in_memory, make_bars([0, 1]), CPU, stream=stream.open())
    assert stream.epochs == [0, 1, 2]
    assert stream.batches_read == 9
    assert all(math.isfinite(row.loss) for row in trained.history)


def test_padding_does_not_change_the_weights() -> None:
    black, white = (
        train_network(
            make_config(), make_bars([]), make_bars([0]), CPU, stream=RecordedStream(2, padding).open()
        ).weights
        for padding in (0, 255)
    )
    assert not find_differences(black, white)


def test_progress_within_an_epoch_is_reported(training: Clips, selection: Clips) -> None:
    reports: list[StepProgress] = []
    train_network(make_config(), training, selection, CPU, on_step=reports.append)
    assert [report.epoch for report in reports][:1] == [1]
    assert reports[-1].epoch == 2
    assert 1 <= reports[-1].step <= reports[-1].steps == len(training) // SMALL_NETWORK["batch_size"]
    assert reports[-1].clips_per_s > 0


NETWORKS: dict[str, dict[str, Any]] = {
    "cnn4": {"filters": (4, 4, 4, 4), "depths": (1, 1, 1, 1)},
    "cnn4bn": {"filters": (4, 4), "depths": (1, 1), "dropouts": (0.1, 0.1, 0.1, 0.1)},
    "cnn-lstm": {"filters": (4, 4), "depths": (1, 1), "dropouts": (0.1, 0.1)},
    "dcnn-bilstm": {"filters": (4, 4), "depths": (1, 1), "dropouts": (0.1, 0.1, 0.1, 0.1, 0.1)},
}


@pytest.mark.parametrize("name", NETWORKS)
def test_other_networks_have_one_phase_that_trains_all_weights(name: str, states: SavedStates) -> None:
    config = make_config(network=name, fold=1, epochs=2, sequence_epochs=1, ema_decay=0.0, **NETWORKS[name])
    data = make_bars([0, 1, 2] * 6, frames=3), make_bars([0, 1, 2], frames=3, seed=1)
    trained = train_network(config, *data, CPU, on_epoch=states.save)
    phase = "clips" if name == "dcnn-bilstm" else "stills"
    assert [row.phase for row in trained.history] == [phase, phase]
    assert trained.network == name
    initial = build_initial_network(config, *choose_architecture(config, 3), CLASSES).state_dict()
    trainable = {key for key in initial if "num_batches" not in key}
    assert trainable <= set(find_differences(initial, trained.weights))
    resumed = train_network(config, *data, CPU, state=states[0])
    assert not find_differences(trained.weights, resumed.weights)
    assert drop_seconds(trained.history) == drop_seconds(resumed.history)


def test_a_network_of_clips_learns_the_order_of_frames() -> None:
    """Both classes have the same two images in different order."""
    random = np.random.default_rng(0)
    first, second = random.integers(0, 256, (2, 48, 48)).astype(np.uint8)
    count = 24
    labels = np.arange(count) % 2
    pairs = [np.stack([second, first] if label else [first, second]) for label in labels]
    clips = make_clips(np.concatenate(pairs), [2] * count, classes="ab", labels=labels)
    still = {"flip": 0.0, "rotation_deg": 0.0, "zoom": 0.0, "shift": 0.0, "lighting": 0.0, "erasing": 0.0}
    dropouts = (0.0, 0.0, 0.0, 0.0, 0.0)
    config = make_config(
        network="dcnn-bilstm", fold=1, filters=(8, 8), depths=(1, 1), dropouts=dropouts, epochs=20,
        optimizer="adam", lr=0.01, schedule="plateau", ema_decay=0.0, imbalance="none", **still,
    )  # fmt: skip
    history = train_network(config, clips, clips, CPU).history
    assert history[-1].accuracy == 1
    assert history[-1].train_accuracy > 0.9
    assert history[-1].select_loss < 0.5 < history[0].select_loss
