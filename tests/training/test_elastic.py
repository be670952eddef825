"""A run whose number of workers follows the nodes of a cluster."""

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from fer_batch.errors import ConfigError
from fer_batch.train_config import TrainConfig
from fer_batch.training import run
from fer_batch.training.run import train
from tests.training.examples import (
    SMALL_RECIPE,
    collect_lines,
    connect_cluster,
    make_config,
    write_bars_csv,
)


def test_more_least_workers_than_workers_are_refused() -> None:
    with pytest.raises(ConfigError, match="min_workers must be at most the number of workers, 2, got 3"):
        make_config(workers=2, min_workers=3)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A cluster of two nodes with a CPU each; the first one runs this process."""
    with connect_cluster(num_cpus=1) as cluster:
        yield cluster


@pytest.mark.cluster
@pytest.mark.timeout(900)
def test_a_run_continues_with_fewer_workers_and_grows_again(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "RESIZE_INTERVAL_S", 2.0)
    node = cluster.add_node(num_cpus=1)
    data, out = write_bars_csv(tmp_path / "bars.csv", 600), tmp_path / "run"
    settings = {**SMALL_RECIPE, "epochs": 100_000, "workers": 2, "min_workers": 1}
    config, lines = TrainConfig.from_dict({**settings, "data": [["fer2013", str(data)]]}), list[str]()

    def start() -> None:
        with contextlib.suppress(Exception):  # the test ends Ray while it trains
            train(config, out, on_progress=collect_lines(lines))

    running = threading.Thread(target=start, daemon=True)
    running.start()

    def wait_for(text: str) -> None:
        while not any(line.startswith(text) for line in lines):
            assert running.is_alive()
            time.sleep(0.1)

    wait_for("epoch 2 ")
    cluster.remove_node(node, allow_graceful=False)
    wait_for("workers: 1 from now on")
    wait_for(f"epoch {count_epochs(lines) + 2} ")
    cluster.add_node(num_cpus=1)
    wait_for("workers: 2 from now on")
    wait_for(f"epoch {count_epochs(lines) + 2} ")
    history = json.loads((out / "history.json").read_text())
    assert [row["epoch"] for row in history] == list(range(1, len(history) + 1))
    assert [line.split()[1] for line in lines if line.startswith("epoch")] == [
        str(number) for number in range(1, count_epochs(lines) + 1)
    ]


def count_epochs(lines: list[str]) -> int:
    return sum(line.startswith("epoch ") for line in lines)
