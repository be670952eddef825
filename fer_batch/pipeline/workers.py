"""The classes that workers run, on Ray or in threads of the driver.

They do not import torch, which only their child processes need, and Ray only where it runs.
"""

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from fer_batch.config import Limits
from fer_batch.pipeline.child import BrokenNodeError, BrokenWorkerError, DeviceError
from fer_batch.pipeline.guard import GuardedRecognizer, GuardedStage
from fer_batch.run.attempts import AttemptLog, BrokenNode
from fer_batch.run.results import process_bundles
from fer_batch.schema import FACES_SCHEMA, bundle_schema
from fer_batch.storage.addresses import remember_queries
from fer_batch.storage.folder import OutputFolder

if TYPE_CHECKING:
    from fer_batch.pipeline.detector import DetectorClient, Detectors

MAX_DEVICE_FAILURES = 3
"""Bundles in a row that a worker cannot process because of a GPU, after which its node counts as broken."""
FINISHED = pa.schema([pa.field("bundle_id", pa.string())])
"""What a stage that writes results returns to Ray: the ids of the bundles."""

logger = logging.getLogger(__name__)


class StageWorker:
    """Run a guarded stage and record its attempts at each bundle.

    A bundle that cannot be processed here stays unfinished: the worker returns nothing for it, and the driver
    runs the stages again for such bundles. An exception would end the whole run instead. On a node that is
    broken, the worker returns nothing for any bundle, so that the driver can soon start without this node.
    """

    def __init__(
        self,
        name: str,
        stage: GuardedStage | GuardedRecognizer,
        process: Callable[[pa.Table], pa.Table],
        schema: pa.Schema,
        results: OutputFolder,
    ) -> None:
        self.name, self.stage, self.process, self.schema = name, stage, process, schema
        self.attempts = AttemptLog(results)
        self.device_failures = 0
        self.is_broken = False
        self.bundle_id: str | None = None
        """The bundle in work."""

    def __call__(self, bundles: pa.Table) -> pa.Table:
        outputs = [self.schema.empty_table()]
        for number in range(len(bundles)):
            outputs += self._try_bundle(bundles.slice(number, 1))
        return pa.concat_tables(outputs)

    def _try_bundle(self, bundle: pa.Table) -> list[pa.Table]:
        """Return the output for a bundle in a list; an empty list where it stays unfinished."""
        bundle_id = bundle.column("bundle_id")[0].as_py()
        if self.is_broken or not self._start_child() or not self.attempts.begin(bundle_id, self.name):
            return []
        self.bundle_id = bundle_id
        try:
            output = self.process(bundle)
        except BrokenWorkerError as error:
            logger.warning("bundle %s cannot be processed here: %s", bundle_id, error)
            self.attempts.fail(bundle_id, self.name, str(error))
            self.device_failures += isinstance(error.__cause__, DeviceError)
            if isinstance(error, BrokenNodeError) or self.device_failures == MAX_DEVICE_FAILURES:
                self._leave_node(str(error))
            return []
        finally:
            self.bundle_id = None
        self.device_failures = 0
        self.attempts.finish(bundle_id, self.name)
        return [output]

    def _start_child(self) -> bool:
        """Return whether a child runs."""
        try:
            self.stage.child.start()
        except BrokenNodeError as error:
            self._leave_node(str(error))
            return False
        return True

    def _leave_node(self, reason: str) -> None:
        """Record that this node is broken, and process nothing any more."""
        self.is_broken = True
        self.stage.child.close()
        self.attempts.add_broken_node(self.describe_node(reason))

    def describe_node(self, reason: str) -> BrokenNode:
        """Describe the node of this worker, which is broken."""
        import ray

        node_id = ray.get_runtime_context().get_node_id()
        return BrokenNode(node_id=node_id, address=ray.util.get_node_ip_address(), reason=reason)


class GuardedWorker(StageWorker):
    """A worker that finds faces: the stage `name` of `pipeline.stages`, "AnalyzeStage" or "FacesStage".

    AnalyzeStage also recognizes the faces: the worker writes the result files to the folder `results` and
    returns only the ids of the bundles. A write task of Ray Data would need a process of its own on each
    node. `queries` are those of web addresses. The stage uses one of the `detectors` of its node.
    """

    stage: GuardedStage

    def __init__(
        self,
        name: str,
        arguments: tuple[Any, ...],
        limits: Limits,
        queries: Mapping[str, str],
        results: OutputFolder,
        detectors: "Detectors | None" = None,
    ) -> None:
        remember_queries(queries)
        detector = _choose_detector(detectors)
        if detector:
            # Recognition would run on any GPU that its process sees.
            decodes_on_gpu = arguments[0].hardware_decoding and name == "FacesStage"
            gpu = (detector.number,) if decodes_on_gpu else ()
            stage = GuardedStage(name, (*arguments, True, *gpu), limits, bool(gpu))
            stage.child.answer = detector.request
        else:
            stage = GuardedStage(name, arguments, limits)
        if stage.recognizes:
            super().__init__("analyze", stage, _write_results(stage, results), FINISHED, results)
        else:
            super().__init__("faces", stage, stage, bundle_schema(FACES_SCHEMA), results)

    def measure_running_s(self) -> dict[str, float]:
        """Return the seconds of video that have been read of the bundle in work. Any thread may call it."""
        bundle_id = self.bundle_id
        return {bundle_id: self.stage.count_analyzed_s()} if bundle_id else {}


class RecognizeWorker(StageWorker):
    """A worker that recognizes the faces that other workers found, and writes the result files."""

    def __init__(self, arguments: tuple[Any, ...], limits: Limits, results: OutputFolder, gpu: bool) -> None:
        stage = GuardedRecognizer(arguments, limits, gpu)
        super().__init__("recognize", stage, _write_results(stage, results), FINISHED, results)


def _write_results(
    stage: GuardedStage | GuardedRecognizer, results: OutputFolder
) -> Callable[[pa.Table], pa.Table]:
    return lambda bundles: process_bundles(results, bundles, stage)


def _choose_detector(detectors: "Detectors | None") -> "DetectorClient | None":
    if not detectors:
        return None
    from fer_batch.pipeline.detector import choose_detector

    return choose_detector(detectors)
