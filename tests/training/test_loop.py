"""Training under Ray: a run ends with a model, resumes where it was killed, and keeps its configuration."""

import csv
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fer_batch.config import TrainConfig
from fer_batch.errors import ConfigError, InputError, OutputError
from fer_batch.model.weights import load_checkpoint
from fer_batch.runtime import ray_session
from fer_batch.schema import EMOTIONS
from fer_batch.training.loop import HISTORY, predict_stills, train

IMAGES = 200
EPOCHS, SEQUENCE_EPOCHS = 2, 1


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    with ray_session(num_cpus=2):
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FER2013's CSV of noise with a bright bar whose height tells the class; every fifth is PublicTest."""
    random = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("data") / "bars.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["emotion", "pixels", "Usage"])
        for number in range(IMAGES):
            emotion = number % 7
            image = random.integers(0, 60, (48, 48))
            image[6 * emotion : 6 * emotion + 8, 8:40] = 220
            usage = "Training" if number % 5 else "PublicTest"
            writer.writerow([emotion, " ".join(map(str, image.ravel().tolist())), usage])
    return path


def configured(data: Path, **changes: Any) -> TrainConfig:
    settings = {"epochs": EPOCHS, "sequence_epochs": SEQUENCE_EPOCHS, "batch_size": 16} | changes
    return TrainConfig(data=(("fer2013", str(data)),), **settings)


def of_two_workers(data: Path) -> TrainConfig:
    return configured(data, filters=(8, 8, 8, 8), workers=2)


HALF_A_CPU = {"CPU": 0.5}


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run, what `train` returned, and the lines it reported."""

    out: Path
    record: dict[str, Any]
    lines: list[str]


@dataclass(frozen=True, kw_only=True)
class Runs:
    """Three runs made side by side, as Ray Train mostly waits."""

    whole: Run
    shared: Run
    """Of two workers."""
    killed: Path
    """From the command line, killed after its first epoch."""


@pytest.fixture(scope="module")
def runs(ray_here: None, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("runs")

    def run(name: str, config: TrainConfig, resources: dict[str, float] | None) -> Run:
        lines: list[str] = []
        record = train(config, folder / name, resources, on_epoch=lines.append)
        return Run(out=folder / name, record=record, lines=lines)

    with ThreadPoolExecutor() as pool:
        killed = pool.submit(train_and_kill, data, folder / "killed")
        whole = pool.submit(run, "whole", configured(data), None)
        shared = pool.submit(run, "shared", of_two_workers(data), HALF_A_CPU)
        return Runs(whole=whole.result(), shared=shared.result(), killed=killed.result())


@pytest.fixture(scope="module")
def whole(runs: Runs) -> Run:
    return runs.whole


@dataclass(frozen=True, kw_only=True)
class Resumed:
    """What stood in two run folders before they were called for again."""

    killed: list[dict[str, Any]]
    """Its history."""
    shared: dict[str, bytes]
    """All that it held when it was done."""


@pytest.fixture(scope="module")
def resumed(runs: Runs, data: Path) -> Resumed:
    """The killed run and the shared one called for again, this one as if killed just before its end."""
    before = Resumed(killed=history_of(runs.killed), shared=contents(runs.shared.out))
    assert not (runs.killed / "model.safetensors").exists()
    for name in ("model.safetensors", "model.json", "history.csv"):
        (runs.shared.out / name).unlink()
    history = json.loads((runs.shared.out / "history.json").read_text())
    (runs.shared.out / "history.json").write_text(json.dumps(history[:-1]))
    with ThreadPoolExecutor() as pool:
        again = [
            pool.submit(train, configured(data), runs.killed),
            pool.submit(train, of_two_workers(data), runs.shared.out, HALF_A_CPU),
        ]
        for future in again:
            future.result()
    return before


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def history_of(out: Path) -> list[dict[str, Any]]:
    """All that the epochs so far say, but how long they took."""
    path = out / "history.json"
    history = json.loads(path.read_text()) if path.exists() else []
    return [{k: v for k, v in epoch.items() if k != "seconds"} for epoch in history]


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
    """`fer-batch train` with the options of `configured`, killed once its first epoch is in the history."""
    options = {
        "--data": f"fer2013={data}",
        "--out": str(out),
        "--epochs": str(EPOCHS),
        "--sequence-epochs": str(SEQUENCE_EPOCHS),
        "--batch-size": "16",
    }
    words = [word for option in options.items() for word in option]
    process = subprocess.Popen(
        [sys.executable, "-m", "fer_batch.cli.main", "train", *words],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
    )
    try:
        deadline = time.monotonic() + 200
        while not history_of(out) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert process.poll() is None
    finally:
        kill_session(process)
    assert not processes_of(process.pid)
    return out


def test_no_stills_have_no_classes() -> None:
    network, _ = load_checkpoint()
    predicted = predict_stills(network, np.zeros((0, 48, 48), np.uint8), torch.device("cpu"))
    assert predicted.shape == (0,)
    assert predicted.dtype == np.int64


def test_a_run_ends_with_a_model_that_can_be_loaded(whole: Run, data: Path) -> None:
    out, record = whole.out, whole.record
    network, card = load_checkpoint(out)
    assert card.classes == EMOTIONS
    assert card.training == record
    assert card.architecture["filters"] == list(configured(data).filters)
    assert (card.window_length, card.window_rate_hz) == (9, 5.0)
    assert all(value.isfinite().all() for value in network.state_dict().values())
    assert record["data"] == ["fer2013"]
    assert str(data) not in (out / "model.json").read_text()
    assert sum(record["training_clips"].values()) == IMAGES * 4 // 5
    assert sum(record["selection_clips"].values()) == record["selection"]["n"] == IMAGES // 5


def test_the_history_says_what_happened_in_each_epoch(whole: Run) -> None:
    out, record, lines = whole.out, whole.record, whole.lines
    history = json.loads((out / "history.json").read_text())
    assert [epoch["epoch"] for epoch in history] == [1, 2, 3]
    assert [epoch["phase"] for epoch in history] == ["stills", "stills", "sequences"]
    assert all(tuple(epoch) == HISTORY for epoch in history)
    assert all(math.isfinite(value) for epoch in history for k, value in epoch.items() if k != "phase")
    with (out / "history.csv").open(newline="") as file:
        assert list(csv.DictReader(file)) == [{k: str(v) for k, v in epoch.items()} for epoch in history]
    assert record["selection"] == {k: history[-1][k] for k in ("accuracy", "macro_f1", "n")}
    assert len(lines) == 3
    assert all(line.startswith(f"epoch {number} (") for number, line in enumerate(lines, 1))


def test_the_loss_falls(whole: Run) -> None:
    losses = [epoch["loss"] for epoch in history_of(whole.out)]
    assert losses[0] > losses[1]
    assert losses[0] > losses[2]


def test_the_same_call_again_returns_at_once(whole: Run, data: Path) -> None:
    out, record = whole.out, whole.record
    before = contents(out)
    lines: list[str] = []
    began = time.monotonic()
    assert train(configured(data), out, on_epoch=lines.append) == record
    assert time.monotonic() - began < 2
    assert contents(out) == before
    assert not lines


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"epochs": 3}, "epochs was 2, is 3"),
        ({"lr": 0.05, "seed": 1}, r"lr was 0\.1, is 0\.05; seed was 0, is 1"),
        ({"filters": (8, 8, 8, 8)}, r"filters was \[32, 64, 128, 256\], is \[8, 8, 8, 8\]"),
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


@pytest.mark.parametrize("spoil", [lambda text: "", other_columns, only_selection])
def test_data_that_cannot_be_used_is_named_before_anything_is_written(
    ray_here: None, data: Path, tmp_path: Path, spoil: Any
) -> None:
    path = tmp_path / "spoilt.csv"
    path.write_text(spoil(data.read_text()))
    with pytest.raises(InputError):
        train(configured(path), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_two_workers_share_a_run(runs: Runs) -> None:
    network, card = load_checkpoint(runs.shared.out)
    assert card.training == runs.shared.record
    assert card.training["config"]["workers"] == 2
    assert network.encoder.width == 8
    history = history_of(runs.shared.out)
    assert [epoch["phase"] for epoch in history] == ["stills", "stills", "sequences"]
    assert [epoch["n"] for epoch in history] == [IMAGES // 5] * 3
    assert history[0]["loss"] > history[1]["loss"]


def test_a_killed_run_goes_on_from_its_last_epoch(runs: Runs, resumed: Resumed) -> None:
    assert 1 <= len(resumed.killed) < EPOCHS + SEQUENCE_EPOCHS
    assert [epoch["epoch"] for epoch in history_of(runs.killed)] == [1, 2, 3]
    assert history_of(runs.killed)[: len(resumed.killed)] == resumed.killed


def test_a_killed_run_ends_as_one_that_was_left_alone(runs: Runs, resumed: Resumed) -> None:
    assert history_of(runs.killed) == history_of(runs.whole.out)
    networks = [load_checkpoint(out)[0].state_dict() for out in (runs.whole.out, runs.killed)]
    assert [name for name, value in networks[0].items() if not torch.equal(value, networks[1][name])] == []


@pytest.mark.parametrize("name", ["model.safetensors", "model.json", "history.csv", "history.json"])
def test_a_run_killed_between_its_last_epoch_and_its_end_only_ends(
    runs: Runs, resumed: Resumed, name: str
) -> None:
    assert (runs.shared.out / name).read_bytes() == resumed.shared[name]
