"""An actor that detects faces for all workers of its node on one GPU, those of many videos in one batch.

It imports torch only where it runs: the driver and the workers that ask it do not.
"""

import asyncio
import itertools
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import pyarrow as pa
import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from fer_batch.faults import fault_point
from fer_batch.pipeline.child import START_TIMEOUT_S
from fer_batch.pipeline.device_errors import describe_device_error

if TYPE_CHECKING:
    import numpy as np

    from fer_batch.vision.views import SearchView

MAX_REQUESTS = 1000
"""Most requests that a detector holds; a worker makes one at a time."""
REQUEST_TIMEOUT_S = 60.0
"""Time after which a worker searches on its CPU. For the first answer, which has to wait for the start of the
detector, it is `child.START_TIMEOUT_S`."""

Detectors = Mapping[str, list[Any]]
"""The detectors, as handles of actors, by the id of their node."""

Part = TypeVar("Part")

logger = logging.getLogger(__name__)


class Detector:
    """Run the networks for many workers: P-Net and R-Net on their views, and O-Net on their patches."""

    def __init__(self) -> None:
        import torch

        from fer_batch.vision.detect import FaceDetector

        torch.backends.cudnn.allow_tf32 = False  # faces would depend on the GPU: older ones do not have it
        self.detector = FaceDetector(device="cuda" if torch.cuda.is_available() else "cpu")
        self._views = _Batcher(self._propose_batch)
        self._patches = _Batcher(self._classify_batch)

    async def answer(self, table: pa.Table) -> pa.Table:
        """Map views to boxes, or patches to outputs of O-Net, see the schemas of `pipeline.offload`."""
        from fer_batch.pipeline.offload import decode_patches, decode_views

        if "patch" in table.column_names:
            return await self._patches.request(decode_patches(table))
        return await self._views.request(decode_views(table))

    def _propose_batch(self, parts: "list[list[SearchView]]") -> list[pa.Table]:
        from fer_batch.pipeline.offload import encode_boxes
        from fer_batch.vision.batched import propose_boxes
        from fer_batch.vision.detect import PICTURE_MAX_IOU

        fault_point("detector.batch")
        views = [view for part in parts for view in part]
        detector = self.detector
        boxes, owners = propose_boxes(views, detector.pnet, detector.rnet, detector.device, PICTURE_MAX_IOU)
        answers, first = [], 0
        for part in parts:
            own = (owners >= first) & (owners < first + len(part))
            answers.append(encode_boxes(boxes[own], owners[own] - first))
            first += len(part)
        return answers

    def _classify_batch(self, parts: "list[list[np.ndarray]]") -> list[pa.Table]:
        from fer_batch.pipeline.offload import encode_classified

        fault_point("detector.batch")
        outputs = self.detector.classify_patches([patch for part in parts for patch in part])
        lengths = [len(part) for part in parts]
        return [encode_classified(own) for own in zip(*(o.split(lengths) for o in outputs), strict=True)]


class _Batcher(Generic[Part]):
    """Answer requests in batches: those that arrive during a batch are the next batch.

    `run` returns an answer for each request. It runs in a thread, as views and patches do at the same time: a
    worker that follows faces does not wait for the views of others.
    """

    def __init__(self, run: Callable[[list[Part]], list[pa.Table]]) -> None:
        self.run = run
        self.waiting: list[tuple[Part, asyncio.Future[pa.Table]]] = []
        self._task: asyncio.Task[None] | None = None

    async def request(self, part: Part) -> pa.Table:
        future = asyncio.get_running_loop().create_future()
        self.waiting.append((part, future))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run_batches())
        return await future

    async def _run_batches(self) -> None:
        while self.waiting:
            batch, self.waiting = self.waiting, []
            try:
                answers = await asyncio.to_thread(self.run, [part for part, _ in batch])
            except Exception as error:
                if describe_device_error(error):
                    logger.error("the detector ends: %s", error)
                    os._exit(1)  # CUDA refuses all further work of this process, and others need its memory
                for _, future in batch:
                    future.set_exception(error)
            else:
                for (_, future), answer in zip(batch, answers, strict=True):
                    future.set_result(answer)


@contextmanager
def run_detectors(nodes: Iterable[Mapping[str, Any]], gpu_share: float) -> Iterator[Detectors]:
    """Run a detector on each GPU of nodes of `placement.list_nodes` with CPUs for the time of the body.

    Each has a share of a GPU, of more than half. Without a share there are no detectors.
    """
    actor = ray.remote(Detector)
    detectors: dict[str, list[Any]] = {}
    for node in nodes if gpu_share else ():
        count = int(node["Resources"].get("GPU", 0))
        if not count or not node["Resources"].get("CPU", 0):
            continue  # without CPUs, no worker there would use it
        options = actor.options(
            num_cpus=0,
            num_gpus=gpu_share,
            max_concurrency=MAX_REQUESTS,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
        )
        detectors[node["NodeID"]] = [options.remote() for _ in range(count)]
    try:
        yield detectors
    finally:
        for handle in itertools.chain.from_iterable(detectors.values()):
            ray.kill(handle)


def choose_detector(detectors: Detectors) -> "DetectorClient | None":
    """Return one of the detectors of this worker's node; None if it has none."""
    own = detectors.get(ray.get_runtime_context().get_node_id()) if detectors else None
    if not own:
        return None
    number = os.getpid() % len(own)
    return DetectorClient(own[number], number)


class DetectorClient:
    """Sends requests to a detector. Where it does not answer, the worker runs the networks on its CPU."""

    def __init__(self, detector: Any, number: int = 0) -> None:
        self.detector = detector
        self.number = number
        """Number of the detector among those of its node."""
        self.is_lost = False
        self.timeout_s = START_TIMEOUT_S

    def request(self, table: pa.Table) -> pa.Table:
        """Return what `Detector.answer` returns, or a table without columns."""
        if not self.is_lost:
            try:
                answer: pa.Table = ray.get(self.detector.answer.remote(table), timeout=self.timeout_s)
                self.timeout_s = REQUEST_TIMEOUT_S
                return answer
            except (RayError, GetTimeoutError) as error:
                reason = str(error).partition("\n")[0]
                logger.warning("faces are detected on a CPU, as the detector on the GPU fails: %s", reason)
                self.is_lost = True
        return pa.table({})
