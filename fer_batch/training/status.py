"""Status messages of training runs and studies, as the callback `on_progress` receives them."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class StatusMessage:
    """A line of text about a run."""

    text: str
    transient: bool = False
    """Whether the next message replaces this one, as on a terminal's status line."""


StatusCallback = Callable[[StatusMessage], None]


def ignore_status(message: StatusMessage) -> None:
    """Do nothing: the default of `on_progress`."""
