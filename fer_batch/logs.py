"""The log of the package on stderr, in the command line and in the processes that it starts."""

import logging
import os

LEVEL_VARIABLE = "FER_BATCH_LOG_LEVEL"
"""Environment variable with the level, such as INFO. Processes inherit it."""


def show_log() -> None:
    """Write the package's log to stderr from the level in `LEVEL_VARIABLE` on, if it is set."""
    level = os.environ.get(LEVEL_VARIABLE)
    if level:
        logging.basicConfig(format="%(message)s")
        logging.getLogger("fer_batch").setLevel(level)
