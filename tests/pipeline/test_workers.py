"""A worker leaves bundles unfinished that it cannot process, and does not raise."""

from pathlib import Path

import pyarrow as pa
import pytest

from fer_batch.config import AnalyzeConfig, Limits
from fer_batch.pipeline import detector
from fer_batch.pipeline.child import BrokenNodeError, BrokenWorkerError, DeviceError
from fer_batch.pipeline.detector import DetectorClient
from fer_batch.pipeline.guard import GuardedStage
from fer_batch.pipeline.workers import FINISHED, MAX_DEVICE_FAILURES, GuardedWorker, StageWorker
from fer_batch.run.attempts import BrokenNode
from fer_batch.storage.local_folder import LocalFolder


class ScriptedStage(GuardedStage):
    """A stage whose calls end as the test says; no process is started."""

    def __init__(self) -> None:
        super().__init__("AnalyzeStage", (), Limits())
        self.child.start = self.start  # type: ignore[method-assign]
        self.start_error: Exception | None = None
        self.errors: list[Exception | None] = []
        self.bundles: list[str] = []

    def start(self) -> None:
        if self.start_error:
            raise self.start_error

    def process(self, bundles: pa.Table) -> pa.Table:
        self.bundles += bundles.column("bundle_id").to_pylist()
        if error := self.errors.pop(0) if self.errors else None:
            raise error
        return bundles


@pytest.fixture
def stage() -> ScriptedStage:
    return ScriptedStage()


@pytest.fixture
def worker(stage: ScriptedStage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StageWorker:
    def describe_node(worker: StageWorker, reason: str) -> BrokenNode:
        return BrokenNode(node_id="1f", address="10.0.0.1", reason=reason)

    monkeypatch.setattr(StageWorker, "describe_node", describe_node)
    return StageWorker("analyze", stage, stage.process, FINISHED, LocalFolder(tmp_path))


def make_device_error(reason: str) -> BrokenWorkerError:
    error = BrokenWorkerError(reason)
    error.__cause__ = DeviceError(reason)
    return error


def process(worker: StageWorker, *bundle_ids: str) -> list[str]:
    rows = worker(pa.table({"bundle_id": pa.array(bundle_ids, pa.string())})).column("bundle_id").to_pylist()
    return [str(row) for row in rows]


def test_finished_bundles_are_returned_and_have_no_attempts(worker: StageWorker) -> None:
    assert process(worker) == []
    assert process(worker, "a", "b") == ["a", "b"]
    assert worker.attempts.count_attempts() == 0


def test_node_is_broken_after_device_errors_in_a_row(worker: StageWorker, stage: ScriptedStage) -> None:
    failures: list[Exception | None] = [make_device_error("CUDA error")] * (MAX_DEVICE_FAILURES - 1)
    stage.errors = [*failures, None, *failures, make_device_error("last")]
    assert process(worker, *"abcdefgh") == ["c"]
    assert stage.bundles == [*"abcdef"]
    assert worker.attempts.count_attempts() == 5
    assert {node.reason for node in worker.attempts.list_broken_nodes().values()} == {"last"}


def test_other_failures_are_not_the_nodes(worker: StageWorker, stage: ScriptedStage) -> None:
    stage.errors = [BrokenWorkerError("faces cannot be recognized: it needs more than 1 GB of memory")] * 7
    assert process(worker, *"abcdefgh") == ["h"]
    assert worker.attempts.list_broken_nodes() == {}
    assert worker.attempts.count_attempts() == 7


def test_node_is_broken_where_no_process_starts(worker: StageWorker, stage: ScriptedStage) -> None:
    stage.start_error = BrokenNodeError("CUDA error: no kernel image")
    assert process(worker, "a", "b") == []
    assert stage.bundles == []
    assert worker.attempts.count_attempts() == 0
    assert worker.attempts.list_broken_nodes()["1f"].reason == "CUDA error: no kernel image"


@pytest.mark.parametrize(
    ("name", "is_wanted", "has_detector", "gpu"),
    [
        pytest.param("FacesStage", True, True, 3, id="the GPU of the detector"),
        pytest.param("FacesStage", False, True, None, id="not wanted"),
        pytest.param("FacesStage", True, False, None, id="a node without detectors"),
        pytest.param("AnalyzeStage", True, True, None, id="recognition would run on the GPU"),
    ],
)
def test_workers_decode_on_the_gpu_of_their_detector(
    name: str,
    is_wanted: bool,
    has_detector: bool,
    gpu: int | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(detector, "choose_detector", lambda detectors: detectors["own node"][0])
    detectors = {"own node": [DetectorClient(None, 3)]} if has_detector else {}
    given = (AnalyzeConfig(hardware_decoding=is_wanted), 0.96, 0)
    child = GuardedWorker(name, given, Limits(), {}, LocalFolder(tmp_path), detectors).stage.child
    assert child.arguments == (*given, *([True] if has_detector else []), *([] if gpu is None else [gpu]))
    assert child.gpu == (gpu is not None)
