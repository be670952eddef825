"""`fer-batch`: the command line. Each command is a module beside this one."""

import argparse
import contextlib
import itertools
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

from fer_batch.cli import (
    analyze,
    ask,
    assign,
    bench,
    crossval,
    evaluate,
    explain,
    explore,
    export,
    forget,
    models,
    overlay,
    plan,
    plot,
    query,
    report,
    submit,
    train,
    tune,
    verify,
    view,
)
from fer_batch.cli.completion import INSTALL, SHELLS, PrintCompletion
from fer_batch.errors import FerBatchError, convert_disk_error


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see `{self.prog} --help`\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code: 0 done, 2 for what the user can mend.

    SIGTERM ends the process at once with 143, Ctrl-C with 130.
    """
    with _stopped_by_signals():
        return _command(arguments)


def _command(arguments: Sequence[str] | None) -> int:
    parser = _Parser(
        prog="fer-batch",
        description="Archives of video to emotion timelines: expressions as a model sees them, on Ray.",
        epilog="Start with `fer-batch demo`. What the model sees is an expression, not what a person feels."
        f"\n\n{INSTALL}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"fer-batch {version('fer-batch')}")
    parser.add_argument(
        "--print-completion", action=PrintCompletion, choices=SHELLS, help="a script for a shell (see below)"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)
    for module in (
        analyze,
        plan,
        query,
        ask,
        assign,
        plot,
        export,
        view,
        report,
        overlay,
        verify,
        forget,
        bench,
        models,
        explore,
        train,
        tune,
        evaluate,
        explain,
        crossval,
        submit,
    ):
        module.add_commands(commands)
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        options, unknown = parser.parse_known_args(words, argparse.Namespace(words=words))
    except FerBatchError as error:
        return _told(error)
    if unknown:
        options.parser.error(f"unknown: {' '.join(unknown)}")
    if not getattr(options, "verbose", False):
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # read when ray is first imported
    try:
        return int(options.run(options) or 0)
    except FerBatchError as error:
        return _told(error)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        full = convert_disk_error(error, _output_path(options))
        if full is None:
            raise
        return _told(full)


def _output_path(options: argparse.Namespace) -> Path | None:
    """Return the local folder that a command writes to, None for a folder in a store."""
    out = getattr(options, "out", None) or Path()
    return out if isinstance(out, Path) else getattr(out, "path", None)


def _told(error: FerBatchError) -> int:
    """The exit code for what the user can mend, which is told in a line."""
    print("fer-batch:", " ".join(str(error).split()), file=sys.stderr)
    return 2


@contextlib.contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """SIGTERM and Ctrl-C end this process and all that it started, at once, whatever it is doing: what is
    done stands in files, and the rest is done again.

    A thread does it, as Python's own handlers wait for as long as native code runs, and Ray sets one too.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    said = os.dup(2)  # Ray's start closes the other
    told, tell = socket.socketpair()
    tell.setblocking(False)

    def watch() -> None:
        while number := told.recv(1):
            if number[0] in (signal.SIGTERM, signal.SIGINT):
                _stop(number[0], said)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
    woken = signal.set_wakeup_fd(tell.fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(woken)
        for number, handler in before.items():
            signal.signal(number, handler)
        tell.close()
        watcher.join()
        told.close()
        os.close(said)


def _stop(number: int, said: int) -> NoReturn:
    """End all processes below this one, and this one."""
    # Not all would end by themselves at once, and a worker could still write a result.
    for pid in _descendants(os.getpid()):
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(OSError):
        os.write(said, b"\nfer-batch: stopped; the same command goes on from here\n")
    os._exit(128 + number)


def _descendants(pid: int) -> Iterator[int]:
    """The processes that a process has started, and those that they have, stopped so that none is added."""
    with contextlib.suppress(OSError):  # it has ended meanwhile
        children = [path.read_text().split() for path in Path(f"/proc/{pid}/task").glob("*/children")]
        for child in map(int, itertools.chain(*children)):
            with contextlib.suppress(OSError):
                os.kill(child, signal.SIGSTOP)
            yield from _descendants(child)
            yield child


if __name__ == "__main__":
    sys.exit(main())
