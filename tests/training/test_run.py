"""Training runs under Ray: checkpoints, records, configurations, and continuing killed runs."""

import csv
import dataclasses
import json
import math
import os
import re
import signal
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboardX.proto.event_pb2 import Event

from fer_batch.data.datasets import load_datasets
from fer_batch.errors import CheckpointError, ConfigError, InputError, OutputError
from fer_batch.model.card import Card
from fer_batch.model.cnn_bilstm import CnnBiLstm
from fer_batch.model.weights import load_checkpoint, save_checkpoint
from fer_batch.runtime import ray_session
from fer_batch.schema import EMOTIONS
from fer_batch.storage.folder import LocalFolder
from fer_batch.train_config import TrainConfig
from fer_batch.training.calibrate import fit_temperature
from fer_batch.training.export import TrainSummary, export_model
from fer_batch.training.predict import predict_log_probs
from fer_batch.training.run import train
from fer_batch.training.sources import MIN_CALIBRATION_CLIPS
from fer_batch.training.state import HISTORY_COLUMNS, TrainState
from fer_batch.training.status import StatusMessage
from tests.training.examples import (
    SMALL_RECIPE,
    collect_lines,
    find_differences,
    make_epoch,
    write_bars_csv,
    write_recipe,
)
from tests.training.processes import find_workers, run_and_kill, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # five runs at the same time

IMAGES = 200
PHASES = ["stills", "stills", "stills", "sequences"]
HALF_A_CPU = {"CPU": 0.5}


@pytest.fixture(scope="module")
def _ray() -> Iterator[None]:
    with ray_session(num_cpus=4):
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bars_csv(tmp_path_factory.mktemp("data") / "bars.csv", IMAGES)


def make_config(data: Path, **changes: Any) -> TrainConfig:
    return TrainConfig.from_dict({**SMALL_RECIPE, "data": [["fer2013", str(data)]], **changes})


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished run, its summary, and the lines and transient messages that it reported."""

    out: Path
    summary: TrainSummary
    lines: list[str]
    transient: list[str]


@dataclass(frozen=True, kw_only=True)
class Runs:
    """Runs at the same time, because Ray Train mostly waits."""

    whole: Run
    shared: Run
    """Run of two workers."""
    hurt: Run
    """Like `shared`, but a worker was killed after two epochs, and all workers were restarted."""
    tuned: Run
    """Run that started from `checkpoint`, with early stopping."""
    checkpoint: Path
    killed: Path
    """Folder of a run of the command line that was killed after its second epoch."""


@pytest.fixture(scope="module")
def runs(_ray: None, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("runs")
    checkpoint = write_checkpoint(folder / "other.safetensors")
    tuning = {"init": str(checkpoint), "epochs": 8, "sequence_epochs": 0, "early_stopping": 1, "lr": 1e-4}

    def run(name: str, **changes: Any) -> Run:
        messages: list[StatusMessage] = []
        config, out = make_config(data, **changes), folder / name
        summary = train(config, out, resources=HALF_A_CPU, on_progress=messages.append)
        lines, transient = (
            [message.text for message in messages if message.transient == is_transient]
            for is_transient in (False, True)
        )
        return Run(out=out, summary=summary, lines=lines, transient=transient)

    with ThreadPoolExecutor(8) as pool:
        killed = pool.submit(train_and_kill, data, folder / "killed")
        wait_for(lambda: list_curves(folder / "killed") or killed.done())  # it starts its own Ray
        whole = pool.submit(run, "whole")
        shared = pool.submit(run, "shared", workers=2)
        hurt = pool.submit(run, "hurt", workers=2)
        tuned = pool.submit(run, "tuned", **tuning)
        kill_a_worker(folder / "hurt")
        return Runs(
            whole=whole.result(),
            shared=shared.result(),
            hurt=hurt.result(),
            tuned=tuned.result(),
            checkpoint=checkpoint,
            killed=killed.result(),
        )


@pytest.fixture(scope="module")
def whole(runs: Runs) -> Run:
    return runs.whole


@dataclass(frozen=True, kw_only=True)
class Resumed:
    """The state of two run folders before a second call."""

    killed: list[dict[str, Any]]
    """History of the killed run."""
    shared: dict[str, bytes]
    """Files of the shared run when it was finished."""


@pytest.fixture(scope="module")
def resumed(runs: Runs, data: Path) -> Resumed:
    """Continue the killed run, and the shared run as if it had been killed just before its end."""
    out = runs.shared.out
    before = Resumed(killed=read_history(runs.killed), shared=read_files(out))
    assert not (runs.killed / "model.safetensors").exists()
    for name in ("model.safetensors", "model.json", "history.csv"):
        (out / name).unlink()
    with ThreadPoolExecutor() as pool:
        calls = [
            pool.submit(train, make_config(data), runs.killed, resources=HALF_A_CPU),
            pool.submit(train, make_config(data, workers=2), out, resources=HALF_A_CPU),
        ]
        for call in calls:
            call.result()
    return before


def write_checkpoint(path: Path) -> Path:
    """Write a checkpoint of random weights, with another architecture and other classes."""
    torch.manual_seed(7)
    architecture = {"classes": 2, "filters": [6, 10], "depths": [1, 1], "fold": 2, "dropout": 0.0}
    card = Card(classes=("calm", "happy"), architecture=architecture)
    save_checkpoint(path, CnnBiLstm(**architecture), card)
    return path


def read_files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def read_history(out: Path) -> list[dict[str, Any]]:
    """Read the history of a run without the durations."""
    path = out / "history.json"
    history = json.loads(path.read_text()) if path.exists() else []
    return [{k: v for k, v in epoch.items() if k != "seconds"} for epoch in history]


def load_weights(out: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(out)[0].state_dict()


def compare_weights(first: Path, second: Path) -> list[str]:
    """List the weights that differ between the models of two runs."""
    return find_differences(load_weights(first), load_weights(second))


def list_curves(out: Path) -> list[Path]:
    """List the files of TensorBoard: one for each call of `train`."""
    return sorted((out / "tensorboard").glob("events.out.tfevents.*"))


def read_epochs(curve: Path) -> list[int]:
    """Read the epochs of a file of TensorBoard, in order."""
    data, offset, epochs = curve.read_bytes(), 0, []
    while offset < len(data):
        (length,) = struct.unpack_from("<Q", data, offset)  # checksums follow the length and the content
        event = Event.FromString(data[offset + 12 : offset + 12 + length])
        epochs += [event.step for value in event.summary.value if value.tag == "loss"]
        offset += 12 + length + 4
    return epochs


def has_two_epochs(out: Path) -> bool:
    return len(read_history(out)) >= 2


def kill_a_worker(out: Path) -> None:
    """Kill a worker of the run after two epochs."""
    wait_for(lambda: has_two_epochs(out))
    workers = find_workers(out.name)
    assert len(workers) == 2
    os.kill(workers[0], signal.SIGKILL)
    assert len(read_history(out)) < len(PHASES)


def train_and_kill(data: Path, out: Path) -> Path:
    """Train with a recipe like `make_config`, and kill the run after two epochs."""
    recipe = write_recipe(out.with_name("small.toml"), SMALL_RECIPE)
    command = ["train", "--recipe", str(recipe), "--data", f"fer2013={data}", "--out", str(out)]
    run_and_kill(command, out.with_name("killed.txt"), lambda: has_two_epochs(out))
    return out


def test_the_checkpoint_of_a_run_can_be_loaded(whole: Run, data: Path) -> None:
    network, card = load_checkpoint(whole.out)
    assert whole.summary.checkpoint == whole.out / "model.safetensors"
    assert card.classes == EMOTIONS
    assert card.training == whole.summary.to_dict()
    assert card.architecture["filters"] == SMALL_RECIPE["filters"]
    assert card.architecture["dropout"] == 0
    assert (card.window_length, card.window_rate_hz) == (make_config(data).window_length, 5.0)
    assert all(value.isfinite().all() for value in network.state_dict().values())


def test_the_summary_describes_data_and_settings(whole: Run, data: Path) -> None:
    summary = whole.summary
    assert summary.data == ["fer2013"]
    assert summary.init is None
    assert summary.left_out == {"twins_dropped": 1}
    assert str(data) not in (whole.out / "model.json").read_text()
    assert {name: summary.config[name] for name in SMALL_RECIPE} == SMALL_RECIPE
    train_, calibrate = (sum(counts.values()) for counts in (summary.train_clips, summary.calibrate_clips))
    assert train_ + calibrate == IMAGES * 4 // 5 - 1
    assert 1 <= calibrate < 20
    assert sum(summary.select_clips.values()) == summary.n == IMAGES // 5 + 1
    assert summary.hardware
    assert summary.seconds >= 0
    assert "accuracy=" in repr(summary)


@pytest.mark.parametrize(
    ("images", "fitted"), [(MIN_CALIBRATION_CLIPS, True), (MIN_CALIBRATION_CLIPS - 1, False)]
)
def test_the_temperature_is_fitted_if_there_are_enough_calibration_clips(
    data: Path, tmp_path: Path, images: int, fitted: bool
) -> None:
    clips = load_datasets([("fer2013", str(data))], for_training=False)[0]
    clips = dataclasses.replace(
        clips, splits=np.where(np.arange(len(clips)) < images, "calibrate", "train").astype(str)
    )
    torch.manual_seed(0)
    architecture = {"classes": 7, "filters": [8, 8], "depths": [1, 1], "fold": 2, "dropout": 0.0}
    network = CnnBiLstm(**architecture).eval()
    state = TrainState(
        network="cnn-bilstm",
        architecture=architecture,
        ema=network.state_dict(),
        kept=None,
        module={},
        stepper={},
        history=[make_epoch(1, 0.5)],
    )
    export_model(make_config(data), LocalFolder(tmp_path), state, clips, {}, train_clips={}, hardware="none")
    held_out = clips.take(clips.splits == "calibrate")
    views = (held_out.frames[:, None], held_out.frames[:, None, :, ::-1].copy())
    logits = np.mean([predict_log_probs(network, view, torch.device("cpu")) for view in views], axis=0)
    expected = fit_temperature(logits, held_out.labels) if fitted else 1.0
    assert load_checkpoint(tmp_path)[1].temperature == pytest.approx(expected, rel=1e-2)
    assert fitted == (expected != 1)


def test_the_history_has_a_row_for_each_epoch(whole: Run) -> None:
    history = json.loads((whole.out / "history.json").read_text())
    assert [epoch["epoch"] for epoch in history] == [1, 2, 3, 4]
    assert [epoch["phase"] for epoch in history] == PHASES
    assert all(tuple(epoch) == HISTORY_COLUMNS for epoch in history)
    assert all(math.isfinite(value) for epoch in history for k, value in epoch.items() if k != "phase")
    assert (whole.out / "learning_curves.png").read_bytes()[1:4] == b"PNG"
    with (whole.out / "history.csv").open(newline="") as file:
        assert list(csv.DictReader(file)) == [{k: str(v) for k, v in epoch.items()} for epoch in history]
    last = history[-1]
    assert (whole.summary.accuracy, whole.summary.macro_f1) == (last["accuracy"], last["macro_f1"])
    assert history[0]["loss"] > history[1]["loss"]


def test_data_and_epochs_are_reported(whole: Run) -> None:
    started, counts, splits, workers, *rest = whole.lines
    assert workers == "workers: 1, on CPUs, 16 examples a step"
    assert (started, counts) == ("starting Ray …", "data: 1 twins dropped")
    assert splits.startswith("data: ") and "for selection" in splits
    epochs = [line for line in rest if not line.startswith("data: warning")]
    for number, (line, row) in enumerate(zip(epochs, read_history(whole.out), strict=True), 1):
        assert line.startswith(f"epoch {number} ({row['phase']}): loss {row['loss']:.4f}, ")
        assert f"accuracy {row['accuracy']:.4f}, macro-F1 {row['macro_f1']:.4f} on {row['n']}" in line


def test_a_run_writes_curves_for_tensorboard(whole: Run) -> None:
    (curve,) = list_curves(whole.out)
    content = curve.read_bytes()
    assert all(name in content for name in (b"loss", b"lr", b"accuracy", b"macro_f1", b"seconds"))
    assert read_epochs(curve) == [1, 2, 3, 4]


@pytest.mark.parametrize("older", [{}, {"preset": "cnn4-fer2013"}], ids=["this version", "an older version"])
def test_a_finished_run_returns_its_summary_at_once(whole: Run, data: Path, older: dict[str, str]) -> None:
    record = whole.out / "train.json"
    content = record.read_bytes()
    record.write_text(json.dumps(json.loads(content) | older))
    before = read_files(whole.out)
    lines: list[str] = []
    assert train(make_config(data), whole.out, on_progress=collect_lines(lines)) == whole.summary
    assert read_files(whole.out) == before
    assert not lines
    record.write_bytes(content)


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"epochs": 4}, "epochs was 3, is 4"),
        ({"lr": 0.05, "seed": 1}, r"lr was 0\.1, is 0\.05; seed was 0, is 1"),
        ({"filters": [8, 16]}, r"filters was \[8, 8\], is \[8, 16\]"),
        ({"imbalance": "focal"}, "imbalance was sqrt, is focal"),
        ({"classes": ["happy", "sad"]}, r"classes was \[\], is \['happy', 'sad'\]"),
    ],
)
def test_another_configuration_is_refused_with_the_difference(
    whole: Run, data: Path, changes: dict[str, Any], difference: str
) -> None:
    before = read_files(whole.out)
    with pytest.raises(ConfigError, match=difference):
        train(make_config(data, **changes), whole.out)
    assert read_files(whole.out) == before


@pytest.mark.parametrize("name", ["thesis.tex", "train.json", "model.json"])
def test_other_files_are_not_changed(data: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("years of work")
    for out in (tmp_path, tmp_path / name):
        with pytest.raises(OutputError, match=str(out)):
            train(make_config(data), out)
    assert read_files(tmp_path) == {name: b"years of work"}


@pytest.mark.parametrize(
    ("changes", "change_text", "error", "message"),
    [
        (
            {"classes": [*EMOTIONS, "contempt"]},
            str,
            InputError,
            "no training examples of contempt, but the classes are angry, ",
        ),
        (
            {"classes": [*EMOTIONS], "leave_out": ["disgust"]},
            str,
            InputError,
            "no training examples of disgust, but the classes are angry, ",
        ),
        ({"init": "gone.safetensors"}, str, CheckpointError, "gone"),
        ({}, lambda text: "", InputError, "spoilt.csv"),
        ({}, lambda text: text.replace("pixels", "pictures", 1), InputError, "spoilt.csv"),
        ({}, lambda text: text.replace("Training", "PublicTest"), InputError, "split 'train'"),
        (
            {},
            lambda text: "".join(line for line in text.splitlines(True) if line[0] in "e3"),
            InputError,
            "two or more classes",
        ),
    ],
    ids=[
        "absent class",
        "class left out",
        "missing checkpoint",
        "empty",
        "renamed column",
        "no training data",
        "one class",
    ],
)
def test_unusable_settings_and_data_are_refused_before_anything_is_written(
    data: Path,
    tmp_path: Path,
    changes: dict[str, Any],
    change_text: Callable[[str], str],
    error: type[Exception],
    message: str,
) -> None:
    path = tmp_path / "spoilt.csv"
    path.write_text(change_text(data.read_text()))
    with pytest.raises(error, match=message):
        train(make_config(path, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_two_workers_share_a_run(runs: Runs) -> None:
    network, card = load_checkpoint(runs.shared.out)
    assert card.training == runs.shared.summary.to_dict()
    assert runs.shared.summary.config["workers"] == 2
    assert network.encoder.width == 8
    history = read_history(runs.shared.out)
    assert [epoch["phase"] for epoch in history] == PHASES
    assert [epoch["n"] for epoch in history] == [IMAGES // 5 + 1] * len(PHASES)
    assert history[0]["loss"] > min(epoch["loss"] for epoch in history[1:])
    assert compare_weights(runs.shared.out, runs.whole.out)


def test_a_run_with_a_killed_worker_ends_with_the_same_weights(runs: Runs) -> None:
    (curve,) = list_curves(runs.hurt.out)
    assert read_epochs(curve) == [1, 2, 3, 4]
    assert read_history(runs.hurt.out) == read_history(runs.shared.out)
    assert not compare_weights(runs.hurt.out, runs.shared.out)


def test_a_run_starts_from_a_checkpoint_of_other_classes(runs: Runs) -> None:
    card = load_checkpoint(runs.tuned.out)[1]
    assert card.classes == EMOTIONS
    assert card.architecture["filters"] == [6, 10]
    assert runs.tuned.summary.init == load_checkpoint(runs.checkpoint)[1].model_id
    assert str(runs.checkpoint.parent) not in (runs.tuned.out / "model.json").read_text()


def test_a_run_with_early_stopping_keeps_its_best_epoch(runs: Runs) -> None:
    history, summary = read_history(runs.tuned.out), runs.tuned.summary
    best = int(np.argmax([epoch["accuracy"] for epoch in history]))
    assert len(history) == best + 2 < 8
    assert (summary.accuracy, summary.macro_f1) == (history[best]["accuracy"], history[best]["macro_f1"])
    (file,) = runs.tuned.out.glob("checkpoint_*/state.pt")
    assert file.parent.name == f"checkpoint_{len(history):06d}"
    state = torch.load(file, weights_only=True)
    assert len(state["history"]) == len(history)
    for name, value in load_weights(runs.tuned.out).items():
        kept = state["kept"][name]
        assert torch.equal(value, kept.half().float() if kept.is_floating_point() else kept)
    assert any(not torch.equal(value, state["ema"][name]) for name, value in state["kept"].items())


def test_a_killed_run_continues_after_its_last_epoch_to_the_same_weights(
    runs: Runs, resumed: Resumed
) -> None:
    assert 2 <= len(resumed.killed) < len(PHASES)
    assert [epoch["epoch"] for epoch in read_history(runs.killed)] == [1, 2, 3, 4]
    assert read_epochs(list_curves(runs.killed)[-1])[0] > 1
    assert read_history(runs.killed)[: len(resumed.killed)] == resumed.killed
    assert read_history(runs.killed) == read_history(runs.whole.out)
    assert not compare_weights(runs.killed, runs.whole.out)
    cards = [load_checkpoint(out)[1] for out in (runs.killed, runs.whole.out)]
    assert cards[0].temperature == cards[1].temperature


@pytest.mark.parametrize("name", ["model.safetensors", "model.json", "history.csv", "history.json"])
def test_a_run_killed_after_its_last_epoch_only_writes_its_results(
    runs: Runs, resumed: Resumed, name: str
) -> None:
    assert (runs.shared.out / name).read_bytes() == resumed.shared[name]


def test_progress_within_an_epoch_is_reported(runs: Runs) -> None:
    steps = [text for text in runs.whole.transient if text.startswith("epoch ")]
    assert steps
    assert all(re.fullmatch(r"epoch \d: step \d+ of \d+, \d+ clips/s", text) for text in steps)
