"""Reading of small files that come from users."""

import json
import os
from pathlib import Path

import pytest

from fer_batch.storage.user_files import MAX_JSON_DEPTH, parse_json, read_bounded


def test_file_within_the_limit_is_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    (tmp_path / "link").symlink_to(path)
    assert read_bounded(path, 3) == read_bounded(tmp_path / "link", 3) == b"abc"


def test_large_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    os.truncate(path, 1 << 40)
    with pytest.raises(ValueError, match="1099511627776 bytes; allowed are 10"):
        read_bounded(path, 10)


@pytest.mark.timeout(10)
@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_other_kinds_of_files_are_not_read(tmp_path: Path, kind: str) -> None:
    path = {"pipe": tmp_path / "pipe", "device": Path("/dev/zero"), "folder": tmp_path}[kind]
    if kind == "pipe":
        os.mkfifo(path)
    with pytest.raises((ValueError, IsADirectoryError)):
        read_bounded(path, 10)


def test_json_is_parsed() -> None:
    assert parse_json(b'{"a": [1, 2.5, "\xc3\xa4", null]}') == {"a": [1, 2.5, "ä", None]}
    nested = "[" * MAX_JSON_DEPTH + "]" * MAX_JSON_DEPTH
    assert parse_json(nested) == json.loads(nested)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[" * 40 + "]" * 40, "[" * 200_000, '"\\ud800"', '{"\\udfff": 1}', "9" * 5000, b"\xff\xfe"],
)
def test_json_that_cannot_be_stored_raises_value_error(text: str | bytes) -> None:
    with pytest.raises(ValueError):
        parse_json(text)
