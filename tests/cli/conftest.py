"""Shared fixture of the tests of commands."""

from collections.abc import Callable
from pathlib import Path

import pytest

from fer_batch.cli.main import main

ReadError = Callable[..., str]


@pytest.fixture
def read_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> ReadError:
    """Return a function that runs an invalid command and returns the message, its only line.

    The command must exit with 2, print nothing else and change no file of the test.
    """

    def run(*words: object) -> str:
        before = sorted(tmp_path.rglob("*"))
        assert main([str(word) for word in words]) == 2
        streams = capfd.readouterr()
        assert streams.out == ""
        assert streams.err.startswith("fer-batch")
        assert streams.err.count("\n") == 1
        assert sorted(tmp_path.rglob("*")) == before
        return streams.err

    return run
