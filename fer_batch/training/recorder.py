"""The process that writes a run's folder while the workers train.

It runs on the node of the command, where the folder is. So the workers may run on nodes that do not share
the folder, and a worker that is restarted on another node reads its state through this process.
"""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.summary import scalar

from fer_batch.storage.atomic import convert_write_error
from fer_batch.storage.folder import OutputFolder
from fer_batch.training.checkpoints import find_checkpoint, read_checkpoint, write_checkpoint
from fer_batch.training.state import EpochResult, StepProgress

TENSORBOARD_SCALARS = ("loss", "train_accuracy", "lr", "select_loss", "accuracy", "macro_f1", "seconds")


@dataclass(frozen=True, kw_only=True)
class RunProgress:
    """Progress of a run."""

    history: list[EpochResult]
    """The finished epochs."""
    step: StepProgress | None
    """Last progress within an epoch."""
    workers: int | None
    """Number of workers that train now; None before they start."""
    hardware: list[str]
    """Description of their hardware, of `resources.describe_hardware`."""


class RunRecorder:
    """Writes checkpoints, `history.json` and `tensorboard/`, and keeps the progress for the command."""

    def __init__(self, folder: OutputFolder, history: list[EpochResult]) -> None:
        self.folder, self.history = folder, history
        self.step: StepProgress | None = None
        self.workers: int | None = None
        self.hardware: dict[int, str] = {}
        self.curves = RunCurves(folder)

    def write_epoch(self, name: str, content: bytes, history: list[EpochResult]) -> None:
        """Write the checkpoint `name` and the results of all epochs so far.

        Raises OutputError if that is impossible.
        """
        with convert_write_error(self.folder):
            write_checkpoint(self.folder, name, content)
            self.folder.write_json("history.json", [row.to_dict() for row in history])
            self.curves.append(history[-1])
        self.history = history

    def find_checkpoint(self) -> str | None:
        """Return the name of the newest checkpoint; None if there is none."""
        return find_checkpoint(self.folder)

    def read_checkpoint(self, name: str) -> bytes:
        """Read the encoded state of the checkpoint `name`."""
        return read_checkpoint(self.folder, name)

    def record_worker(self, rank: int, workers: int, hardware: str) -> None:
        """Keep the hardware of one of the `workers` that have started."""
        self.workers = workers
        self.hardware[rank] = hardware

    def record_step(self, step: StepProgress) -> None:
        """Keep the progress within the current epoch."""
        self.step = step

    def get_progress(self) -> "RunProgress":
        """Return the progress so far."""
        hardware = [self.hardware[rank] for rank in range(self.workers or 0) if rank in self.hardware]
        return RunProgress(history=self.history, step=self.step, workers=self.workers, hardware=hardware)


class RunCurves:
    """A file of TensorBoard in the run's folder, with a point for each epoch."""

    def __init__(self, folder: OutputFolder) -> None:
        self.board = folder.subfolder("tensorboard")
        self.board.create()
        self.temporary = tempfile.TemporaryDirectory(prefix="tensorboard")
        self.path = self.board.path or Path(self.temporary.name)
        self.writer = EventsWriter(str(self.path / "events"))

    def append(self, row: EpochResult) -> None:
        """Add the scalars of an epoch."""
        values = row.to_dict()
        for name in TENSORBOARD_SCALARS:
            point = Event(wall_time=time.time(), step=row.epoch, summary=scalar(name, values[name]))
            self.writer.write_event(point)
        self.writer.flush()
        if self.board.path is None:  # a store has no files that grow
            for file in self.path.iterdir():
                self.board.write_bytes(file.name, file.read_bytes())


def start_recorder(folder: OutputFolder, history: list[EpochResult]) -> Any:
    """Start the recorder of a run on this node; returns its handle. Ray starts it again if it dies."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    recorder = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(RunRecorder)
    return recorder.options(scheduling_strategy=here).remote(folder.absolute(), history)
