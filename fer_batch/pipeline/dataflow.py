"""Run stages on Ray Data: planned segments to result files.

    segments ─GuardedWorker (decode, detect, track, crop)─▶ faces ─RecognizeWorker─▶ results

Without a GPU one stage does both, because only crops would cross between two.
"""

import logging
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
import ray.data
from ray.data import ActorPoolStrategy
from ray.exceptions import (
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    WorkerCrashedError,
)

from fer_batch.config import AnalyzeConfig, Limits
from fer_batch.inputs.segments import split_into_bundles
from fer_batch.model.weights import Card
from fer_batch.pipeline.guard import GuardedProbe, make_failed_row
from fer_batch.pipeline.placement import place_stages
from fer_batch.pipeline.stages import PREFETCH_FRAMES
from fer_batch.pipeline.workers import GuardedWorker, RecognizeWorker
from fer_batch.run.results import list_done_bundles, write_bundle
from fer_batch.schema import PLAN_SCHEMA, RESULTS_SCHEMA, pack_bundle, unpack_bundles
from fer_batch.storage.folder import OutputFolder
from fer_batch.video.segment import Segment

MAX_STALLED_STARTS = 2
"""Consecutive starts of the stages without any finished bundle, after which the remaining bundles fail."""
NO_RESOURCES_TIMEOUT_S = 86_400.0
"""Time that a run waits for nodes that have not joined, or for CPUs that other jobs hold."""
RETRIES: dict[str, Any] = {"max_restarts": -1, "max_task_retries": 3}
"""A dead worker is always replaced. Ray's default would retry its bundle without end."""
MAX_LOCAL_PROBES = 64
"""Number of files up to which the driver probes them itself, because workers take longer to start."""
PROBES_PER_TASK = 32
WORKER_LOST = (RayActorError, WorkerCrashedError, NodeDiedError, OutOfMemoryError, ObjectLostError)


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Everything that the stages need besides the segments."""

    results: OutputFolder
    """Folder of the result files."""
    config: AnalyzeConfig
    card: Card
    checkpoint: Path | None
    limits: Limits
    queries: dict[str, str] = field(default_factory=dict, repr=False)
    """Queries of web addresses, which no file may contain."""


def run_segments(segments: pa.Table, settings: RunSettings) -> None:
    """Process planned segments, rows of `schema.PLAN_SCHEMA`, on the connected Ray.

    Each finished bundle is a result file. Bundles of lost workers are retried as long as other bundles
    finish. A bundle that then remains has crashed each of its workers, so its segments fail.
    """
    pending = dict(split_into_bundles(segments))
    stalled = 0
    while pending and stalled < MAX_STALLED_STARTS:
        count = len(pending)
        try:
            _run_stages([pack_bundle(bundle_id, rows) for bundle_id, rows in pending.items()], settings)
        except Exception as error:
            if not any(isinstance(cause, WORKER_LOST) for cause in _causes(error)):
                raise
        done = list_done_bundles(settings.results)
        pending = {bundle_id: rows for bundle_id, rows in pending.items() if bundle_id not in done}
        stalled = stalled + 1 if len(pending) == count else 0
    reason = "every worker that processed this segment crashed"
    for bundle_id, rows in pending.items():
        failed = [
            make_failed_row(segment, reason, RESULTS_SCHEMA, settings.card.model_id)
            for segment in Segment.from_table(rows)
        ]
        write_bundle(settings.results, pack_bundle(bundle_id, pa.concat_tables(failed)))


def _run_stages(bundles: list[pa.Table], settings: RunSettings) -> None:
    """Build the chain of stages and run it: segments to faces to results."""
    config, card, limits = settings.config, settings.card, settings.limits
    place = place_stages()
    bundles = sorted(bundles, key=_length_s, reverse=True)  # a long bundle at the end would delay the run
    segments = ray.data.from_blocks(bundles)  # from_arrow would start workers to inspect the tables
    if place.recognizers:
        arguments = (config, card.crop_scale, PREFETCH_FRAMES)
        faces = map_stage(
            segments,
            GuardedWorker,
            ("FacesStage", arguments, limits, settings.queries, None, place.faces_gpu > 0),
            workers=place.faces,
            max_workers=len(bundles),
            num_cpus=1,
            num_gpus=place.faces_gpu,
        )
        results = map_stage(
            faces,
            RecognizeWorker,
            (settings.checkpoint, config.flip, settings.results),
            workers=place.recognizers,
            max_workers=place.recognizers,  # each is many times faster than a worker that finds faces
            num_cpus=0,
            num_gpus=place.recognizers_gpu,
        )
    else:
        prefetch = PREFETCH_FRAMES if place.faces >= 2 * len(bundles) else 0
        stage_arguments = (config, card.crop_scale, settings.checkpoint, prefetch)
        results = map_stage(
            segments,
            GuardedWorker,
            ("AnalyzeStage", stage_arguments, limits, settings.queries, settings.results),
            workers=place.faces,
            max_workers=len(bundles),
            num_cpus=1,
        )
    results.materialize()


def map_stage(
    rows: ray.data.Dataset,
    stage: type,
    arguments: tuple[Any, ...],
    *,
    workers: int,
    max_workers: int,
    rows_per_call: int | None = 1,
    **resources: Any,
) -> ray.data.Dataset:
    """Map a stage over rows with a pool of workers; a call gets `rows_per_call` rows, or a whole block.

    The pool starts with `workers` and grows up to `max_workers` as nodes join. It requests nodes from an
    autoscaler.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray warns that RETRIES are not named parameters
        return rows.map_batches(
            stage,
            fn_constructor_args=arguments,
            batch_size=rows_per_call,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(
                min_size=1,
                max_size=max_workers,
                initial_size=min(workers, max_workers),
                max_tasks_in_flight_per_actor=2,
            ),
            **resources,
            **RETRIES,
        )


def probe_on_cluster(sources: pa.Table, limits: Limits, queries: dict[str, str]) -> pa.Table:
    """Probe listed files on all nodes: rows of `schema.SOURCES_SCHEMA` to rows of `schema.PROBED_SCHEMA`."""
    if len(sources) <= MAX_LOCAL_PROBES:
        with GuardedProbe(limits, queries) as probe:
            return probe(sources)
    blocks = [sources.slice(first, PROBES_PER_TASK) for first in range(0, len(sources), PROBES_PER_TASK)]
    probed = map_stage(
        ray.data.from_blocks(blocks),
        GuardedProbe,
        (limits, queries),
        workers=count_cpus(),
        max_workers=len(blocks),
        rows_per_call=None,
        num_cpus=1,
    )
    return pa.concat_tables(ray.get(probed.to_arrow_refs()))


def count_cpus() -> int:
    """Return the number of logical CPUs of the connected Ray, at least 1."""
    return max(1, int(ray.cluster_resources().get("CPU", 1)))


def configure_ray_data(verbose: bool) -> None:
    """Set Ray Data's options for a run; `verbose` shows its progress bars and log."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = verbose
    context.print_on_execution_start = verbose
    context.execution_no_progress_timeout_s = NO_RESOURCES_TIMEOUT_S
    # No usage data of a run leaves the cluster. Collecting them also takes a process.
    os.environ["RAY_DATA_USAGE_DISABLED"] = "1"
    # Errors that end a run are raised, so the log would only repeat them.
    logging.getLogger("ray.data").setLevel(logging.INFO if verbose else logging.CRITICAL)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception and its causes, also those that Ray keeps in `cause`."""
    while error is not None:
        yield error
        error = getattr(error, "cause", None) or error.__cause__ or error.__context__


def _length_s(bundle: pa.Table) -> float:
    rows = unpack_bundles(bundle, PLAN_SCHEMA).select(["start_s", "end_s"]).to_pylist()
    return float(sum(row["end_s"] - row["start_s"] for row in rows))
