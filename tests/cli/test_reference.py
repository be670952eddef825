"""Test that `fer_batch/docs/cli.md` has the current help texts."""

import pytest

from fer_batch.cli.main import main
from fer_batch.cli.reference import REFERENCE, format_reference


def test_reference_is_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    main(["--help"])
    assert REFERENCE.read_text() == format_reference(), "run `python -m fer_batch.cli.reference`"
