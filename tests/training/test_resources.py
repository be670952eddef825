"""CPUs and GPUs of training processes: shares, waiting, and errors instead of training on CPUs."""

import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import ray
import ray.train
import torch
from ray.cluster_utils import Cluster
from ray.exceptions import ActorDiedError, RayTaskError
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError, WorkerHealthCheckFailedError

from fer_batch.errors import ConfigError, FerBatchError, OutputError, ResourceError
from fer_batch.runtime import joins_cluster
from fer_batch.train_config import TrainConfig
from fer_batch.training import resources
from fer_batch.training.resources import (
    GpuCount,
    choose_gpu_share,
    count_required,
    describe_hardware,
    find_device,
    share_resources,
    summarize_hardware,
    wait_for_resources,
)
from fer_batch.training.run import find_cause, train
from fer_batch.training.status import StatusMessage, ignore_status
from tests.training.examples import SMALL_RECIPE, connect_cluster, write_bars_csv


@pytest.mark.parametrize(
    ("gpus", "workers", "cluster", "share"),
    [
        ("auto", 2, {}, 0),
        ("auto", 2, {"GPU": 1.0}, 0.5),
        ("auto", 2, {"GPU": 4.0}, 1),
        ("auto", 4, {"GPU": 3.0}, 0.5),
        (0, 2, {"GPU": 1.0}, 0),
        (2, 2, {}, 1),
        (1, 2, {}, 0.5),
        (1, 3, {}, 0.3333),
        (2, 3, {}, 0.5),
    ],
)
def test_workers_share_the_gpus_that_were_asked_for(
    gpus: GpuCount, workers: int, cluster: dict[str, float], share: float
) -> None:
    assert choose_gpu_share(gpus, workers, cluster) == share


@pytest.mark.parametrize(
    ("gpus", "message"),
    [(3, "--gpus 3 are more than the workers: give --workers 3, got 2"), (-1, "must be auto or a whole")],
)
def test_a_number_of_gpus_that_workers_cannot_have_is_refused(gpus: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        choose_gpu_share(gpus, 2, {})


@pytest.mark.parametrize(
    ("cluster", "threads", "parallel", "gpus", "share", "expected"),
    [
        ({}, 1, None, "auto", {"CPU": 1}, 1),
        ({"CPU": 8}, 1, None, "auto", {"CPU": 1}, 8),
        ({"CPU": 8}, 3, None, "auto", {"CPU": 3}, 2),
        ({"CPU": 2}, 4, None, "auto", {"CPU": 2}, 1),
        ({"CPU": 8}, 1, 2, "auto", {"CPU": 1}, 2),
        ({"CPU": 2}, 1, 3, "auto", {"CPU": 0.6666}, 3),
        ({"CPU": 16, "GPU": 1}, 1, None, "auto", {"CPU": 1, "GPU": 1}, 1),
        ({"CPU": 16, "GPU": 2}, 1, 5, "auto", {"CPU": 1, "GPU": 1 / 3}, 5),
        ({"CPU": 4, "GPU": 1}, 1, 8, "auto", {"CPU": 0.5, "GPU": 1 / 8}, 8),
        ({"CPU": 4, "GPU": 1}, 1, None, 0, {"CPU": 1}, 4),
        ({"CPU": 4}, 1, None, 2, {"CPU": 1, "GPU": 1}, 2),
        ({"CPU": 4}, 1, 4, 2, {"CPU": 1, "GPU": 1 / 2}, 4),
    ],
)
def test_trainings_at_the_same_time_share_the_cluster(
    cluster: dict[str, float],
    threads: int,
    parallel: int | None,
    gpus: GpuCount,
    share: dict[str, float],
    expected: int,
) -> None:
    assert share_resources(cluster, threads, parallel, gpus) == (share, expected)


@pytest.mark.parametrize(("gpus", "count"), [("auto", 1), (0, 1), (2, 4)])
def test_trainings_wait_for_all_gpus_that_were_asked_for_or_else_for_one_process(
    gpus: GpuCount, count: int
) -> None:
    assert count_required(gpus, 4) == count


@pytest.mark.parametrize(
    ("described", "summary"),
    [
        ([], ""),
        (["a\n4 cores, EPYC"], "4 cores, EPYC"),
        (["a\n4 cores, EPYC"] * 3, "4 cores, EPYC"),
        (["a\n4 cores, EPYC", "b\n4 cores, EPYC"], "2 × 4 cores, EPYC"),
        (["a\nH100", "a\nH100", "b\nT4"], "2 × H100, T4"),
    ],
)
def test_hardware_is_counted_by_gpu_or_by_machine(described: list[str], summary: str) -> None:
    assert summarize_hardware(described) == summary


def test_this_machine_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "get_gpu_ids", list)  # without Ray, the function itself would start one
    described = describe_hardware()
    assert summarize_hardware([described] * 2) == described.split("\n")[1]


@pytest.mark.parametrize(("ids", "available", "device"), [([], True, "cpu"), ([1], True, "cuda:0")])
def test_a_process_uses_a_gpu_only_if_ray_gave_it_one(
    monkeypatch: pytest.MonkeyPatch, ids: list[int], available: bool, device: str
) -> None:
    monkeypatch.setattr(ray, "get_gpu_ids", lambda: ids)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "H100")
    assert find_device() == torch.device(device)
    assert describe_hardware().endswith("H100") == bool(ids)


@pytest.mark.parametrize(
    ("failures", "cause"),
    [
        ({}, None),
        ({0: ValueError("a bug")}, None),
        ({0: ValueError("its peer ended"), 1: ResourceError("no GPU")}, "no GPU"),
        ({0: RayTaskError("write_epoch", "trace", OutputError("disk full"))}, "disk full"),
    ],
)
def test_an_expected_error_of_a_worker_ends_the_run_in_one_line(
    failures: dict[int, Exception], cause: str | None
) -> None:
    error = ray.train.WorkerGroupError("training failed", failures)
    found = find_cause(error, "2 × (1 CPU)")
    assert isinstance(found, FerBatchError) == bool(cause)
    assert cause is None or str(found) == cause
    assert cause or found is error


def test_lost_workers_and_nodes_end_the_run_in_one_line_but_bugs_do_not() -> None:
    death = WorkerHealthCheckFailedError("dead", ActorDiedError())
    error: Exception = ray.train.WorkerGroupError("training failed", {0: ValueError("peer"), 1: death})
    assert re.fullmatch(r"Workers died 4 times, .* the same command again .*", str(find_cause(error, "")))
    error = ray.train.ControllerError(WorkerGroupStartupTimeoutError(2))
    assert str(find_cause(error, "2 × (1 CPU)")).startswith("The cluster no longer has 2 × (1 CPU); run")
    error = ray.train.ControllerError(ValueError("a bug"))
    assert find_cause(error, "") is error


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A cluster of one node with three CPUs and a logical GPU, which PyTorch does not have."""
    with connect_cluster(num_cpus=3, num_gpus=1) as cluster:
        yield cluster


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_run_waits_for_gpus_and_never_trains_on_cpus_instead(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert joins_cluster(None)
    assert summarize_hardware(wait_for_resources({"CPU": 1}, 2, can_grow=False, on_progress=ignore_status))
    one_gpu, needed = {"CPU": 1.0, "GPU": 1.0}, r"2 × \(1 CPU and 1 GPU\)"
    with pytest.raises(ResourceError, match=f"does not have {needed}, only 3 CPU and 1 GPU; give"):
        wait_for_resources(one_gpu, 2, can_grow=False, on_progress=ignore_status)

    monkeypatch.setattr(resources, "NODES_TIMEOUT_S", 1.0)
    with pytest.raises(ResourceError, match=f"did not have {needed} free within 1 s; give fewer --gpus"):
        wait_for_resources(one_gpu, 2, can_grow=True, on_progress=ignore_status)
    monkeypatch.undo()

    data = write_bars_csv(tmp_path / "bars.csv")
    config = TrainConfig.from_dict({**SMALL_RECIPE, "data": [["fer2013", str(data)]], "workers": 2})
    messages: list[StatusMessage] = []
    with ThreadPoolExecutor(1) as pool:
        out = tmp_path / "run"
        run = pool.submit(train, config, out, gpus=2, on_progress=messages.append)
        while not any(message.text.startswith("waiting until") for message in messages):
            assert not run.done()
            time.sleep(0.1)
        cluster.add_node(num_cpus=1, num_gpus=1)
        with pytest.raises(ResourceError, match=r"PyTorch cannot use the GPU that Ray has on .*--gpus 0"):
            run.result()
    assert not (out / "model.safetensors").exists()
    waiting = [message for message in messages if message.text.startswith("waiting until")]
    assert [message.transient for message in waiting] == [False]
