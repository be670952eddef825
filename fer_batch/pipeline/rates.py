"""Measure how many faces a GPU of the cluster recognizes per second."""

import logging
from collections.abc import Mapping
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError

from fer_batch.config import Limits
from fer_batch.pipeline.child import BrokenWorkerError, CallFailedError
from fer_batch.pipeline.guard import GuardedRecognizer

MEASURE_TIMEOUT_S = 120.0
"""Time limit, with the wait for a free GPU and the start of the process."""

logger = logging.getLogger(__name__)


def measure_recognition(
    arguments: tuple[Any, ...], limits: Limits, gpu_share: float, nodes: Mapping[str, str] | None
) -> float | None:
    """Return the faces that a `stages.RecognizeStage` of these arguments recognizes per second on a GPU.

    It runs on one of the nodes with these labels, with a share of a GPU. Returns None where that fails: a
    worker will meet the same fault, and report it.
    """
    measure = ray.remote(num_cpus=0, num_gpus=gpu_share, max_retries=0)(_measure)
    task = measure.options(label_selector=nodes).remote(arguments, limits)
    try:
        return float(ray.get(task, timeout=MEASURE_TIMEOUT_S))
    except (GetTimeoutError, RayError, BrokenWorkerError, CallFailedError) as error:
        logger.info("the rate of recognition cannot be measured: %s", error)
        ray.cancel(task, force=True)
        return None


def _measure(arguments: tuple[Any, ...], limits: Limits) -> float:
    child = GuardedRecognizer(arguments, limits, gpu=True).child
    try:
        return float(child.call("measure_rate").column("faces_per_s")[0].as_py())
    finally:
        child.close()
