"""Tables of the videos that are finished, while a run goes on or after it has stopped.

`finalize` replaces them by the complete tables: the snapshot of partial tables names no later round than that
of the last complete ones.
"""

import logging
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fer_batch.errors import OutputError
from fer_batch.inputs.segments import planned_durations_s
from fer_batch.run.finalize import commit_files, write_files
from fer_batch.run.plan import read_planned_segments, read_planned_videos
from fer_batch.run.record import SUCCESS_FILE, read_run
from fer_batch.run.results import list_done_bundles
from fer_batch.run.snapshot import (
    NO_ROUND,
    Partial,
    read_snapshot,
    write_snapshot,
)
from fer_batch.run.summary import TOTALS_SCHEMA, read_totals, write_totals
from fer_batch.run.tables import (
    VIDEO_KEY,
    create_tables,
    fill_attempts,
    open_current_tables,
    read_videos_table,
    remove_unread_files,
    table_schemas,
)
from fer_batch.schema import VIDEOS_SCHEMA
from fer_batch.storage.folder import FolderLike, OutputFolder, open_folder

REFRESH_INTERVAL_S = 180.0
"""Shortest time between two refreshes of the tables during a run."""
INTERVAL_PER_REFRESH = 20
"""Time between two refreshes as a multiple of the time that the last one took."""
KEY_SCHEMA = pa.schema([VIDEOS_SCHEMA.field(name) for name in (*VIDEO_KEY, "bucket")])
"""The columns of `videos` that tell which videos are in the tables."""

logger = logging.getLogger(__name__)


def finalize_partial(out: FolderLike, map_buckets: Callable[..., Iterable[Any]] = map) -> Partial:
    """Write consistent tables of the videos whose segments all have results; return how many these are.

    Only buckets with other finished videos than in the tables are written. A video that is analyzed again has
    no rows until it is finished. Readers see the previous tables until all new ones are written, and their
    files stay as long as readers on this machine have them open. The caller holds the lease of the run.

    Raises OutputError if `out` contains no run, if its tables are of an earlier version of this package or
    lack columns of a new manifest, or if the written rows are inconsistent.
    """
    folder = open_folder(out)
    run = read_run(folder)
    schemas = table_schemas(run.classes, run.columns)
    snapshot = read_snapshot(folder)
    tables = open_current_tables(folder, schemas)
    if tables is None and (snapshot is not None or run.schema_version == 1):  # schema 1 has no snapshots
        raise OutputError(
            f"The tables in {folder} cannot be extended (they are damaged, of an earlier version, or lack "
            "columns of a new manifest): `fer-batch analyze` writes all of them again at its end"
        )
    planned = read_planned_videos(folder).combine_chunks()
    videos = find_finished_videos(folder, planned)
    partial = Partial(
        videos=len(videos),
        planned_videos=len(planned),
        video_s=_sum_durations_s(videos),
        planned_s=_sum_durations_s(planned),
    )
    if tables is None:
        tables = create_tables(folder, schemas, run)
    totals = read_totals(folder, tables)
    stored = fill_attempts(read_videos_table(tables["videos"], KEY_SCHEMA))
    buckets = _find_differing_buckets(videos, stored)
    if buckets:
        folder.remove_file(SUCCESS_FILE)
        chosen = videos.filter(pc.is_in(videos.column("bucket"), pa.array(buckets, pa.int32())))
        written = write_files(folder, run, chosen.combine_chunks(), map_buckets)
        commit_files(folder, tables, buckets, written)
        kept = totals.filter(pc.invert(pc.is_in(totals.column("bucket"), pa.array(buckets, pa.int32()))))
        new = pa.Table.from_pylist([bucket.totals for bucket in written], schema=TOTALS_SCHEMA)
        totals = pa.concat_tables([kept, new])
    write_totals(folder, totals, tables)
    write_snapshot(folder, tables, snapshot.round if snapshot else NO_ROUND, partial)
    remove_unread_files(folder, in_store=False)
    return partial


def find_finished_videos(folder: OutputFolder, planned: pa.Table) -> pa.Table:
    """Return the planned videos, rows of PROBED_SCHEMA, of which no segment lacks a result."""
    done = pa.array(sorted(list_done_bundles(folder.subfolder("results"))), pa.string())
    unfinished: set[str] = set()
    for segments in read_planned_segments(folder, planned, ["video_id", "bundle_id"]):
        is_pending = pc.invert(pc.is_in(segments.column("bundle_id"), done))
        unfinished.update(pc.unique(segments.column("video_id").filter(is_pending)).to_pylist())
    pending = pa.array(sorted(unfinished), pa.string())
    return planned.filter(pc.invert(pc.is_in(planned.column("video_id"), pending)))


def has_pending_videos(out: FolderLike) -> bool:
    """Return whether a planned segment has no result."""
    folder = open_folder(out)
    planned = read_planned_videos(folder)
    return len(find_finished_videos(folder, planned)) < len(planned)


class PartialTables:
    """Writes the tables of the finished videos from time to time while a run goes on."""

    def __init__(self, out: FolderLike) -> None:
        self.out = out
        self._next_s = time.monotonic() + REFRESH_INTERVAL_S
        self._problem = ""
        """The reason that the last refresh has logged; empty if it succeeded."""

    def refresh(self) -> None:
        """Write the tables if the interval is over. Any failure is logged, as the end of the run tries again.

        Refreshes that fail for the same reason one after another are logged once.
        """
        began_s = time.monotonic()
        if began_s < self._next_s:
            return
        try:
            logger.info("%s", finalize_partial(self.out))
            self._problem = ""
        except Exception as error:  # each store's library has errors of its own
            if str(error) != self._problem:
                logger.warning("the tables of the finished videos cannot be written: %s", error)
            self._problem = str(error)
        ended_s = time.monotonic()
        self._next_s = ended_s + max(REFRESH_INTERVAL_S, INTERVAL_PER_REFRESH * (ended_s - began_s))


def _find_differing_buckets(videos: pa.Table, stored: pa.Table) -> list[int]:
    """Return the buckets whose finished videos are not exactly those in the table."""
    one, other = (
        {tuple(row.values()) for row in table.select(KEY_SCHEMA.names).to_pylist()}
        for table in (videos, stored)
    )
    return sorted({bucket for *_, bucket in one ^ other})


def _sum_durations_s(videos: pa.Table) -> float:
    return float(np.nan_to_num(planned_durations_s(videos)).sum())
