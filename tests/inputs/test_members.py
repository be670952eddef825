"""Members of archives as tables."""

import os
from pathlib import Path

import pytest

from fer_batch.inputs.members import MEMBERS_SCHEMA, decode_name, encode_name, list_archive, read_damage
from tests.storage.test_archives import pack


@pytest.mark.parametrize("name", ["a.mp4", "é 漢.mp4", "caf\udce9.mp4", "\ud800.mp4", ""])
def test_names_are_encoded_without_loss(name: str) -> None:
    assert decode_name(encode_name(name)) == name


def test_table_has_the_members_and_the_damage(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.tar", {"a.mp4": b"1", "caf\udce9.mp4": bytes(9_000)})
    members = list_archive(str(path))
    assert members.schema.equals(MEMBERS_SCHEMA)
    assert members.column("name").to_pylist() == [b"a.mp4", encode_name("caf\udce9.mp4")]
    assert members.column("size_bytes").to_pylist() == [1, 9_000]
    assert read_damage(members) is None
    os.truncate(path, 5_000)
    members = list_archive(str(path))
    assert len(members) == 2
    assert "after 2 files" in (read_damage(members) or "")


def test_missing_archive_has_a_reason(tmp_path: Path) -> None:
    members = list_archive(f"{tmp_path}/none.tar")
    assert len(members) == 0
    assert read_damage(members) == "No such file or directory"
