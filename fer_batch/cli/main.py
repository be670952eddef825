"""`fer-batch`: the command line. Each command is a module beside this one."""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import NoReturn

from fer_batch.cli import analyze, bench, crossval, evaluate, query, train
from fer_batch.errors import FerBatchError


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see `{self.prog} --help`\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code: 0 done, 2 for what the user can mend, 130 when interrupted."""
    parser = _Parser(
        prog="fer-batch",
        description="Archives of video to emotion timelines: expressions as a model sees them, on Ray.",
        epilog="Start with `fer-batch demo`. What the model sees is an expression, not what a person feels.",
    )
    parser.add_argument("--version", action="version", version=f"fer-batch {version('fer-batch')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)
    for module in (analyze, query, bench, train, evaluate, crossval):
        module.add_commands(commands)
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        options.parser.error(f"unknown: {' '.join(unknown)}")
    if not getattr(options, "verbose", False):
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # read when ray is first imported
    try:
        return int(options.run(options) or 0)
    except FerBatchError as error:
        print("fer-batch:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nfer-batch: stopped; the same command goes on from here", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


if __name__ == "__main__":
    sys.exit(main())
