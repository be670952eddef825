"""Progress of a training run or study, as the callback `on_progress` receives it."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class StatusMessage:
    """A line of text about a run."""

    text: str
    transient: bool = False
    """Whether the next message replaces this one, as on a terminal's status line."""


OnProgress = Callable[[StatusMessage], None]


def ignore_progress(message: StatusMessage) -> None:
    """Do nothing: the default of `on_progress`."""
