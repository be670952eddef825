"""Who a track is, as its owner says: `people.parquet` in a run's folder; nothing of their faces."""

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fer_batch.schema import PEOPLE_SCHEMA, conform_table
from fer_batch.storage.atomic import source, write_parquet

PEOPLE_FILE = "people.parquet"


def read_people(out: Path) -> pa.Table:
    """Rows of `schema.PEOPLE_SCHEMA`, none where nobody has said who is who."""
    if not (out / PEOPLE_FILE).exists():
        return PEOPLE_SCHEMA.empty_table()
    return conform_table(pq.read_table(source(out / PEOPLE_FILE)), PEOPLE_SCHEMA)


def write_people(out: Path, people: pa.Table, videos: Iterable[str]) -> None:
    """Replace what is said of these videos (ids) by these rows of `schema.PEOPLE_SCHEMA`; whoever calls
    has the lease.
    """
    rest = drop_videos(read_people(out), videos)
    write_parquet(out / PEOPLE_FILE, pa.concat_tables([rest, people.cast(PEOPLE_SCHEMA)]), step="people")


def drop_videos(rows: pa.Table, videos: Iterable[str]) -> pa.Table:
    """The rows of other videos than these (ids)."""
    named = pa.array(sorted(videos), pa.string())
    return rows.filter(pc.invert(pc.is_in(rows.column("video_id"), named)))
