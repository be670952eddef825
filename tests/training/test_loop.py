"""The training loop in process: what it learns, what it keeps, and that a resumed run is the same run."""

import io
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fer_batch.config import IMBALANCE, OPTIMIZERS, TrainConfig
from fer_batch.data.datasets import Clips
from fer_batch.errors import CheckpointError
from fer_batch.model.cnn_bilstm import CnnBiLstm
from fer_batch.model.registry import build_network
from fer_batch.model.weights import Card, load_checkpoint, save_checkpoint
from fer_batch.training.batches import Batch, Stream
from fer_batch.training.loop import (
    HISTORY,
    Place,
    _started,
    architecture_of,
    frame_logits,
    frames_of,
    hold_means,
    learn,
    normalise,
    to_grey,
)

CPU = Place(device=torch.device("cpu"))
TINY: dict[str, Any] = {"filters": (8, 8), "depths": (1, 1), "fold": 2, "window_length": 3, "batch_size": 8}
CLASSES = ("a", "b", "c")


def configured(**changes: Any) -> TrainConfig:
    return TrainConfig(data=(("folder", "faces"),), **TINY | {"epochs": 1, "sequence_epochs": 1} | changes)


def bars(labels: list[int], *, frames: int = 1, votes: bool = False, seed: int = 0) -> Clips:
    """Clips of noise with a bright bar whose height tells the class."""
    random = np.random.default_rng(seed)
    count = len(labels)
    images = random.integers(0, 60, (count * frames, 48, 48)).astype(np.uint8)
    for number, label in enumerate(np.repeat(np.array(labels, np.int64), frames)):
        images[number, 14 * label + 2 : 14 * label + 12, 6:42] = 220
    return Clips(
        frames=images,
        starts=np.arange(count + 1, dtype=np.int64) * frames,
        labels=np.array(labels, np.int64),
        splits=np.full(count, "train"),
        classes=CLASSES,
        votes=np.eye(3, dtype=np.float32)[labels] * 0.8 + 0.2 / 3
        if votes and count
        else np.zeros((count, 3), np.float32),
        subjects=np.full(count, ""),
    )


@pytest.fixture(scope="module")
def training() -> Clips:
    return bars([0] * 18 + [1] * 14 + [2] * 8, votes=True)


@pytest.fixture(scope="module")
def selection() -> Clips:
    return bars([0, 1, 2] * 4, seed=1)


def differing(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> list[str]:
    assert first.keys() == second.keys()
    return [name for name, value in first.items() if not torch.equal(value, second[name])]


def without_seconds(state: dict[str, Any]) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in state["history"]]


class Kept:
    """Every state of a run, as it would come back from a file."""

    def __init__(self) -> None:
        self.states: list[dict[str, Any]] = []

    def __call__(self, state: dict[str, Any]) -> None:
        file = io.BytesIO()
        torch.save(state, file)
        file.seek(0)
        self.states.append(torch.load(file, weights_only=True))


@pytest.mark.parametrize(
    ("epochs", "sequence_epochs", "phases"),
    [
        (1, 0, ["stills"]),
        (0, 1, ["sequences"]),
        (2, 1, ["stills", "stills", "sequences"]),
        (1, 4, ["stills", *["sequences"] * 4]),
    ],
)
def test_a_run_has_a_row_for_each_epoch_of_its_phases(
    training: Clips, selection: Clips, epochs: int, sequence_epochs: int, phases: list[str]
) -> None:
    kept = Kept()
    done = learn(
        configured(epochs=epochs, sequence_epochs=sequence_epochs), training, selection, CPU, epoch_done=kept
    )
    history = done["history"]
    assert [row["phase"] for row in history] == phases
    assert [row["epoch"] for row in history] == list(range(1, len(phases) + 1))
    assert all(tuple(row) == HISTORY for row in history)
    assert all(math.isfinite(value) for row in history for name, value in row.items() if name != "phase")
    assert {row["n"] for row in history} == {len(selection)}
    assert [len(state["history"]) for state in kept.states] == [row["epoch"] for row in history]
    network = CnnBiLstm(**done["architecture"])
    network.load_state_dict(done["ema"])
    assert network.encoder.width == TINY["filters"][-1]
    assert network.crop_head.out_features == len(CLASSES)


def test_a_run_on_fewer_clips_than_a_batch_still_steps() -> None:
    done = learn(configured(sequence_epochs=4), bars([0, 1, 2]), bars([0]), CPU)
    assert all(math.isfinite(row["loss"]) for row in done["history"])


def test_it_learns(training: Clips, selection: Clips) -> None:
    mild = {"erasing": 0, "dropout": 0, "shift": 0.01, "zoom": 0.01, "rotation_deg": 1.0}
    config = configured(epochs=8, lr=0.05, ema_decay=0.5, **mild)
    history = learn(config, training, selection, CPU)["history"]
    assert history[-2]["loss"] < 0.75 * history[0]["loss"]
    assert history[-1]["accuracy"] > 0.8
    assert history[-1]["macro_f1"] > 0.8


def test_without_a_selection_there_is_no_accuracy(training: Clips) -> None:
    rows = learn(configured(), training, bars([]), CPU)["history"]
    assert all(math.isnan(row["accuracy"]) and math.isnan(row["macro_f1"]) and row["n"] == 0 for row in rows)


def test_accuracy_is_that_of_the_last_frame_of_each_clip(training: Clips) -> None:
    selection = bars([0, 1, 2] * 3, frames=3)
    done = learn(configured(), training, selection, CPU)
    network = CnnBiLstm(**done["architecture"]).eval()
    network.load_state_dict(done["ema"])
    predicted = frame_logits(network, selection.frames[2::3, None], CPU.device).argmax(1)
    assert done["history"][-1]["accuracy"] == np.mean(predicted == selection.labels)


def test_the_seed_decides(training: Clips, selection: Clips) -> None:
    first, again, other = (learn(configured(seed=s), training, selection, CPU)["ema"] for s in (3, 3, 4))
    assert not differing(first, again)
    assert differing(first, other)


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
def test_a_run_resumed_after_any_epoch_ends_as_an_undisturbed_one(
    training: Clips, selection: Clips, changes: dict[str, Any]
) -> None:
    config = configured(**{"epochs": 2, "sequence_epochs": 2} | changes)
    kept = Kept()
    whole = learn(config, training, selection, CPU, epoch_done=kept)
    assert len(kept.states) == len(whole["history"])
    for state in kept.states:
        resumed = learn(config, training, selection, CPU, state=state)
        assert without_seconds(resumed) == without_seconds(whole)
        assert not differing(resumed["ema"], whole["ema"])


def test_sequences_teach_the_context_and_leave_the_rest_as_it_is(training: Clips, selection: Clips) -> None:
    kept = Kept()
    whole = learn(configured(epochs=1, sequence_epochs=2), training, selection, CPU, epoch_done=kept)
    stills = kept.states[0]["ema"]
    changed = {name.split(".")[0] for name in differing(stills, whole["ema"])}
    assert changed == {"lstm1", "lstm2", "context_head", "stay"}
    assert not stills["context_head.weight"].any()


def test_stills_leave_the_context_as_it_is(training: Clips, selection: Clips) -> None:
    kept = Kept()
    learn(configured(epochs=2, sequence_epochs=0), training, selection, CPU, epoch_done=kept)
    changed = {name.split(".")[0] for name in differing(kept.states[0]["ema"], kept.states[1]["ema"])}
    assert changed == {"encoder", "crop_head"}


@pytest.mark.parametrize("sequence_epochs", [0, 1])
def test_early_stopping_ends_the_stills_and_keeps_their_best_epoch(sequence_epochs: int) -> None:
    noise = bars([0, 1, 2] * 8)
    noise.labels[:] = np.random.default_rng(0).integers(0, 3, 24)
    config = configured(epochs=9, sequence_epochs=sequence_epochs, early_stopping=2)
    kept = Kept()
    done = learn(config, noise, noise, CPU, epoch_done=kept)
    stills = [row["accuracy"] for row in done["history"] if row["phase"] == "stills"]
    best = int(np.argmax(stills))
    assert len(stills) == min(best + 3, 9)
    assert len(stills) < 9
    changed = differing(kept.states[best]["ema"], done["ema"])
    assert not [name for name in changed if name.startswith("encoder.")]
    assert bool(changed) == bool(sequence_epochs)
    assert len(done["history"]) == len(stills) + sequence_epochs


def test_without_early_stopping_no_epoch_is_left_out(training: Clips) -> None:
    rows = learn(configured(epochs=4, sequence_epochs=0, lr=1e-9), training, bars([]), CPU)["history"]
    assert len(rows) == 4


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
def test_each_value_of_an_option_gives_another_model(
    training: Clips, selection: Clips, name: str, values: list[Any]
) -> None:
    made = [
        learn(configured(sequence_epochs=0, lr=0.01, **{name: value}), training, selection, CPU)
        for value in values
    ]
    assert all(math.isfinite(done["history"][0]["loss"]) for done in made)
    for number, first in enumerate(made):
        for second in made[:number]:
            assert differing(first["ema"], second["ema"])


def test_votes_leave_no_trace_in_the_model_and_need_votes(selection: Clips) -> None:
    without = bars([0] * 9 + [1] * 7)
    plain, asked = (learn(configured(votes=v), without, selection, CPU)["ema"] for v in (0.0, 0.5))
    assert not differing(plain, asked)
    assert (
        plain.keys() == learn(configured(votes=0.5), bars([0, 1], votes=True), selection, CPU)["ema"].keys()
    )


def checkpoint(folder: Path, classes: tuple[str, ...]) -> Path:
    """A checkpoint of random weights, all of them, of an architecture of its own."""
    torch.manual_seed(7)
    architecture = {"classes": len(classes), "filters": [6, 10], "depths": [1, 1], "fold": 2, "dropout": 0.0}
    network = CnnBiLstm(**architecture)
    torch.nn.init.normal_(network.context_head.weight)
    torch.nn.init.normal_(network.context_head.bias)
    path = folder / "begun.safetensors"
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
def test_a_run_begins_with_the_weights_of_its_checkpoint_and_its_heads_by_name(
    tmp_path: Path, training: Clips, selection: Clips, classes: tuple[str, ...], rows: dict[int, int]
) -> None:
    path = checkpoint(tmp_path, classes)
    begun = load_checkpoint(path)[0].state_dict()
    still = {"lr": 1e-12, "sequence_lr": 1e-12, "weight_decay": 0.0}
    done = learn(configured(init=str(path), **still), training, selection, CPU)
    assert done["architecture"]["filters"] == [6, 10]
    assert done["architecture"]["classes"] == len(CLASSES)
    for name, value in begun.items():
        head, made = name.split(".")[0] in ("crop_head", "context_head"), done["ema"][name]
        if head:
            assert len(made) == len(CLASSES)
            for row, old in rows.items():
                torch.testing.assert_close(made[row], value[old], atol=1e-5, rtol=0)
            for row in {0, 1, 2} - rows.keys():
                assert not any(torch.allclose(made[row], old, atol=1e-3) for old in value)
        elif "running" not in name and "tracked" not in name:
            torch.testing.assert_close(made, value, atol=1e-5, rtol=0)


def test_a_checkpoint_that_is_not_there_is_named(tmp_path: Path, training: Clips, selection: Clips) -> None:
    with pytest.raises(CheckpointError, match="gone"):
        learn(configured(init=str(tmp_path / "gone.safetensors")), training, selection, CPU)


class Shard:
    """Batches `(4, 3)` of clips, the last one frame short, and what was asked of it."""

    def __init__(self, steps: int, padding: int = 0) -> None:
        self.steps, self.padding = steps, padding
        self.epochs: list[int] = []
        self.given = 0

    def batches(self, epoch: int) -> Iterator[Batch]:
        self.epochs.append(epoch)
        for step in range(self.steps):
            self.given += 1
            frames = bars([0, 1, 2, 0], frames=3, seed=step).frames.reshape(4, 3, 48, 48)
            labels = np.repeat(np.array([[0], [1], [2], [0]]), 3, axis=1)
            frames[3, 2], labels[3, 2] = self.padding, -1
            yield frames, labels

    def stream(self) -> Stream:
        return Stream(counts=np.array([2, 1, 1]) * self.steps, steps=self.steps, batches=self.batches)


@pytest.mark.parametrize("images", [0, 20])
def test_clips_that_are_read_as_needed_stand_among_those_in_memory(images: int) -> None:
    shard = Shard(steps=3)
    memory = bars([0, 1] * (images // 2))
    done = learn(configured(epochs=2), memory, bars([0, 1]), CPU, stream=shard.stream())
    assert shard.epochs == [0, 1, 2]
    assert shard.given == 9
    assert all(math.isfinite(row["loss"]) for row in done["history"])


def test_nothing_is_learnt_from_beyond_a_clips_end() -> None:
    made = [
        learn(configured(epochs=1), bars([]), bars([0]), CPU, stream=Shard(2, padding).stream())["ema"]
        for padding in (0, 255)
    ]
    assert not differing(*made)


def test_a_file_says_how_far_the_epoch_is(tmp_path: Path, training: Clips, selection: Clips) -> None:
    path = tmp_path / "progress.json"
    learn(configured(), training, selection, CPU, progress=path)
    now = json.loads(path.read_text())
    assert now.keys() == {"epoch", "step", "steps", "clips_per_s"}
    assert now["epoch"] == 2
    assert 1 <= now["step"] <= now["steps"] == len(training) // TINY["batch_size"]
    assert now["clips_per_s"] > 0


def tiny_network() -> CnnBiLstm:
    torch.manual_seed(0)
    return CnnBiLstm(classes=3, filters=(8, 8), depths=(1, 1), fold=2).eval()


NETWORKS: dict[str, dict[str, Any]] = {
    "cnn4": {"filters": (4, 4, 4, 4), "depths": (1, 1, 1, 1)},
    "cnn4bn": {"filters": (4, 4), "depths": (1, 1), "dropouts": (0.1, 0.1, 0.1, 0.1)},
    "cnn-lstm": {"filters": (4, 4), "depths": (1, 1), "dropouts": (0.1, 0.1)},
    "dcnn-bilstm": {"filters": (4, 4), "depths": (1, 1), "dropouts": (0.1, 0.1, 0.1, 0.1, 0.1)},
}


@pytest.mark.parametrize("name", NETWORKS)
def test_other_networks_have_one_phase_in_which_all_of_them_learns(name: str) -> None:
    config = configured(network=name, fold=1, epochs=2, sequence_epochs=1, ema_decay=0.0, **NETWORKS[name])
    kept = Kept()
    done = learn(
        config, bars([0, 1, 2] * 6, frames=3), bars([0, 1, 2], frames=3, seed=1), CPU, epoch_done=kept
    )
    phase = "clips" if name == "dcnn-bilstm" else "stills"
    assert [row["phase"] for row in done["history"]] == [phase, phase]
    assert done["network"] == name
    begun = _started(config, *architecture_of(config, 3), CLASSES).state_dict()
    trained = {key for key in begun if "num_batches" not in key}
    assert trained <= set(differing(begun, done["ema"]))
    resumed = learn(
        config,
        bars([0, 1, 2] * 6, frames=3),
        bars([0, 1, 2], frames=3, seed=1),
        CPU,
        state=kept.states[0],
    )
    assert not differing(done["ema"], resumed["ema"])
    assert without_seconds(done) == without_seconds(resumed)


def test_a_network_of_clips_learns_what_only_the_order_of_frames_tells() -> None:
    """Both classes show the same two pictures."""
    random = np.random.default_rng(0)
    first, second = random.integers(0, 256, (2, 48, 48)).astype(np.uint8)
    count = 24
    turned = np.arange(count) % 2
    pairs = [np.stack([second, first] if turn else [first, second]) for turn in turned]
    clips = Clips(
        frames=np.concatenate(pairs),
        starts=np.arange(count + 1, dtype=np.int64) * 2,
        labels=turned.astype(np.int64),
        splits=np.full(count, "train"),
        classes=("a", "b"),
        votes=np.zeros((count, 2), np.float32),
        subjects=np.full(count, ""),
    )
    still = {"flip": 0.0, "rotation_deg": 0.0, "zoom": 0.0, "shift": 0.0, "lighting": 0.0, "erasing": 0.0}
    dropouts = (0.0, 0.0, 0.0, 0.0, 0.0)
    config = configured(
        network="dcnn-bilstm", fold=1, filters=(8, 8), depths=(1, 1), dropouts=dropouts, epochs=12,
        optimizer="adam", lr=0.01, schedule="plateau", ema_decay=0.0, imbalance="none", **still,
    )  # fmt: skip
    history = learn(config, clips, clips, CPU)["history"]
    assert history[-1]["accuracy"] == 1
    assert history[-1]["train_accuracy"] > 0.9
    assert history[-1]["select_loss"] < 0.5 < history[0]["select_loss"]


@pytest.mark.parametrize(
    ("phase", "network", "frames"), [("stills", "cnn-bilstm", 1), ("clips", "dcnn-bilstm", 3)]
)
def test_a_network_is_asked_of_a_clips_last_frame_or_of_all(phase: str, network: str, frames: int) -> None:
    clips = bars([0, 1], frames=3)
    asked = frames_of(build_network(network, {"classes": 3, "filters": (4, 4), "depths": (1, 1)}), clips, 3)
    expected = clips.frames.reshape(2, 3, 48, 48)[:, -frames:]
    assert np.array_equal(asked, expected)


@pytest.mark.parametrize("count", [0, 1, 5])
def test_stills_have_logits(count: int) -> None:
    logits = frame_logits(tiny_network(), bars([0] * count).frames[:, None], CPU.device)
    assert logits.shape == (count, 3)
    assert logits.dtype == np.float32
    assert np.isfinite(logits).all()


def test_the_ranks_share_the_stills() -> None:
    network, frames = tiny_network(), bars([0, 1, 2] * 4).frames[:, None]
    whole = frame_logits(network, frames, CPU.device, batch=5)
    parts = [frame_logits(network, frames, CPU.device, rank=rank, world=2, batch=5) for rank in (0, 1)]
    assert ((parts[0] == 0).all(axis=1) != (parts[1] == 0).all(axis=1)).all()
    np.testing.assert_array_equal(parts[0] + parts[1], whole)
    np.testing.assert_allclose(whole, frame_logits(network, frames, CPU.device), atol=0.05)


@pytest.mark.parametrize("shape", [(0,), (2,), (2, 3)])
def test_pixels_become_grey_values_and_what_the_encoder_reads(shape: tuple[int, ...]) -> None:
    grey = to_grey(np.full((*shape, 48, 48), 51, np.uint8), CPU.device)
    assert grey.shape == (*shape, 1, 48, 48)
    torch.testing.assert_close(grey, torch.full(grey.shape, 0.2))
    torch.testing.assert_close(normalise(grey), torch.full(grey.shape, (0.2 - Card.mean) / Card.std))


def test_nothing_has_no_mean() -> None:
    none = torch.zeros(0, 3)
    assert hold_means(torch.zeros(0, 3, 2), none.long(), none.bool()).shape == (0, 3, 2)


@pytest.mark.parametrize(
    ("probs", "holds", "known", "means"),
    [
        ([0.8], [0], [True], [0.8]),
        ([0.8, 0.8], [0, 1], [True, True], [0.8, 0.8]),
        ([0.8, 0.6], [0, 0], [True, True], [0.7, 0.7]),
        ([0.8, 0.2], [0, 0], [True, True], [0.5, 0.5]),
        ([0.8, 0.6, 0.9], [0, 1, 0], [True, True, True], [0.85, 0.6, 0.85]),
        ([0.8, 0.9], [0, 0], [True, False], [0.8, None]),
    ],
    ids=["alone", "two holds", "one hold", "undecided", "a hold that comes back", "beyond the end"],
)
def test_moments_of_a_hold_answer_together(
    probs: list[float], holds: list[int], known: list[bool], means: list[float | None]
) -> None:
    alone = torch.tensor([[[p, 1 - p] for p in probs]]).log()
    made = hold_means(alone, torch.tensor([holds]), torch.tensor([known]))
    torch.testing.assert_close(made.sum(2), torch.ones(1, len(probs)))
    for step, share in enumerate(means):
        assert share is None or made[0, step, 0].item() == pytest.approx(share, rel=1e-5)
