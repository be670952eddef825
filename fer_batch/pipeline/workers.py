"""The classes that Ray's workers run. They do not import torch: their child processes do."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from fer_batch.config import Limits
from fer_batch.pipeline.child import BrokenWorkerError
from fer_batch.pipeline.guard import GuardedStage
from fer_batch.run.results import process_bundles
from fer_batch.storage.addresses import remember_queries
from fer_batch.storage.folder import OutputFolder

logger = logging.getLogger(__name__)


class GuardedWorker(GuardedStage):
    """A guarded stage that ends its Ray worker where no child process can work; Ray starts another worker.

    With `results`, it writes the result files to that folder and returns only the ids of the bundles. A write
    task of Ray Data would need a process of its own on each node. `queries` are those of web addresses.
    """

    def __init__(
        self,
        name: str,
        arguments: tuple[Any, ...],
        limits: Limits,
        queries: Mapping[str, str],
        results: OutputFolder | None = None,
        gpu: bool = False,
    ) -> None:
        remember_queries(queries)
        super().__init__(name, arguments, limits, gpu)
        self.results = results

    def __call__(self, bundles: pa.Table) -> pa.Table:
        try:
            if self.results is None:
                return super().__call__(bundles)
            return process_bundles(self.results, bundles, super().__call__)
        except BrokenWorkerError as error:  # Ray Data would end the run on an exception
            logger.error("%s", error)
            os._exit(1)


class RecognizeWorker:
    """A worker that recognizes the faces that other workers found, and writes the result files."""

    def __init__(self, checkpoint: Path | None, flip: bool, results: OutputFolder) -> None:
        from fer_batch.pipeline.stages import RecognizeStage

        self.stage, self.results = RecognizeStage(checkpoint, flip), results

    def __call__(self, faces: pa.Table) -> pa.Table:
        return process_bundles(self.results, faces, self.stage)
