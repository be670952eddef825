"""Run stages until each bundle has a result: retry unfinished bundles, leave out broken nodes, and give up.

Stages run on Ray (`pipeline.dataflow`) or in processes of this machine (`pipeline.local_run`).
"""

import logging
from collections.abc import Callable, Collection, Mapping

import pyarrow as pa

from fer_batch.errors import NodeError
from fer_batch.inputs.segments import split_into_bundles
from fer_batch.pipeline.guard import make_failed_row
from fer_batch.pipeline.settings import RunSettings
from fer_batch.run.attempts import AttemptLog, BrokenNode
from fer_batch.run.results import list_done_bundles, write_bundle
from fer_batch.schema import PLAN_SCHEMA, RESULTS_SCHEMA, pack_bundle, unpack_bundles
from fer_batch.video.segment import Segment

MAX_STALLED_STARTS = 2
"""Consecutive starts of the stages without any finished bundle or attempt, after which a run ends."""

logger = logging.getLogger(__name__)


class WorkersLostError(Exception):
    """Workers were lost while stages ran; the message has the reason."""


def run_until_done(
    segments: pa.Table,
    settings: RunSettings,
    run_stages: Callable[[list[pa.Table], Collection[str]], None],
    has_nodes: Callable[[Collection[str]], bool],
) -> None:
    """Process planned segments, rows of `schema.PLAN_SCHEMA`; each finished bundle is a result file.

    `run_stages` processes bundles without the nodes that are broken, and may leave some unfinished or raise
    WorkersLostError. It is called again for those. Segments of a bundle fail after
    `attempts.MAX_BUNDLE_ATTEMPTS` attempts. `has_nodes` tells whether there are nodes besides the broken
    ones. Raises NodeError where no node can process any.
    """
    attempts = AttemptLog(settings.results)
    attempts.clear()  # attempts of an earlier start, which may have been stopped
    pending = dict(split_into_bundles(segments))
    stalled, progress = 0, (len(pending), 0, 0)
    broken: dict[str, BrokenNode] = {}
    while pending:
        reason: object = "workers are lost before they start"
        try:
            run_stages([pack_bundle(id_, rows) for id_, rows in pending.items()], [*broken])
        except WorkersLostError as error:
            reason = error
        exhausted = attempts.list_exhausted()
        done = list_done_bundles(settings.results)
        for bundle_id in exhausted.keys() & pending.keys() - done:
            _write_failed(bundle_id, pending[bundle_id], exhausted[bundle_id], settings)
        pending = {id_: rows for id_, rows in pending.items() if id_ not in done | exhausted.keys()}
        known, broken = broken, attempts.list_broken_nodes()
        _warn_of_nodes(known, broken)
        if broken and pending and not has_nodes(broken):
            first = next(iter(broken.values()))
            raise NodeError(
                f"No node can run the networks; {first.address}: {first.reason}. Repair it, with its GPU and "
                "driver if it has one, or use other nodes, and run the same command again"
            )
        last_progress, progress = progress, (len(pending), attempts.count_attempts(), len(broken))
        stalled = stalled + 1 if progress == last_progress else 0
        if stalled == MAX_STALLED_STARTS:
            raise NodeError(f"No worker can start: {reason}; run the same command again")
    attempts.clear()


def measure_bundle_s(bundle: pa.Table) -> float:
    """Return the seconds of video in a bundle of planned segments, with their padding."""
    rows = unpack_bundles(bundle, PLAN_SCHEMA).select(["start_s", "end_s"]).to_pylist()
    return float(sum(row["end_s"] - row["start_s"] for row in rows))


def _write_failed(bundle_id: str, segments: pa.Table, reason: str, settings: RunSettings) -> None:
    """Write the result of a bundle whose segments have failed."""
    failed = [
        make_failed_row(segment, reason, RESULTS_SCHEMA, settings.card.model_id)
        for segment in Segment.from_table(segments)
    ]
    write_bundle(settings.results, pack_bundle(bundle_id, pa.concat_tables(failed)))


def _warn_of_nodes(known: Mapping[str, BrokenNode], broken: Mapping[str, BrokenNode]) -> None:
    for node_id in broken.keys() - known.keys():
        logger.warning("node %s is left out: %s", broken[node_id].address, broken[node_id].reason)
