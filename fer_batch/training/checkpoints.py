"""The state of a run after its last epochs, in the run's folder: `checkpoint_000012/state.pt` after epoch 12.

Ray Train records the checkpoints that workers report, restarts workers from the last one, and deletes old
ones. Its list of them is rewritten in place, and a kill at that moment damages it. So a continued run does
not read the list: each state is written atomically, and the newest one counts.
"""

import pyarrow.fs
import ray.train

from fer_batch.storage.folder import OutputFolder
from fer_batch.storage.stores import open_filesystem
from fer_batch.training.state import TrainState, decode_state

PREFIX = "checkpoint_"
STATE_FILE = "state.pt"
RAY_LIST = "checkpoint_manager_snapshot.json"
"""Ray Train's list of checkpoints."""


def name_checkpoint(epoch: int) -> str:
    """Return the name of the checkpoint after an epoch, which is counted from 1."""
    return f"{PREFIX}{epoch:06d}"


def write_checkpoint(folder: OutputFolder, name: str, content: bytes) -> None:
    """Write an encoded state as the checkpoint `name`, atomically."""
    checkpoint = folder.subfolder(name)
    checkpoint.create()
    checkpoint.write_bytes(STATE_FILE, content, "checkpoint")


def read_checkpoint(folder: OutputFolder, name: str) -> bytes:
    """Read the encoded state of the checkpoint `name`."""
    return folder.read_bytes(f"{name}/{STATE_FILE}")


def find_checkpoint(folder: OutputFolder) -> str | None:
    """Return the name of the newest checkpoint; None if there is none."""
    files = folder.find_names(f"{PREFIX}*/{STATE_FILE}")
    return max((file.partition("/")[0] for file in files), default=None)


def read_last_state(folder: OutputFolder) -> TrainState | None:
    """Read the state of the newest checkpoint; None if there is none.

    Raises CheckpointError if it is not the state of a training.
    """
    name = find_checkpoint(folder)
    if name is None:
        return None
    return decode_state(read_checkpoint(folder, name), f"{folder}/{name}/{STATE_FILE}")


def remove_old_checkpoints(folder: OutputFolder) -> None:
    """Remove all checkpoints but the newest, and Ray Train's list of them."""
    last = find_checkpoint(folder)
    for name in folder.list_names():
        if name.startswith(PREFIX) and name not in (last, RAY_LIST):
            folder.remove_folder(name)
    folder.remove_file(RAY_LIST)


def locate_storage(folder: OutputFolder) -> tuple[pyarrow.fs.FileSystem, str]:
    """Return the file system of a folder as Arrow's, and the path in it, as Ray Train needs them."""
    if folder.path is not None:
        return pyarrow.fs.LocalFileSystem(), folder.path.absolute().as_posix()
    filesystem, path = open_filesystem(str(folder))
    return pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(filesystem)), path


def locate_checkpoint(storage: tuple[pyarrow.fs.FileSystem, str], name: str) -> ray.train.Checkpoint:
    """Return the checkpoint `name` as Ray Train refers to it."""
    filesystem, path = storage
    return ray.train.Checkpoint(f"{path}/{name}", filesystem)
