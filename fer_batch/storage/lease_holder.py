"""The content of a lease file: which process holds it."""

import json
import os
import socket
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fer_batch.errors import OutputError
from fer_batch.storage.folder import OutputFolder


def describe_process(command: str) -> dict[str, Any]:
    """Return the content of a lease: host, process, command and start time."""
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "command": command,
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def is_dead_process(content: Any) -> bool:
    """Return whether a lease's content names a process of this host that has ended."""
    return content["host"] == socket.gethostname() and not Path(f"/proc/{content['pid']}").exists()


def describe_holder(folder: OutputFolder, name: str) -> str:
    """Describe the holder of the lease file `name` from its content."""
    time.sleep(0.1)  # a process that has just locked the file is still writing it
    try:
        content = json.loads(folder.read_bytes(name))
        return (
            f"`fer-batch {content['command']}` has written there since {content['since']} "
            f"(process {content['pid']} on {content['host']})"
        )
    except (OSError, ValueError, KeyError, TypeError):
        return "another run writes there"


def lease_error(folder: OutputFolder, name: str) -> OutputError:
    """Return the error for a lease that another run holds."""
    return OutputError(
        f"{folder} is in use: {describe_holder(folder, name)}; wait until it ends, or stop it, and run the "
        "same command again"
    )
