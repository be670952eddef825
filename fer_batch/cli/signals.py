"""Stop a command on SIGTERM and Ctrl-C."""

import contextlib
import itertools
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

from fer_batch.private_folders import delete_private_folders

SIGNALS = (signal.SIGTERM, signal.SIGINT)
STOPPED = b"\nfer-batch: stopped; run the same command again to continue\n"


@contextlib.contextmanager
def stop_on_signals() -> Iterator[None]:
    """End this process and all processes that it started at once on SIGTERM (143) and Ctrl-C (130).

    Finished work is in files; a run repeats the rest. A thread watches for the signals, because Python's own
    handlers wait for native code to return, and Ray replaces them.
    """
    stderr = os.dup(2)  # Ray closes the original when it starts
    receiver, sender = socket.socketpair()
    sender.setblocking(False)

    def watch() -> None:
        while number := receiver.recv(1):
            if number[0] in SIGNALS:
                _stop(number[0], stderr)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        with _handle_signals(lambda *_: None, sender.fileno()):
            yield
    finally:
        sender.close()
        watcher.join()
        receiver.close()
        os.close(stderr)


@contextlib.contextmanager
def leave_on_signals(message: str) -> Iterator[None]:
    """Print a message and end this process alone on SIGTERM and Ctrl-C."""

    def leave(number: int, frame: object) -> None:
        os.write(2, message.encode())
        os._exit(128 + number)

    with _handle_signals(leave, -1):  # without the watcher of `stop_on_signals`
        yield


@contextlib.contextmanager
def _handle_signals(handler: Callable[[int, object], None], wakeup: int) -> Iterator[None]:
    """Set the handler, and the file descriptor that receives numbers of signals, in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.signal(number, handler) for number in SIGNALS}
    previous = signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(previous, warn_on_full_buffer=False)
        for number, earlier in handlers.items():
            signal.signal(number, earlier)


def _stop(number: int, stderr: int) -> NoReturn:
    # Some processes do not end by themselves at once, and a worker could still write a result.
    for pid in _stop_descendants(os.getpid()):
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    delete_private_folders()
    with contextlib.suppress(OSError):
        os.write(stderr, STOPPED)
    os._exit(128 + number)


def _stop_descendants(pid: int) -> Iterator[int]:
    """Yield all descendants of a process, each suspended so that it cannot start another one."""
    with contextlib.suppress(OSError):  # the process has ended
        children = [path.read_text().split() for path in Path(f"/proc/{pid}/task").glob("*/children")]
        for child in map(int, itertools.chain(*children)):
            with contextlib.suppress(OSError):
                os.kill(child, signal.SIGSTOP)
            yield from _stop_descendants(child)
            yield child
