"""A fault point acts only at its name and at the given pass: it kills its process or raises."""

import os
import signal
import subprocess
import sys

import pytest

from fer_batch.faults import fault_point

SCRIPT = """
from fer_batch.faults import fault_point
for name in ("one", "two", "one"):
    fault_point(name)
    print(name, flush=True)
"""


def test_device_error_lasts_until_the_process_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FER_BATCH_FAULT", "gpu:2:CUDA")
    fault_point("gpu")
    fault_point("other")
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"^CUDA error"):
            fault_point("gpu")


@pytest.mark.parametrize(
    ("fault", "passed", "status"),
    [
        (None, "one two one", 0),
        ("", "one two one", 0),
        ("three", "one two one", 0),
        ("on", "one two one", 0),
        ("one:3", "one two one", 0),
        ("one", "", -signal.SIGKILL),
        ("one:1", "", -signal.SIGKILL),
        ("two", "one", -signal.SIGKILL),
        ("one:2", "one two", -signal.SIGKILL),
    ],
)
def test_process_dies_at_the_selected_fault_point(fault: str | None, passed: str, status: int) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "FER_BATCH_FAULT"}
    environment |= {} if fault is None else {"FER_BATCH_FAULT": fault}
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=False
    )
    assert ended.stdout.split() == passed.split()
    assert ended.returncode == status
