"""Training under Ray: a run ends with a model, goes on where it was killed, and keeps its configuration."""

import csv
import dataclasses
import json
import math
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboardX.proto.event_pb2 import Event

from fer_batch.config import TrainConfig
from fer_batch.data.datasets import load_datasets
from fer_batch.errors import CheckpointError, ConfigError, InputError, OutputError
from fer_batch.model.cnn_bilstm import CnnBiLstm
from fer_batch.model.weights import Card, load_checkpoint, save_checkpoint
from fer_batch.runtime import ray_session
from fer_batch.schema import EMOTIONS
from fer_batch.training.calibrate import fit_temperature
from fer_batch.training.loop import HISTORY, frame_logits
from fer_batch.training.run import _export, train
from fer_batch.training.sources import CALIBRATE_LEAST

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # five runs side by side

IMAGES = 200
RECIPE: dict[str, Any] = {
    "epochs": 3,
    "sequence_epochs": 1,
    "batch_size": 16,
    "filters": [8, 8],
    "depths": [1, 1],
    "fold": 2,
}
PHASES = ["stills", "stills", "stills", "sequences"]
HALF_A_CPU = {"CPU": 0.5}


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    with ray_session(num_cpus=4):
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FER2013's CSV of noise with a bright bar whose height tells the class; every fifth is PublicTest, and
    one image of Training stands in it again.
    """
    random = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("data") / "bars.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["emotion", "pixels", "Usage"])
        for number in range(IMAGES):
            emotion = number % 7
            image = random.integers(0, 60, (48, 48))
            image[6 * emotion : 6 * emotion + 8, 8:40] = 220
            row = [emotion, " ".join(map(str, image.ravel().tolist()))]
            writer.writerow([*row, "Training" if number % 5 else "PublicTest"])
        writer.writerow([*row, "PublicTest"])
    return path


def configured(data: Path, **changes: Any) -> TrainConfig:
    return TrainConfig.from_dict({**RECIPE, "data": [["fer2013", str(data)]], **changes})


def of_two_workers(data: Path) -> TrainConfig:
    return configured(data, workers=2)


def begun_from(checkpoint: Path, data: Path) -> TrainConfig:
    """Stills alone, until one epoch is no better, from a checkpoint of other classes."""
    return configured(data, init=str(checkpoint), epochs=8, sequence_epochs=0, early_stopping=1, lr=1e-4)


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run, what `train` returned, and the lines it reported."""

    out: Path
    record: dict[str, Any]
    lines: list[str]


@dataclass(frozen=True, kw_only=True)
class Runs:
    """Runs made side by side, as Ray Train mostly waits."""

    whole: Run
    shared: Run
    """Of two workers."""
    hurt: Run
    """As shared, but its first worker was killed after two epochs, and Ray Train started both again."""
    begun: Run
    """From `checkpoint`."""
    checkpoint: Path
    killed: Path
    """From the command line, killed after its second epoch."""


@pytest.fixture(scope="module")
def runs(ray_here: None, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("runs")
    checkpoint = other_checkpoint(folder / "other.safetensors")

    def run(name: str, config: TrainConfig) -> Run:
        lines: list[str] = []
        record = train(config, folder / name, HALF_A_CPU, lines.append)
        return Run(out=folder / name, record=record, lines=lines)

    with ThreadPoolExecutor(8) as pool:
        killed = pool.submit(train_and_kill, data, folder / "killed")
        wait_for(lambda: curves(folder / "killed") or killed.done())  # it starts a Ray of its own
        whole = pool.submit(run, "whole", configured(data))
        shared = pool.submit(run, "shared", of_two_workers(data))
        hurt = pool.submit(run, "hurt", of_two_workers(data))
        begun = pool.submit(run, "begun", begun_from(checkpoint, data))
        kill_a_worker(folder / "hurt")
        return Runs(
            whole=whole.result(),
            shared=shared.result(),
            hurt=hurt.result(),
            begun=begun.result(),
            checkpoint=checkpoint,
            killed=killed.result(),
        )


@pytest.fixture(scope="module")
def whole(runs: Runs) -> Run:
    return runs.whole


@dataclass(frozen=True, kw_only=True)
class Resumed:
    """What stood in two run folders before they were called for again, and what the second call said."""

    killed: list[dict[str, Any]]
    """Its history."""
    shared: dict[str, bytes]
    """All that it held when it was done."""
    progress: list[str]
    """Of shared, how far its epochs were."""


@pytest.fixture(scope="module")
def resumed(runs: Runs, data: Path) -> Resumed:
    """The killed run and the shared one called for again, this one as if killed just before its end."""
    progress: list[str] = []
    before = Resumed(killed=history_of(runs.killed), shared=contents(runs.shared.out), progress=progress)
    assert not (runs.killed / "model.safetensors").exists()
    for name in ("model.safetensors", "model.json", "history.csv"):
        (runs.shared.out / name).unlink()
    history = json.loads((runs.shared.out / "history.json").read_text())
    (runs.shared.out / "history.json").write_text(json.dumps(history[:-1]))
    now = {"epoch": 4, "step": 2, "steps": 4, "clips_per_s": 71.6}
    (runs.shared.out / "progress.json").write_text(json.dumps(now))
    with ThreadPoolExecutor() as pool:
        again = [
            pool.submit(train, configured(data), runs.killed, HALF_A_CPU),
            pool.submit(
                train, of_two_workers(data), runs.shared.out, HALF_A_CPU, on_progress=progress.append
            ),
        ]
        for future in again:
            future.result()
    return before


def other_checkpoint(path: Path) -> Path:
    """A checkpoint of random weights, of another architecture and with other classes."""
    torch.manual_seed(7)
    architecture = {"classes": 2, "filters": [6, 10], "depths": [1, 1], "fold": 2, "dropout": 0.0}
    save_checkpoint(
        path, CnnBiLstm(**architecture), Card(classes=("calm", "happy"), architecture=architecture)
    )
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def history_of(out: Path) -> list[dict[str, Any]]:
    """All that the epochs so far say, but how long they took."""
    path = out / "history.json"
    history = json.loads(path.read_text()) if path.exists() else []
    return [{k: v for k, v in epoch.items() if k != "seconds"} for epoch in history]


def weights_of(out: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(out)[0].state_dict()


def differing(first: Path, second: Path) -> list[str]:
    """The weights that two runs' models don't share."""
    weights, others = weights_of(first), weights_of(second)
    assert weights.keys() == others.keys()
    return [name for name, value in weights.items() if not torch.equal(value, others[name])]


def curves(out: Path) -> list[Path]:
    """TensorBoard's files: one for each time that the first worker started."""
    return sorted((out / "tensorboard").glob("events.out.tfevents.*"))


def epochs_of(curve: Path) -> list[int]:
    """The epochs whose figures stand in a file of TensorBoard's, in order."""
    data, place, epochs = curve.read_bytes(), 0, []
    while place < len(data):
        (length,) = struct.unpack_from("<Q", data, place)  # its checksum follows, and that of the content
        event = Event.FromString(data[place + 12 : place + 12 + length])
        epochs += [event.step for value in event.summary.value if value.tag == "loss"]
        place += 12 + length + 4
    return epochs


def wait_for(there: Callable[[], Any], running: Callable[[], bool] = lambda: True) -> None:
    deadline = time.monotonic() + 400
    while not there() and running() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert there()


def two_epochs(out: Path) -> bool:
    """Enough that what goes on begins in the middle."""
    return len(history_of(out)) >= 2


def kill_a_worker(out: Path) -> None:
    """SIGKILL to the worker that writes the run's curves, once two epochs are in the history."""
    wait_for(lambda: curves(out))
    workers = [process for process in worker_processes() if str(curves(out)[0]) in open_files(process)]
    assert len(workers) == 1
    wait_for(lambda: two_epochs(out))
    os.kill(workers[0], signal.SIGKILL)
    assert len(history_of(out)) < len(PHASES)


def worker_processes() -> list[int]:
    """Ids of the workers of all runs on this machine."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if b"RayTrainWorker" in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def open_files(process: int) -> list[str]:
    found = []
    for link in Path(f"/proc/{process}/fd").glob("*"):
        try:
            found.append(str(link.readlink()))
        except OSError:
            continue
    return found


def processes_of(session: int) -> list[int]:
    """Ids of the running processes of a session."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, _, _, owner = (entry / "stat").read_text().rsplit(")", 1)[1].split()[:4]
            except OSError:
                continue
            if int(owner) == session and state != "Z":
                found.append(int(entry.name))
    return found


def kill_session(leader: subprocess.Popen[bytes]) -> None:
    """SIGKILL to the process group that `leader` leads, and to what it started in groups of their own."""
    os.killpg(leader.pid, signal.SIGKILL)
    deadline = time.monotonic() + 30
    while (left := processes_of(leader.pid)) and time.monotonic() < deadline:
        for process in left:
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.05)
    leader.wait(30)


def train_and_kill(data: Path, out: Path) -> Path:
    """`fer-batch train` by a recipe as `configured`, killed once two epochs are in the history."""
    recipe = out.with_name("ours.toml")
    recipe.write_text("".join(f"{name} = {value}\n" for name, value in RECIPE.items()))
    words = ["--recipe", str(recipe), "--data", f"fer2013={data}", "--out", str(out)]
    said = out.with_name("killed.txt")
    with said.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "fer_batch.cli.main", "train", *words],
            start_new_session=True,
            stdout=file,
            stderr=file,
            env={name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
        )
    try:
        wait_for(lambda: two_epochs(out) or process.poll() is not None)
        assert process.poll() is None, said.read_text()
    finally:
        kill_session(process)
    assert not processes_of(process.pid)
    return out


def test_a_run_ends_with_a_model_that_can_be_loaded(whole: Run, data: Path) -> None:
    out, record = whole.out, whole.record
    network, card = load_checkpoint(out)
    assert card.classes == EMOTIONS
    assert card.training == record
    assert card.architecture["filters"] == RECIPE["filters"]
    assert card.architecture["dropout"] == 0
    assert (card.window_length, card.window_rate_hz) == (configured(data).window_length, 5.0)
    assert all(value.isfinite().all() for value in network.state_dict().values())
    assert not (out / "progress.json").exists()


def test_the_record_says_what_it_was_trained_on_and_how(whole: Run, data: Path) -> None:
    record = whole.record
    assert record["data"] == ["fer2013"]
    assert record["init"] is None
    assert record["left_out"] == {"twins_dropped": 1}
    assert str(data) not in (whole.out / "model.json").read_text()
    assert {name: record["config"][name] for name in RECIPE} == RECIPE
    train_, calibrate = (sum(record[f"{split}_clips"].values()) for split in ("train", "calibrate"))
    assert train_ + calibrate == IMAGES * 4 // 5 - 1
    assert 1 <= calibrate < 20
    assert sum(record["select_clips"].values()) == record["selection"]["n"] == IMAGES // 5 + 1
    assert record["hardware"]
    assert record["seconds"] >= 0


@pytest.mark.parametrize(("images", "fitted"), [(CALIBRATE_LEAST, True), (CALIBRATE_LEAST - 1, False)])
def test_the_temperature_is_that_of_the_part_held_out_for_it_if_that_is_large_enough(
    data: Path, tmp_path: Path, images: int, fitted: bool
) -> None:
    clips = load_datasets([("fer2013", str(data))], for_training=False)[0]
    clips = dataclasses.replace(
        clips, splits=np.where(np.arange(len(clips)) < images, "calibrate", "train").astype(str)
    )
    torch.manual_seed(0)
    architecture = {"classes": 7, "filters": [8, 8], "depths": [1, 1], "fold": 2, "dropout": 0.0}
    network = CnnBiLstm(**architecture).eval()
    row = dict.fromkeys(HISTORY, 0.5) | {"epoch": 1, "phase": "stills"}
    state = {
        "network": "cnn-bilstm",
        "architecture": architecture,
        "ema": network.state_dict(),
        "history": [row],
        "kept": None,
    }
    _export(configured(data), tmp_path, state, clips, {})
    held_out = clips.take(clips.splits == "calibrate")
    views = (held_out.frames[:, None], held_out.frames[:, None, :, ::-1].copy())
    logits = np.mean([frame_logits(network, view, torch.device("cpu")) for view in views], axis=0)
    expected = fit_temperature(logits, held_out.labels) if fitted else 1.0
    assert load_checkpoint(tmp_path)[1].temperature == pytest.approx(expected, rel=1e-2)
    assert fitted == (expected != 1)


def test_the_history_says_what_happened_in_each_epoch(whole: Run) -> None:
    out, record = whole.out, whole.record
    history = json.loads((out / "history.json").read_text())
    assert [epoch["epoch"] for epoch in history] == [1, 2, 3, 4]
    assert [epoch["phase"] for epoch in history] == PHASES
    assert all(tuple(epoch) == HISTORY for epoch in history)
    assert all(math.isfinite(value) for epoch in history for k, value in epoch.items() if k != "phase")
    with (out / "history.csv").open(newline="") as file:
        assert list(csv.DictReader(file)) == [{k: str(v) for k, v in epoch.items()} for epoch in history]
    assert record["selection"] == {k: history[-1][k] for k in ("accuracy", "macro_f1", "n")}
    assert history[0]["loss"] > history[1]["loss"]


def test_a_line_is_told_for_what_is_amiss_and_for_each_epoch(whole: Run) -> None:
    started, amiss, parts, *rest = whole.lines
    assert (started, amiss) == ("starting Ray …", "data: 1 twins dropped")
    assert parts.startswith("data: ") and "to choose the epoch by" in parts
    epochs = [line for line in rest if not line.startswith("data: nothing to")]
    for number, (line, row) in enumerate(zip(epochs, history_of(whole.out), strict=True), 1):
        assert line.startswith(f"epoch {number} ({row['phase']}): loss {row['loss']:.4f}, ")
        assert f"accuracy {row['accuracy']:.4f}, macro-F1 {row['macro_f1']:.4f} on {row['n']}" in line


def test_a_run_has_curves(whole: Run) -> None:
    (curve,) = curves(whole.out)
    written = curve.read_bytes()
    assert all(name in written for name in (b"loss", b"lr", b"accuracy", b"macro_f1", b"seconds"))
    assert epochs_of(curve) == [1, 2, 3, 4]


def test_the_same_call_again_returns_at_once(whole: Run, data: Path) -> None:
    before = contents(whole.out)
    lines: list[str] = []
    assert train(configured(data), whole.out, on_line=lines.append) == whole.record
    assert contents(whole.out) == before
    assert not lines


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"epochs": 4}, "epochs was 3, is 4"),
        ({"lr": 0.05, "seed": 1}, r"lr was 0\.1, is 0\.05; seed was 0, is 1"),
        ({"filters": [8, 16]}, r"filters was \[8, 8\], is \[8, 16\]"),
        ({"imbalance": "focal"}, "imbalance was sqrt, is focal"),
        ({"classes": ["happy", "sad"]}, r"classes was \[\], is \['happy', 'sad'\]"),
        ({"mixup": 0.2}, r"mixup was 0\.0, is 0\.2"),
    ],
)
def test_another_configuration_on_the_same_folder_is_refused_with_the_difference(
    whole: Run, data: Path, changes: dict[str, Any], difference: str
) -> None:
    before = contents(whole.out)
    with pytest.raises(ConfigError, match=difference):
        train(configured(data, **changes), whole.out)
    assert contents(whole.out) == before


@pytest.mark.parametrize("name", ["thesis.tex", "train.json", "model.json"])
def test_a_folder_of_something_else_is_left_alone(data: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("years of work")
    with pytest.raises(OutputError, match=str(tmp_path)):
        train(configured(data), tmp_path)
    assert contents(tmp_path) == {name: b"years of work"}


def test_a_file_in_place_of_the_folder_is_left_alone(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "thesis.tex"
    out.write_text("years of work")
    with pytest.raises(OutputError, match=str(out)):
        train(configured(data), out)
    assert out.read_text() == "years of work"


def only_selection(text: str) -> str:
    return text.replace("Training", "PublicTest")


def other_columns(text: str) -> str:
    return text.replace("pixels", "pictures", 1)


def one_class(text: str) -> str:
    return "".join(line for line in text.splitlines(True) if line[0] in "e3")


@pytest.mark.parametrize("spoil", [lambda text: "", other_columns, only_selection, one_class])
def test_data_that_cannot_be_used_is_named_before_anything_is_written(
    data: Path, tmp_path: Path, spoil: Any
) -> None:
    path = tmp_path / "spoilt.csv"
    path.write_text(spoil(data.read_text()))
    with pytest.raises(InputError):
        train(configured(path), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_that_is_not_there_is_named_before_anything_is_written(
    data: Path, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match="gone"):
        train(configured(data, init=str(tmp_path / "gone.safetensors")), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_two_workers_share_a_run(runs: Runs) -> None:
    network, card = load_checkpoint(runs.shared.out)
    assert card.training == runs.shared.record
    assert card.training["config"]["workers"] == 2
    assert network.encoder.width == 8
    history = history_of(runs.shared.out)
    assert [epoch["phase"] for epoch in history] == PHASES
    assert [epoch["n"] for epoch in history] == [IMAGES // 5 + 1] * len(PHASES)
    assert history[0]["loss"] > history[1]["loss"]
    assert differing(runs.shared.out, runs.whole.out)


def test_a_run_whose_worker_was_killed_ends_as_one_that_was_left_alone(runs: Runs) -> None:
    _, after = curves(runs.hurt.out)
    again = epochs_of(after)
    assert again[0] > 1
    assert again[-1] == len(PHASES)
    assert len(curves(runs.shared.out)) == 1
    assert history_of(runs.hurt.out) == history_of(runs.shared.out)
    assert not differing(runs.hurt.out, runs.shared.out)


def test_a_run_begins_from_a_checkpoint_of_other_classes(runs: Runs) -> None:
    card = load_checkpoint(runs.begun.out)[1]
    assert card.classes == EMOTIONS
    assert card.architecture["filters"] == [6, 10]
    assert runs.begun.record["init"] == load_checkpoint(runs.checkpoint)[1].model_id
    assert str(runs.checkpoint.parent) not in (runs.begun.out / "model.json").read_text()


def test_a_run_that_stops_early_is_of_its_best_epoch(runs: Runs) -> None:
    history = history_of(runs.begun.out)
    best = int(np.argmax([epoch["accuracy"] for epoch in history]))
    assert len(history) == best + 2 < 8
    assert runs.begun.record["selection"] == {k: history[best][k] for k in ("accuracy", "macro_f1", "n")}
    state = torch.load(runs.begun.out / "state.pt", weights_only=True)
    assert len(state["history"]) == len(history)
    for name, value in weights_of(runs.begun.out).items():
        kept = state["kept"][name]
        assert torch.equal(value, kept.half().float() if kept.is_floating_point() else kept)
    assert any(not torch.equal(value, state["ema"][name]) for name, value in state["kept"].items())


def test_a_killed_run_goes_on_from_its_last_epoch(runs: Runs, resumed: Resumed) -> None:
    assert 2 <= len(resumed.killed) < len(PHASES)
    assert [epoch["epoch"] for epoch in history_of(runs.killed)] == [1, 2, 3, 4]
    assert epochs_of(curves(runs.killed)[-1])[0] > 1
    assert history_of(runs.killed)[: len(resumed.killed)] == resumed.killed


def test_a_killed_run_ends_as_one_that_was_left_alone(runs: Runs, resumed: Resumed) -> None:
    assert history_of(runs.killed) == history_of(runs.whole.out)
    assert not differing(runs.killed, runs.whole.out)
    cards = [load_checkpoint(out)[1] for out in (runs.killed, runs.whole.out)]
    assert cards[0].temperature == cards[1].temperature


@pytest.mark.parametrize("name", ["model.safetensors", "model.json", "history.csv", "history.json"])
def test_a_run_killed_between_its_last_epoch_and_its_end_only_ends(
    runs: Runs, resumed: Resumed, name: str
) -> None:
    assert (runs.shared.out / name).read_bytes() == resumed.shared[name]


def test_how_far_the_epoch_is_is_told_while_it_runs(resumed: Resumed) -> None:
    assert set(resumed.progress) == {"epoch 4: step 2 of 4, 72/s"}
