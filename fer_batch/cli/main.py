"""The program `fer-batch`. Each command is a function in a module beside this one."""

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

# The first import removes the working directory from the import path. Importing a module registers its
# commands, so the order is that of the help text.
# isort: off
from fer_batch.cli import import_path  # noqa: F401
from fer_batch.cli import analyze, plan, bench, verify  # noqa: F401
from fer_batch.cli import query, ask, people, assign, export, look, live  # noqa: F401
from fer_batch.cli import explore, models, train, tune, evaluate, crossval, explain, export_model  # noqa: F401
from fer_batch.cli import submit, completion  # noqa: F401

# isort: on
from fer_batch.cli.app import explain_error, parse_command
from fer_batch.cli.output import print_status
from fer_batch.cli.signals import stop_on_signals
from fer_batch.errors import FerBatchError, convert_disk_error
from fer_batch.logs import LEVEL_VARIABLE, show_log
from fer_batch.storage.addresses import check_no_secrets

VALUE = re.compile(r"^(--?[\w-]+=)?([\w.-]+=)?", re.ASCII)
"""What may stand before an address in an argument: --OPTION= and NAME=."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code: 0 for success, 2 for an error that the user can correct.

    SIGTERM ends the process at once with 143, Ctrl-C with 130.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    if arguments is None:  # the process is this program's own
        _use_utf8_names()
        os.environ["PYTHONSAFEPATH"] = "1"  # libraries may start Python, too
    with stop_on_signals():
        return _run(words)


def _use_utf8_names() -> None:
    """Start this program again in the UTF-8 mode of Python if file names have another encoding.

    In a locale such as LC_ALL=C with PYTHONUTF8=0, Python cannot open files with other names than ASCII.
    """
    if sys.getfilesystemencoding() != "utf-8" and os.environ.get("PYTHONUTF8") != "1":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, sys.orig_argv)


def _run(words: list[str]) -> int:
    out = ""
    try:
        _check_no_secrets(words)
        command, bound = parse_command(words)
        out = bound.arguments.get("out", "")
        if "--verbose" in words:
            os.environ[LEVEL_VARIABLE] = "INFO"  # the processes that read videos inherit it
        else:
            os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # Ray reads it when it is imported
        show_log()
        return int(command(*bound.args, **bound.kwargs) or 0)
    except FerBatchError as error:
        return _print_error(error, words)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        disk_error = convert_disk_error(error, None if "://" in str(out) else Path(out))
        if disk_error is None:
            raise
        return _print_error(disk_error, words)


def _check_no_secrets(words: list[str]) -> None:
    """Raise InputError for an address with a secret in any argument, before another message shows it."""
    for word in words:
        check_no_secrets(VALUE.sub("", word, count=1))


def _print_error(error: FerBatchError, words: list[str]) -> int:
    print_status(explain_error(error, words))
    return 2


if __name__ == "__main__":
    sys.exit(main())
