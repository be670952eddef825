"""Tables and lines on stdout, progress on stderr."""

import sys
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console

PIPE_WIDTH = 200
"""Characters per line if stdout is not a terminal."""
LOG_INTERVAL_S, TERMINAL_INTERVAL_S = 10.0, 0.2
"""Seconds between two progress lines in a log file, and between two updates in a terminal."""


def make_console(file: TextIO | None = None) -> "Console":
    """Return a console on a file, by default stdout, that changes no text."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else PIPE_WIDTH
    return Console(file=file, highlight=False, markup=False, width=width)


def print_line(text: str, style: str = "") -> None:
    """Print one line, however long."""
    make_console().print(text, style=style, soft_wrap=True)


def print_status(text: str) -> None:
    """Print one line to stderr."""
    print(text, file=sys.stderr, flush=True)


def print_table(
    header: Sequence[str],
    rows: Iterable[Sequence[str] | None],
    *,
    title: str = "",
    left: Sequence[int] = (0,),
    file: TextIO | None = None,
) -> None:
    """Print a table, without a header if all of its cells are empty.

    Columns are aligned to the right, except those whose numbers are in `left`. A row of None is a rule.
    """
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=Text(title, style="bold") if title else None, title_justify="left", show_header=any(header)
    )
    for number, heading in enumerate(header):
        table.add_column(Text(heading), justify="left" if number in left else "right")
    for row in rows:
        if row is None:
            table.add_section()
        else:
            table.add_row(*map(Text, row))
    make_console(file).print(table)


def count(number: int, noun: str) -> str:
    """Return a number with its noun in the singular or plural."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


class ProgressLine:
    """A line on stderr that a terminal overwrites; a log file gets a line every ten seconds."""

    def __init__(self, *, is_logged: bool = True) -> None:
        self.is_terminal = sys.stderr.isatty()
        self.is_logged = is_logged
        self.last_s = 0.0
        self.last_key = ""
        self.pending = ""

    def show(self, text: str, key: str = "") -> None:
        """Show the current progress. A log file gets it only if `key` has changed; by default the text."""
        key, now_s = key or text, time.monotonic()
        self.pending = text
        if not self.is_terminal and not self.is_logged:
            return
        if now_s - self.last_s < (TERMINAL_INTERVAL_S if self.is_terminal else LOG_INTERVAL_S):
            return
        if self.is_terminal:
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
        elif key != self.last_key:
            print(text, file=sys.stderr, flush=True)
        else:
            return
        self.last_s, self.last_key, self.pending = now_s, key, ""

    def print(self, text: str) -> None:
        """Print a line that stays."""
        print(f"{self._clear()}{text}", file=sys.stderr, flush=True)

    def close(self, *, keep: bool = False) -> None:
        """Remove the line from the terminal, or print the last progress as a line that stays."""
        if keep and self.pending and (self.is_logged or self.is_terminal):
            self.print(self.pending)
        elif self.is_terminal:
            print(self._clear(), end="", file=sys.stderr, flush=True)
        self.pending = ""

    def _clear(self) -> str:
        return "\r\x1b[K" if self.is_terminal else ""
