"""The persons of tracks in the folder of a run: names that the user assigns, and numbers of groups.

`people.parquet` has the names, `person_groups.parquet` the numbers. Both contain nothing about the faces.
"""

from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fer_batch.schema import PEOPLE_SCHEMA, PERSON_GROUPS_SCHEMA, conform_table
from fer_batch.storage.folder import FolderLike, open_folder

PEOPLE_FILE = "people.parquet"
PERSON_GROUPS_FILE = "person_groups.parquet"


def read_people(out: FolderLike) -> pa.Table:
    """Read the assigned persons, rows of `schema.PEOPLE_SCHEMA`; empty if none are assigned."""
    return _read_table(out, PEOPLE_FILE, PEOPLE_SCHEMA)


def read_person_groups(out: FolderLike) -> pa.Table:
    """Read the numbers of persons, rows of `schema.PERSON_GROUPS_SCHEMA`; empty if tracks are not grouped."""
    return _read_table(out, PERSON_GROUPS_FILE, PERSON_GROUPS_SCHEMA)


def write_people(out: FolderLike, people: pa.Table, video_ids: Iterable[str]) -> None:
    """Replace the persons of the given videos by `people`, rows of `schema.PEOPLE_SCHEMA`.

    The caller holds the lease.
    """
    folder = open_folder(out)
    rest = drop_videos(read_people(folder), video_ids)
    folder.write_parquet(PEOPLE_FILE, pa.concat_tables([rest, people.cast(PEOPLE_SCHEMA)]), step="people")


def write_person_groups(out: FolderLike, groups: pa.Table) -> None:
    """Replace all numbers by rows of `schema.PERSON_GROUPS_SCHEMA`. The caller holds the lease."""
    open_folder(out).write_parquet(
        PERSON_GROUPS_FILE, groups.cast(PERSON_GROUPS_SCHEMA), step="person_groups"
    )


def forget_persons(out: FolderLike, video_ids: Iterable[str]) -> None:
    """Remove the persons of the given videos from both files. The caller holds the lease."""
    names = set(video_ids)
    if names & set(read_people(out).column("video_id").to_pylist()):
        write_people(out, PEOPLE_SCHEMA.empty_table(), names)
    groups = read_person_groups(out)
    if names & set(groups.column("video_id").to_pylist()):
        write_person_groups(out, drop_videos(groups, names))


def drop_videos(rows: pa.Table, video_ids: Iterable[str]) -> pa.Table:
    """Return the rows of all videos except the given ones."""
    dropped = pa.array(sorted(video_ids), pa.string())
    return rows.filter(pc.invert(pc.is_in(rows.column("video_id"), dropped)))


def _read_table(out: FolderLike, name: str, schema: pa.Schema) -> pa.Table:
    folder = open_folder(out)
    if not folder.exists(name):
        return schema.empty_table()
    return conform_table(pq.read_table(folder.arrow_source(name)), schema)
