"""`--print-completion`: what makes a shell complete commands, options and paths."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fer_batch.storage.folder import open_folder
from fer_batch.storage.paths import parse_file_path

SHELLS = ("bash", "zsh", "tcsh")
FOLDERS = {"OUT", "RUN", "DIR", "REPORT"}
"""Metavars of arguments that are folders."""
FILES = {"FILE", "VIDEO", "VIDEOS", "CHECKPOINT"}
"""Metavars of text arguments that may be files."""

INSTALL = """\
completion of commands, options and paths, for shells that are started afterwards; again after an update:
  fer-batch --print-completion bash > ~/.fer-batch.bash && echo 'source ~/.fer-batch.bash' >> ~/.bashrc
  fer-batch --print-completion zsh > "${fpath[1]}/_fer-batch"
  fer-batch --print-completion tcsh > ~/.fer-batch.csh && echo 'source ~/.fer-batch.csh' >> ~/.tcshrc"""
"""How the help says that it is installed."""


class PrintCompletion(argparse.Action):
    """Print the script of a shell and end."""

    def __call__(self, parser: argparse.ArgumentParser, _options: Any, shell: Any, _name: Any = None) -> None:
        """Print it for the parser that has this option."""
        import shtab  # its 0.1 s are no other command's

        for action in _actions(parser):
            if action.metavar in FOLDERS or action.type is open_folder:
                action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
            elif action.metavar in FILES or action.type in (Path, parse_file_path):
                action.complete = shtab.FILE  # type: ignore[attr-defined]
        print(shtab.complete(parser, shell=shell))
        parser.exit()


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """The arguments of a parser and of its commands."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)
        else:
            yield action
