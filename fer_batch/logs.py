"""The log of the package on stderr, in the command line and in the processes that it starts."""

import logging
import os

from fer_batch.terminal import escape_controls

LEVEL_VARIABLE = "FER_BATCH_LOG_LEVEL"
"""Environment variable with the level, such as INFO. Processes inherit it."""


class EscapingFormatter(logging.Formatter):
    """Write messages on one line, with control characters escaped."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        return escape_controls(super().formatMessage(record))


def show_log() -> None:
    """Write the log to stderr: warnings, and the package's messages from the level in `LEVEL_VARIABLE` on."""
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(EscapingFormatter())
    level = os.environ.get(LEVEL_VARIABLE)
    if level:
        handler = logging.StreamHandler()
        handler.setFormatter(EscapingFormatter())
        logging.basicConfig(handlers=[handler])
        logging.getLogger("fer_batch").setLevel(level)
