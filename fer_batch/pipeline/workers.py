"""What Ray's workers run. Each of them imports this: nothing of torch, which is for their children."""

import os
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa

from fer_batch.config import Limits
from fer_batch.pipeline.child import BrokenWorkerError
from fer_batch.pipeline.guard import GuardedStage
from fer_batch.run.results import process_bundles
from fer_batch.storage.folder import OutputFolder


class Worker(GuardedStage):
    """One that dies where it can't have a guarded process, as Ray tells exceptions of workers no further.

    Ray starts another. Given a folder, it writes its results there itself and hands on their ids alone: tasks
    of Ray that write cost a process each, where a node has fewer CPUs than workers and tasks.
    """

    def __init__(
        self, name: str, arguments: tuple[Any, ...], limits: Limits, results: OutputFolder | None = None
    ) -> None:
        super().__init__(name, arguments, limits)
        self.results = results

    def __call__(self, bundles: pa.Table) -> pa.Table:
        look = super().__call__
        try:
            return look(bundles) if self.results is None else process_bundles(self.results, bundles, look)
        except BrokenWorkerError as error:
            print(error, file=sys.stderr, flush=True)
            os._exit(1)


class Recognizing:
    """A worker that recognizes faces that others have found, and writes the results."""

    def __init__(self, checkpoint: Path | None, flip: bool, results: OutputFolder) -> None:
        from fer_batch.pipeline.stages import RecognizeStage

        self.stage, self.results = RecognizeStage(checkpoint, flip), results

    def __call__(self, faces: pa.Table) -> pa.Table:
        return process_bundles(self.results, faces, self.stage)
