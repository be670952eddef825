"""Dying on purpose at a named step, so that tests see what a kill there leaves behind."""

import os
import signal

_passed: dict[str, int] = {}


def fault_point(name: str) -> None:
    """Kill this process with SIGKILL where FER_BATCH_FAULT is `name`, or `name:N` at its N-th time here; with
    `name:N:STOP` it hangs instead (SIGSTOP).

    For tests only; without that variable it does nothing.
    """
    wanted = os.environ.get("FER_BATCH_FAULT")
    if wanted is None:
        return
    where, time, how = (*wanted.split(":"), "", "")[:3]
    if where == name:
        _passed[name] = _passed.get(name, 0) + 1
        if _passed[name] == int(time or 1):
            os.kill(os.getpid(), signal.Signals[f"SIG{how or 'KILL'}"])
