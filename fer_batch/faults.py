"""Fault points: named steps at which tests kill a process, or raise the error of a GPU."""

import os
import signal

_passes: dict[str, int] = {}
"""How often this process has passed each fault point."""


def fault_point(name: str) -> None:
    """Kill this process if the environment variable FER_BATCH_FAULT selects this point; else do nothing.

    The variable is `name`, or `name:N` for the N-th pass. With `name:N:STOP` the process gets SIGSTOP and
    hangs. With `name:N:CUDA` the N-th pass and all later ones raise an error like one of CUDA, which lasts
    until the process ends.
    """
    fault = os.environ.get("FER_BATCH_FAULT")
    if fault is None:
        return
    wanted_name, wanted_pass, wanted_signal = (*fault.split(":"), "", "")[:3]
    if wanted_name == name:
        _passes[name] = _passes.get(name, 0) + 1
        if wanted_signal == "CUDA":
            if _passes[name] >= int(wanted_pass):
                raise RuntimeError("CUDA error: an illegal memory access was encountered")
            return
        if _passes[name] == int(wanted_pass or 1):
            os.kill(os.getpid(), signal.Signals[f"SIG{wanted_signal or 'KILL'}"])
