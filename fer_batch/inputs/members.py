"""Members of archives as tables, listed in this process or in a guarded one."""

import os
from collections.abc import Callable

import pyarrow as pa

from fer_batch.errors import DecodeError
from fer_batch.storage.archives import ArchiveMember, list_members, open_seekable

MEMBERS_SCHEMA = pa.schema(
    [
        pa.field("name", pa.binary()),
        pa.field("offset", pa.int64()),
        pa.field("size_bytes", pa.int64()),
        pa.field("version", pa.string()),
        pa.field("error", pa.string()),
    ]
)
"""The fields of `ArchiveMember`; `encode_name` encodes the names, which may not be valid text."""
DAMAGE_KEY = b"damage"
"""Key in a table's metadata: the reason why the archive cannot be read to its end."""

ArchiveReader = Callable[[str], pa.Table]
"""Lists an archive, given by its path or address. The table is that of `MemberLister.list_archive`."""


class MemberLister:
    """`list_archive` as the service of a guarded process."""

    def __init__(self) -> None:
        self.keep_alive: Callable[[], None] = lambda: None
        """Called whenever the reading of an archive advances."""
        _build_table([], None)  # imports pandas, for which a call's time limit may be too short

    def list_archive(self, archive: str) -> pa.Table:
        """Return the members of an archive, rows of MEMBERS_SCHEMA; `read_damage` returns its damage."""
        try:
            with open_seekable(archive) as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(0)
                members, damage = list_members(file, archive, size, self.keep_alive)
        except (OSError, DecodeError) as error:
            members, damage = [], getattr(error, "strerror", None) or str(error)
        return _build_table(members, damage)


def list_archive(archive: str) -> pa.Table:
    """Return `MemberLister.list_archive`, in this process."""
    return MemberLister().list_archive(archive)


def damaged_archive(reason: str) -> pa.Table:
    """Return the table of an archive of which no member can be read."""
    return _build_table([], reason)


def read_damage(members: pa.Table) -> str | None:
    """Return the reason why the archive cannot be read to its end, or None."""
    damage = (members.schema.metadata or {}).get(DAMAGE_KEY)
    return None if damage is None else str(damage, "utf-8", "replace")


def encode_name(name: str) -> bytes:
    """Encode a member's name for MEMBERS_SCHEMA."""
    return name.encode("utf-8", "surrogatepass")


def decode_name(name: bytes) -> str:
    """Decode a member's name of MEMBERS_SCHEMA."""
    return name.decode("utf-8", "surrogatepass")


def _build_table(members: list[ArchiveMember], damage: str | None) -> pa.Table:
    columns = [
        pa.array((encode_name(member.name) for member in members), pa.binary(), size=len(members)),
        *(
            pa.array((getattr(member, field.name) for member in members), field.type, size=len(members))
            for field in list(MEMBERS_SCHEMA)[1:]
        ),
    ]
    metadata = {} if damage is None else {DAMAGE_KEY: damage.encode("utf-8", "replace")}
    return pa.table(columns, schema=MEMBERS_SCHEMA.with_metadata(metadata))
