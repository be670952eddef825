"""The main job: turn videos into tables. It plans, processes all that is not done, and finalizes.

Short work on the CPUs of this machine does not need Ray, which is imported only where it is used.
"""

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fer_batch.config import AnalyzeConfig, Limits
from fer_batch.inputs.listing import Listing
from fer_batch.inputs.segments import (
    MAX_PLANNED_S,
    SEGMENTS_PER_ROUND,
    plan_segments,
    probe_as_needed,
    select_known,
)
from fer_batch.model.card import is_onnx_path
from fer_batch.model.precision import check_network_precision, check_onnx_precision
from fer_batch.pipeline.connection import is_ray_named
from fer_batch.pipeline.guard import list_videos_guarded, probe_guarded
from fer_batch.pipeline.local_run import (
    MAX_PROBES,
    MAX_VIDEO_S,
    LocalPool,
    count_free_cores,
    describe_machine,
)
from fer_batch.pipeline.progress import OnProgress, ProgressMeter, ignore_progress, publish_metrics
from fer_batch.pipeline.run_precision import QueryNodes, fix_precision
from fer_batch.pipeline.settings import RunSettings, load_card
from fer_batch.pipeline.tables import MapTasks, open_task_map
from fer_batch.run.finalize import finalize
from fer_batch.run.forget import complete_forget
from fer_batch.run.partial import PartialTables
from fer_batch.run.plan import (
    add_planning_round,
    changed_metadata,
    read_planned_segments,
    read_planned_videos,
    select_sources_to_plan,
)
from fer_batch.run.record import (
    SUCCESS_FILE,
    RunRecord,
    add_manifest_columns,
    create_run,
    load_matching_run,
    read_run,
    record_precision,
    remove_leftovers,
    remove_run,
)
from fer_batch.run.results import list_done_bundles, remove_damaged_bundles
from fer_batch.run.snapshot import read_snapshot
from fer_batch.run.summary import RunSummary, failed_videos
from fer_batch.schema import PLAN_SCHEMA, PROBED_SCHEMA, SCHEMA_VERSION
from fer_batch.storage.folder import FolderLike, OutputFolder, open_folder
from fer_batch.storage.lease import hold_lease
from fer_batch.timing import call_periodically

PARTIAL_TABLES_CHECK_S = 5.0
"""Interval between two checks whether the tables of the finished videos are due."""
ASSUMED_SEGMENTS = 5
"""Number of segments assumed for a video of unknown length."""

Prober = Callable[[pa.Table, Limits, dict[str, str]], pa.Table]
"""Opens listed files, rows of `schema.SOURCES_SCHEMA`, and returns rows of PROBED_SCHEMA."""


def analyze(
    inputs: Sequence[str],
    out: FolderLike,
    config: AnalyzeConfig | None = None,
    *,
    limits: Limits | None = None,
    retry_failed: bool = False,
    overwrite: bool = False,
    allow_query: bool = False,
    people: bool = False,
    use_ray: bool = False,
    address: str | None = None,
    insecure: bool = False,
    verbose: bool = False,
    on_listing: Callable[[Listing, bool], None] = lambda listing, finished: None,
    on_ray: Callable[[], None] = lambda: None,
    on_progress: OnProgress = ignore_progress,
    on_grouped: Callable[[int, int], None] = lambda done, videos: None,
) -> RunSummary:
    """Analyze videos and write the tables `videos`, `tracks` and `moments` to the folder `out`.

    A second call with the same `out` processes only the remaining work. A fault of one video is never raised:
    it is in the video's `status` and `error`.

    `inputs` are files, folders, globs, archives and manifests, here or in a store, as `list_videos` takes
    them. `out` is a local folder or the URL of one in a store. `retry_failed` processes those inputs again
    that ended as "failed" or "partial". `overwrite` replaces the run in `out`, whatever its configuration.
    `allow_query` permits queries in web addresses, as `list_videos` does. `people` also groups the tracks of
    each video into persons, which processes biometric data, as `group_people` describes.

    The work runs on Ray: a connection that exists, else the cluster at `address` (HOST:PORT or "auto"), else
    that of RAY_ADDRESS or the surrounding Ray job, else a local one. Where none of these is named, this
    machine has no NVIDIA GPU, and at most `local_run.MAX_VIDEO_S` of video is left, the same work is done in
    processes of this machine without Ray, unless `use_ray` is set or `address` is "local". `insecure` permits
    a cluster that requires no token. `verbose` shows Ray's log and progress bars.

    `on_listing` is called once with the listed videos, and whether the run is finished already. `on_ray` is
    called before Ray is started or joined. `on_progress` is called every half second, or less often, from
    another thread. `on_grouped` is the `on_progress` of `group_people`.

    Raises a subclass of FerBatchError, and writes nothing, where the inputs, the configuration, the
    checkpoint or `out` cannot be used.
    """
    config, limits = config or AnalyzeConfig(), limits or Limits()
    if people:
        from fer_batch.pipeline.people import check_people_extra, group_tracks

        check_people_extra()
    folder = open_folder(out).absolute()
    checkpoint = Path(config.checkpoint).absolute() if config.checkpoint else None
    card = load_card(checkpoint)
    if checkpoint and is_onnx_path(checkpoint):
        check_onnx_precision(config.precision)
    else:
        check_network_precision(config.precision, card.network, card.architecture)
    load_matching_run(folder, config, card, overwrite)  # the lease creates files there
    settings = RunSettings(
        results=folder.subfolder("results"), config=config, card=card, checkpoint=checkpoint, limits=limits
    )

    def finish(map_tasks: MapTasks = map) -> RunSummary:
        summary = finalize(folder, map_buckets=map_tasks)
        if people:
            group_tracks(folder, limits=limits, map_tasks=map_tasks, on_progress=on_grouped)
        return summary

    with hold_lease(folder, "analyze"):
        run = load_matching_run(folder, config, card, overwrite)
        complete_forget(folder)
        listing = list_videos_guarded(inputs, limits, allow_query=allow_query)
        retried = failed_videos(folder) if run and retry_failed else PROBED_SCHEMA.empty_table()
        finished = run is not None and is_finished(folder, listing, retried)
        on_listing(listing, finished)
        if finished:
            if not people:
                return finish()
            with open_task_map(address, insecure, verbose) as map_tasks:
                return finish(map_tasks)
        settings = replace(settings, queries=listing.queries)
        plan = functools.partial(_plan_run, folder, listing, retried, run, settings)
        cores = None if use_ray or is_ray_named(address) else count_free_cores()
        is_planned = cores is not None and _count_unknown(folder, listing, retried, run, config) <= MAX_PROBES
        if cores and is_planned:  # without Ray, which may not be needed
            settings = plan(functools.partial(describe_machine, cores), probe_guarded, cores)
            if measure_pending_s(folder, config.segment_s) <= MAX_VIDEO_S:
                pool = LocalPool(settings, cores)
                _run_pending(folder, settings, pool.run_segments, on_progress, pool.measure_running_s)
                return finish()
        on_ray()
        from fer_batch.pipeline.cluster_map import map_on_cluster
        from fer_batch.pipeline.dataflow import configure_ray_data, count_cpus, probe_on_cluster, run_segments
        from fer_batch.pipeline.placement import query_nodes
        from fer_batch.pipeline.reports import delete_reports, measure_running_s
        from fer_batch.runtime import ray_session

        with ray_session(address, insecure=insecure, verbose=verbose):
            configure_ray_data(verbose)
            if not is_planned:
                settings = plan(query_nodes, probe_on_cluster, count_cpus())
            on_progress = publish_metrics(folder, on_progress)
            process = functools.partial(run_segments, settings=settings)
            with delete_reports():
                _run_pending(folder, settings, process, on_progress, measure_running_s)
            return finish(map_on_cluster)


def _plan_run(
    out: OutputFolder,
    listing: Listing,
    retried: pa.Table,
    run: RunRecord | None,
    settings: RunSettings,
    query_nodes: QueryNodes,
    probe: Prober,
    workers: int,
) -> RunSettings:
    """Fix the precision, extend the plan as `extend_plan` does, and return the settings of the stages."""
    settings = replace(settings, config=fix_precision(settings.config, run, settings.card, query_nodes))
    if run and run.settings.get("precision") != settings.config.precision:  # an older version started it
        record_precision(out, settings.config.precision)
    extend_plan(out, listing, retried, settings, probe=probe, workers=workers, is_new=run is None)
    return settings


def _count_unknown(
    out: OutputFolder, listing: Listing, retried: pa.Table, run: RunRecord | None, config: AnalyzeConfig
) -> int:
    """Return the number of listed videos that have to be opened before they can be planned."""
    planned = read_planned_videos(out) if run else PROBED_SCHEMA.empty_table()
    new = select_sources_to_plan(listing.sources, planned, retried)
    return len(new) - (pc.sum(select_known(new, config)).as_py() or 0)


def measure_pending_s(out: OutputFolder, segment_s: float) -> float:
    """Return the seconds of planned video without a result.

    A video of unknown length counts as ASSUMED_SEGMENTS of `segment_s`.
    """
    total_s = 0.0
    done = list_done_bundles(out.subfolder("results"))
    for segments in pending_segments(out, done, ["bundle_id", "core_start_s", "core_end_s"]):
        lengths_s = pc.subtract(segments.column("core_end_s"), segments.column("core_start_s")).to_numpy()
        total_s += float(np.where(lengths_s > 0, lengths_s, ASSUMED_SEGMENTS * segment_s).sum())
    return total_s


def is_finished(out: OutputFolder, listing: Listing, retried: pa.Table) -> bool:
    """Return whether a run is complete and neither the listing nor `retried` adds anything to it.

    A run of an older schema is not, because its tables have to be written again.
    """
    if not out.exists(SUCCESS_FILE) or read_run(out).schema_version != SCHEMA_VERSION:
        return False
    planned = read_planned_videos(out)
    if len(changed_metadata(listing.sources, planned)):
        return False
    if len(select_sources_to_plan(listing.sources, planned, retried)):
        return False
    done = list_done_bundles(out.subfolder("results"))
    return next(pending_segments(out, done, ["bundle_id"]), None) is None


def extend_plan(
    out: OutputFolder,
    listing: Listing,
    retried: pa.Table,
    settings: RunSettings,
    *,
    probe: Prober,
    workers: int,
    is_new: bool,
) -> None:
    """Plan the listed videos that are new, have changed, or are to be retried, in planning rounds.

    `retried` has the videos to try again, as `select_sources_to_plan` takes them. `probe` opens files of
    unknown length. `is_new` starts a new run.
    """
    config, card = settings.config, settings.card
    planned = PROBED_SCHEMA.empty_table() if is_new else read_planned_videos(out)
    described = changed_metadata(listing.sources, planned)
    if len(described):  # first, because the last round of a video counts, and it may have changed as well
        add_manifest_columns(out, listing.columns)
        add_planning_round(out, described, PLAN_SCHEMA.empty_table())
    new = select_sources_to_plan(listing.sources, planned, retried)
    for number, sources in enumerate(_split_into_rounds(new, config.segment_s)):
        videos = probe_as_needed(
            sources, config, lambda unknown: probe(unknown, settings.limits, settings.queries)
        )
        segments = plan_segments(videos, config, card.half_window_s, card.model_id, workers)
        if number == 0:
            if is_new:
                remove_run(out)
                create_run(out, config, card)
            add_manifest_columns(out, listing.columns)
        add_planning_round(out, videos, segments)


def _split_into_rounds(sources: pa.Table, segment_s: float) -> Iterator[pa.Table]:
    """Split listed videos, rows of SOURCES_SCHEMA, into parts of about SEGMENTS_PER_ROUND segments."""
    lengths_s = sources.column("duration_s").fill_null(ASSUMED_SEGMENTS * segment_s).to_numpy()
    counts = np.ceil(np.clip(lengths_s, segment_s, MAX_PLANNED_S) / segment_s)
    number = (np.cumsum(counts) - counts) // SEGMENTS_PER_ROUND
    edges = np.flatnonzero(np.diff(number, prepend=-1, append=np.inf)).tolist()
    for first, end in itertools.pairwise(edges):
        yield sources.slice(first, end - first)


def _run_pending(
    out: OutputFolder,
    settings: RunSettings,
    run_segments: Callable[[pa.Table], None],
    on_progress: OnProgress,
    measure_running_s: Callable[[], dict[str, float]],
) -> None:
    """Process all planned segments without a result, round by round.

    `measure_running_s` is that of `ProgressMeter`.
    """
    prepare_results(out)
    meter = ProgressMeter(settings.results, len(read_planned_videos(out)), on_progress, measure_running_s)
    done = meter.list_done()
    for segments in pending_segments(out, done, ProgressMeter.COLUMNS):
        meter.add_pending(segments)
    if not meter.pending_videos:
        return
    partial_tables = PartialTables(out)
    for segments in pending_segments(out, done):
        out.remove_file(SUCCESS_FILE)
        meter.watch(segments)
        with (
            call_periodically(meter.update, meter.interval_s),
            call_periodically(partial_tables.refresh, PARTIAL_TABLES_CHECK_S),
        ):
            run_segments(segments)


def prepare_results(out: OutputFolder) -> None:
    """Create the folder of results; remove temporary files, and damaged results that are in no table yet."""
    results = out.subfolder("results")
    results.create()
    remove_leftovers(out)
    if not out.exists(SUCCESS_FILE):
        # Earlier results were intact when the tables were written; finalize reads those it needs in full.
        snapshot = read_snapshot(out)
        videos = read_planned_videos(out, after=snapshot.round if snapshot else "")
        rounds = read_planned_segments(out, videos, ["bundle_id"])
        names = [pc.unique(segments.column("bundle_id")) for segments in rounds]
        remove_damaged_bundles(results, {name for part in names for name in part.to_pylist()})


def pending_segments(
    out: OutputFolder, done: set[str], columns: Sequence[str] | None = None
) -> Iterator[pa.Table]:
    """Yield the planned segments, rows of PLAN_SCHEMA, whose bundles are not in `done`, round by round."""
    done_ids = pa.array(sorted(done), pa.string())
    for segments in read_planned_segments(out, read_planned_videos(out), list(columns) if columns else None):
        pending = segments.filter(pc.invert(pc.is_in(segments.column("bundle_id"), done_ids)))
        if len(pending):
            yield pending
