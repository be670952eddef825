"""Tables and lines on stdout, progress on stderr."""

import math
import re
import sys
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, TextIO

from fer_batch.terminal import escape_controls, escape_lines

if TYPE_CHECKING:
    from rich.console import Console

    from fer_batch.timeline.store import Timeline

PIPE_WIDTH = 200
"""Characters per line if stdout is not a terminal."""
MIN_TEXT_WIDTH = 12
"""Characters to which a table's columns of text are narrowed at most."""
LOG_INTERVAL_S, TERMINAL_INTERVAL_S = 10.0, 0.2
"""Seconds between two progress lines in a log file, and between two updates in a terminal."""


def make_console(file: TextIO | None = None) -> "Console":
    """Return a console on a file, by default stdout, that changes no text."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else PIPE_WIDTH
    return Console(file=file, highlight=False, markup=False, width=width)


def print_line(text: str, style: str = "") -> None:
    """Print one line, however long. Control characters are escaped, as in all functions of this module."""
    if style:
        from rich.text import Text

        make_console().print(Text(escape_controls(text), style), soft_wrap=True)
    else:
        print(escape_controls(text), flush=True)


def print_text(text: str) -> None:
    """Print a text of any number of lines."""
    print(escape_lines(text), flush=True)


def print_output(text: str) -> None:
    """Print a part of another process's output, without its colours."""
    print(escape_lines(re.sub(r"\x1b\[[\d;]*m|\r(?=\n)", "", text)), end="", flush=True)


def print_status(text: str) -> None:
    """Print one line to stderr."""
    print(escape_controls(text), file=sys.stderr, flush=True)


def print_partial(timeline: "Timeline") -> None:
    """Print to stderr which part of a run that is not finished the tables have."""
    if timeline.partial:
        print_status(str(timeline.partial))


def print_table(
    header: Sequence[str],
    rows: Iterable[Sequence[str] | None],
    *,
    title: str = "",
    left: Sequence[int] = (0,),
    file: TextIO | None = None,
) -> None:
    """Print a table, without a header if all of its cells are empty.

    Columns are aligned to the right, except those whose numbers are in `left`, whose texts are wrapped in a
    narrow terminal. All others stay whole, even if the table is wider than the terminal. A row of None is a
    rule.
    """
    from rich.measure import Measurement
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=Text(escape_controls(title), style="bold") if title else None,
        title_justify="left",
        show_header=any(header),
    )
    rows = list(rows)
    for number, heading in enumerate(header):
        cells = [heading, *(row[number] for row in rows if row is not None)]
        is_left = number in left
        table.add_column(
            Text(escape_controls(heading)),
            justify="left" if is_left else "right",
            min_width=min(max(map(len, cells)), MIN_TEXT_WIDTH) if is_left else None,
            no_wrap=not is_left,
            overflow="fold",
        )
    for row in rows:
        if row is None:
            table.add_section()
        else:
            table.add_row(*(Text(escape_controls(cell)) for cell in row))
    console = make_console(file)
    needed = Measurement.get(console, console.options.update(max_width=sys.maxsize), table).minimum
    console.width = max(console.width, needed)
    console.print(table)


def format_estimate(value: float, interval: Sequence[float] | None, spec: str = ".4f") -> str:
    """Return a value with its interval, for example "0.6310 (0.6121 to 0.6553)"."""
    ends = " to ".join(f"{end:{spec}}" for end in interval or ())
    return f"{value:{spec}}" + (f" ({ends})" if ends else "")


class ProgressLine:
    """A line on stderr that a terminal overwrites; a log file gets a line every ten seconds."""

    def __init__(self, *, is_logged: bool = True) -> None:
        self.is_terminal = sys.stderr.isatty()
        log_interval_s = LOG_INTERVAL_S if is_logged else math.inf
        self.interval_s = TERMINAL_INTERVAL_S if self.is_terminal else log_interval_s
        self.last_s = 0.0
        self.last_key = ""
        self.pending = ""

    def show(self, text: str, key: str = "") -> None:
        """Show the current progress. A log file gets it only if `key` has changed; by default the text."""
        text = escape_controls(text)
        key, now_s = key or text, time.monotonic()
        is_repeated = key == self.last_key and not self.is_terminal
        if is_repeated or now_s - self.last_s < self.interval_s:
            self.pending = text
            return
        self._write(text if self.is_terminal else f"{text}\n")
        self.last_s, self.last_key, self.pending = now_s, key, ""

    def print(self, text: str) -> None:
        """Print a line that stays."""
        self._write(f"{escape_controls(text)}\n")

    def close(self, *, keep: bool = False) -> None:
        """Remove the line from the terminal, or print the last progress as a line that stays."""
        self._write(f"{self.pending}\n" if keep and self.pending else "")

    def _write(self, text: str) -> None:
        clear = "\r\x1b[K" if self.is_terminal else ""
        print(f"{clear}{text}", end="", file=sys.stderr, flush=True)
