"""Workers on Ray report how far they are in unfinished bundles, through Ray's control plane.

A result file exists only when a bundle is finished, which takes minutes. An actor that collects the reports
would be one more process to start.
"""

import contextlib
import json
import logging
from collections.abc import Iterator

import pyarrow as pa
import ray

from fer_batch.pipeline.workers import GuardedWorker
from fer_batch.ray_internals import delete_values, list_values, put_value
from fer_batch.timing import call_periodically

REPORT_INTERVAL_S = 2.0
"""Interval between two reports of a worker."""

logger = logging.getLogger(__name__)


class ReportingWorker(GuardedWorker):
    """A worker on Ray that reports the seconds of video that it has read of the bundle in work."""

    def __call__(self, bundles: pa.Table) -> pa.Table:
        with call_periodically(self._report, REPORT_INTERVAL_S):
            return super().__call__(bundles)

    def _report(self) -> None:
        worker_id = ray.get_runtime_context().get_worker_id()
        with _ignore_outage():
            put_value(_name_job() + worker_id, json.dumps(self.measure_running_s()))


def measure_running_s() -> dict[str, float]:
    """Return the seconds of video that the workers of this job have read of each bundle in work.

    It is empty while Ray's control plane does not answer.
    """
    running_s: dict[str, float] = {}
    with _ignore_outage():
        for report in list_values(_name_job()):
            running_s |= json.loads(report)
    return running_s


@contextlib.contextmanager
def delete_reports() -> Iterator[None]:
    """Delete the reports of this job after the body, because a cluster outlives its jobs."""
    try:
        yield
    finally:
        with _ignore_outage():
            delete_values(_name_job())


def _name_job() -> str:
    return f"progress/{ray.get_runtime_context().get_job_id()}/"


@contextlib.contextmanager
def _ignore_outage() -> Iterator[None]:
    """Ignore a control plane that does not answer. The work continues; a later report replaces this one."""
    try:
        yield
    except ray.exceptions.RayError as error:
        logger.debug("progress is not reported: %s", error)
