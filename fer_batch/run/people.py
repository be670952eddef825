"""The file `people.parquet` in the folder of a run: which person each track shows, as the user assigns it.

It contains nothing about the faces.
"""

from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fer_batch.schema import PEOPLE_SCHEMA, conform_table
from fer_batch.storage.folder import FolderLike, open_folder

PEOPLE_FILE = "people.parquet"


def read_people(out: FolderLike) -> pa.Table:
    """Read the assigned persons, rows of `schema.PEOPLE_SCHEMA`; empty if none are assigned."""
    folder = open_folder(out)
    if not folder.exists(PEOPLE_FILE):
        return PEOPLE_SCHEMA.empty_table()
    return conform_table(pq.read_table(folder.arrow_source(PEOPLE_FILE)), PEOPLE_SCHEMA)


def write_people(out: FolderLike, people: pa.Table, video_ids: Iterable[str]) -> None:
    """Replace the persons of the given videos by `people`, rows of `schema.PEOPLE_SCHEMA`.

    The caller holds the lease.
    """
    folder = open_folder(out)
    rest = drop_videos(read_people(folder), video_ids)
    folder.write_parquet(PEOPLE_FILE, pa.concat_tables([rest, people.cast(PEOPLE_SCHEMA)]), step="people")


def drop_videos(rows: pa.Table, video_ids: Iterable[str]) -> pa.Table:
    """Return the rows of all videos except the given ones."""
    dropped = pa.array(sorted(video_ids), pa.string())
    return rows.filter(pc.invert(pc.is_in(rows.column("video_id"), dropped)))
