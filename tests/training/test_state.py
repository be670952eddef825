"""The state of a training that is continued."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from fer_batch.errors import CheckpointError
from fer_batch.training.state import decode_state


class Trap:
    """Unpickling this object creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("kind", ["pickle", "torch file", "other tensors", "other bytes", "empty"])
def test_unusable_state_raises_an_error_that_names_it(tmp_path: Path, kind: str) -> None:
    path, trap = tmp_path / "state.pt", Trap(tmp_path / "executed")
    if kind == "torch file":
        torch.save({"module": trap}, path)
    elif kind == "other tensors":
        torch.save({"weight": torch.zeros(3)}, path)
    else:
        path.write_bytes({"pickle": pickle.dumps(trap), "other bytes": b"abc", "empty": b""}[kind])
    with pytest.raises(CheckpointError, match=r"state\.pt is not the state of a training"):
        decode_state(path.read_bytes(), str(path))
    assert not trap.path.exists()
