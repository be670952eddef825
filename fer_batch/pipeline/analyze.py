"""The main job: inputs to tables. Plans, runs what is not done yet through Ray Data, and finalizes."""

import itertools
import logging
import os
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
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
from fer_batch.inputs.listing import Listing, list_videos
from fer_batch.inputs.segments import MAX_PLANNED_S, plan_segments, probe_as_needed, split_into_bundles
from fer_batch.model.recognize import check_checkpoint
from fer_batch.model.weights import Card
from fer_batch.pipeline.guard import GuardedProbe
from fer_batch.pipeline.placement import place
from fer_batch.pipeline.progress import gauged
from fer_batch.pipeline.workers import Recognizing, Worker
from fer_batch.run.finalize import finalize
from fer_batch.run.forget import complete_forget
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
    remove_leftovers,
    remove_run,
)
from fer_batch.run.results import list_done_bundles, read_face_count, remove_damaged_bundles, write_bundle
from fer_batch.run.summary import RunSummary, failed_videos
from fer_batch.runtime import call_periodically, ray_session
from fer_batch.schema import PLAN_SCHEMA, PROBED_SCHEMA, RESULTS_SCHEMA, pack_bundle, unpack_bundles
from fer_batch.storage.folder import FolderLike, OutputFolder, open_folder
from fer_batch.storage.lease import hold_lease

PROBES_PER_TASK = 32
PROBED_HERE = 64
"""So few files are probed by the driver: to start workers for them takes longer."""
ROUND = 250_000
"""Segments, about, that are planned, and then analyzed, at a time, so that the driver's memory does not grow
with an archive."""
UNKNOWN = 5
"""Segments that a video is taken for whose length no manifest tells."""
LOOKING = 20
"""Times as long as a look at `results` takes it is left alone."""
AHEAD = 24
"""Moments that a worker decodes in a second thread while it looks at others, where it has a core for that."""
RETRIES: dict[str, Any] = {"max_restarts": -1, "max_task_retries": 3}
"""A worker that died is started anew, but no bundle is tried for ever, as Ray's own default would."""
PATIENCE_S = 86_400.0
"""For so long a run waits for nodes that have not come, or CPUs that other jobs have."""
FRUITLESS = 2
"""Starts in which no bundle gets done any more, until those that are left are given up."""
WORKER_LOST = (
    RayActorError,
    WorkerCrashedError,
    NodeDiedError,
    OutOfMemoryError,
    ObjectLostError,
)


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run is."""

    videos: int
    videos_done: int
    video_s: float
    """Seconds of video to do in this start."""
    video_s_done: float
    faces: int
    elapsed_s: float


def analyze(
    inputs: Sequence[str],
    out: FolderLike,
    config: AnalyzeConfig | None = None,
    *,
    limits: Limits | None = None,
    retry_failed: bool = False,
    overwrite: bool = False,
    address: str | None = None,
    insecure: bool = False,
    verbose: bool = False,
    on_listing: Callable[[Listing, bool], None] = lambda listing, finished: None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> RunSummary:
    """Analyze videos into the tables of `out`; what an earlier start has done there is not done again.

    `inputs` are files, folders, globs and manifests (see `list_videos`). Ray is the one that runs already,
    else that of `address`, RAY_ADDRESS or the job, else one of its own. `retry_failed` analyzes those of the
    inputs again that have ended as failed or partial; `overwrite` removes the run that stands in `out`, of
    whatever settings, once the new one is about to be planned. Raises FerBatchError, with nothing
    written, where the inputs, the configuration, the checkpoint or `out` can't be used. Trouble with a
    video is never raised: it ends in `videos`. `on_listing` is told too whether all is done already; then no
    Ray is started.
    """
    config, limits = config or AnalyzeConfig(), limits or Limits()
    out = open_folder(out).absolute()
    checkpoint = Path(config.checkpoint).absolute() if config.checkpoint else None
    card = check_checkpoint(checkpoint)
    load_matching_run(out, config, card, overwrite)  # before anything is made there
    with hold_lease(out, "analyze"):
        run = load_matching_run(out, config, card, overwrite)
        complete_forget(out)
        listing = list_videos(inputs)
        again = failed_videos(out) if run and retry_failed else PROBED_SCHEMA.empty_table()
        finished = run is not None and is_finished(out, listing, again)
        on_listing(listing, finished)
        if finished:
            return finalize(out)
        with ray_session(address, insecure=insecure, verbose=verbose):
            _set_up_data(verbose)
            on_progress = gauged(out, on_progress)
            workers = max(1, int(ray.cluster_resources().get("CPU", 1)))
            extend_plan(out, listing, run, again, config, card, limits, workers)
            meter = _Meter(out.subfolder("results"), on_progress)
            for todo in pending_segments(out, meter):
                out.remove_file(SUCCESS_FILE)
                meter.begin(todo)
                with call_periodically(meter.look, interval_s=meter.every_s):
                    run_bundles(todo, out.subfolder("results"), config, card, checkpoint, limits)
            return finalize(out)


def is_finished(out: OutputFolder, listing: Listing, again: pa.Table) -> bool:
    """Whether a run has ended, and nothing of what is listed is to plan, and nothing of its plan to do."""
    if not out.exists(SUCCESS_FILE):
        return False
    known = read_planned_videos(out)
    if len(select_sources_to_plan(listing.sources, known, again)) or len(
        changed_metadata(listing.sources, known)
    ):
        return False
    return next(pending_segments(out, _Meter(out.subfolder("results"), lambda progress: None)), None) is None


def extend_plan(
    out: FolderLike,
    listing: Listing,
    run: RunRecord | None,
    again: pa.Table,
    config: AnalyzeConfig,
    card: Card,
    limits: Limits,
    workers: int,
) -> None:
    """Plan what is listed and not planned yet, or changed, or among the failed that are to be tried `again`
    (as `select_sources_to_plan` takes them), in `rounds`.

    `run` is that of `out`, None for a new one. Ray is used where files have to be opened.
    """
    known = read_planned_videos(out) if run else PROBED_SCHEMA.empty_table()
    fresh = select_sources_to_plan(listing.sources, known, again)
    described = changed_metadata(listing.sources, known)
    if len(described):  # first: of a video that has changed as well, the later round counts
        add_manifest_columns(out, listing.columns)
        add_planning_round(out, described, PLAN_SCHEMA.empty_table())
    for number, part in enumerate(rounds(fresh, config.segment_s)):
        videos = probe_as_needed(part, config, lambda unknown: _probe(unknown, limits))
        segments = plan_segments(videos, config, card.half_window_s, card.model_id, workers)
        if run is None and not number:
            remove_run(out)
            create_run(out, config, card)
        if not number:
            add_manifest_columns(out, listing.columns)
        add_planning_round(out, videos, segments)


def rounds(sources: pa.Table, segment_s: float) -> Iterator[pa.Table]:
    """Listed videos, rows of `schema.SOURCES_SCHEMA`, in parts of about ROUND segments each."""
    lengths_s = sources.column("duration_s").fill_null(UNKNOWN * segment_s).to_numpy()
    counts = np.ceil(np.clip(lengths_s, segment_s, MAX_PLANNED_S) / segment_s)
    number = (np.cumsum(counts) - counts) // ROUND
    edges = np.flatnonzero(np.diff(number, prepend=-1, append=np.inf)).tolist()
    for first, end in itertools.pairwise(edges):
        yield sources.slice(first, end - first)


def pending_segments(out: OutputFolder, meter: "_Meter") -> Iterator[pa.Table]:
    """Planned segments that are not done, round by round; `meter` expects them all before the first."""
    results = out.subfolder("results")
    results.create()
    remove_leftovers(out)
    videos = read_planned_videos(out)
    if not out.exists(SUCCESS_FILE):
        names = [
            pc.unique(part.column("bundle_id")) for part in read_planned_segments(out, videos, ["bundle_id"])
        ]
        remove_damaged_bundles(results, {name for part in names for name in part.to_pylist()})
    began = time.monotonic()
    done = pa.array(sorted(list_done_bundles(results)), pa.string())
    meter.every_s = max(meter.every_s, LOOKING * (time.monotonic() - began))
    meter.videos = len(videos)
    for segments in read_planned_segments(
        out, videos, ["video_id", "bundle_id", "core_start_s", "core_end_s"]
    ):
        meter.expect(_without(segments, done))
    if meter.unfinished:
        for segments in read_planned_segments(out, videos):
            todo = _without(segments, done)
            if len(todo):
                yield todo


def run_bundles(
    plan: pa.Table,
    results: OutputFolder,
    config: AnalyzeConfig,
    card: Card,
    checkpoint: Path | None,
    limits: Limits,
) -> None:
    """Take planned segments through the stages to a file of answers a bundle, on the Ray that is connected.

    Bundles whose worker died are taken again, as long as any gets done. Those that then are left have taken
    worker after worker with them: their segments end as failed.
    """
    left = [pack_bundle(bundle_id, rows) for bundle_id, rows in split_into_bundles(plan)]
    fruitless = 0
    while left and fruitless < FRUITLESS:
        before = len(left)
        try:
            _through_stages(left, results, config, card, checkpoint, limits)
        except Exception as error:
            if not any(isinstance(cause, WORKER_LOST) for cause in _causes(error)):
                raise
        done = list_done_bundles(results)
        left = [bundle for bundle in left if _name(bundle) not in done]
        fruitless = fruitless + 1 if len(left) == before else 0
    for bundle in left:
        write_bundle(results, _given_up(bundle, card))


def _through_stages(
    work: list[pa.Table],
    results: OutputFolder,
    config: AnalyzeConfig,
    card: Card,
    checkpoint: Path | None,
    limits: Limits,
) -> None:
    """Without a GPU one stage does all; with GPUs, faces and recognition are pools of their own and crops
    cross between.
    """
    there = place()
    work = sorted(work, key=_length_s, reverse=True)  # so that no long one is left for the end
    bundles = ray.data.from_blocks(work)  # from_arrow starts workers of its own, to ask what is in each
    faces: tuple[Any, ...] = (config, card.crop_scale)
    if there.recognizers:
        arguments: tuple[Any, ...] = ("FacesStage", (*faces, AHEAD, there.faces_gpu > 0), limits)
        answers = _stage(
            bundles, Worker, arguments, there.faces, len(work), num_cpus=1, num_gpus=there.faces_gpu
        )
        answers = _stage(
            answers,
            Recognizing,
            (checkpoint, config.flip, results),
            there.recognizers,
            there.recognizers,  # which keep up with many times as many that look for faces
            num_cpus=0,
            num_gpus=there.recognize_gpu,
        )
    else:
        ahead = AHEAD if there.faces >= 2 * len(work) else 0
        arguments = ("AnalyzeStage", (*faces, checkpoint, ahead), limits, results)
        answers = _stage(bundles, Worker, arguments, there.faces, len(work), num_cpus=1)
    answers.materialize()


def _stage(
    rows: ray.data.Dataset,
    stage: type,
    arguments: tuple[Any, ...],
    workers: int,
    most: int,
    at_once: int | None = 1,
    **resources: Any,
) -> ray.data.Dataset:
    """A pool of workers; each takes so many rows at once, or a whole block.

    It begins with `workers` and has up to `most`, as nodes join; where nodes are started on demand, it asks
    for them.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # RETRIES have no named parameters yet
        return rows.map_batches(
            stage,
            fn_constructor_args=arguments,
            batch_size=at_once,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(
                min_size=1, max_size=most, initial_size=min(workers, most), max_tasks_in_flight_per_actor=2
            ),
            **resources,
            **RETRIES,
        )


def _probe(sources: pa.Table, limits: Limits) -> pa.Table:
    """Listed files to rows of `schema.PROBED_SCHEMA`; many are opened by all nodes of the cluster."""
    if not sources.num_rows:
        return PROBED_SCHEMA.empty_table()
    if len(sources) <= PROBED_HERE:
        with GuardedProbe(limits) as probe:
            return probe(sources)
    blocks = [sources.slice(first, PROBES_PER_TASK) for first in range(0, len(sources), PROBES_PER_TASK)]
    workers = max(1, int(ray.cluster_resources().get("CPU", 1)))
    probed = _stage(
        ray.data.from_blocks(blocks), GuardedProbe, (limits,), workers, len(blocks), None, num_cpus=1
    )
    return pa.concat_tables(ray.get(probed.to_arrow_refs()))


def _without(segments: pa.Table, done: pa.Array) -> pa.Table:
    """The segments whose bundles are not done."""
    return segments.filter(pc.invert(pc.is_in(segments.column("bundle_id"), done)))


def _name(bundle: pa.Table) -> str:
    return str(bundle.column("bundle_id")[0])


def _given_up(bundle: pa.Table, card: Card) -> pa.Table:
    """A bundle of answers that there are none."""
    reason = "every worker that processed this segment crashed"
    rows = [
        {name: row.get(name) for name in RESULTS_SCHEMA.names}
        | {"status": "failed", "error": reason, "model_id": card.model_id, "moments": [], "faces": []}
        | dict.fromkeys(("read_s", "frames", "decode_s", "detect_s", "crop_s", "recognize_s"), 0)
        for row in unpack_bundles(bundle, PLAN_SCHEMA).to_pylist()
    ]
    return pack_bundle(_name(bundle), pa.Table.from_pylist(rows, schema=RESULTS_SCHEMA))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and those that it came from; Ray's own hold theirs in `cause`."""
    while error is not None:
        yield error
        error = getattr(error, "cause", None) or error.__cause__ or error.__context__


def _length_s(bundle: pa.Table) -> float:
    rows = unpack_bundles(bundle, PLAN_SCHEMA).select(["start_s", "end_s"]).to_pylist()
    return float(sum(row["end_s"] - row["start_s"] for row in rows))


class _Meter:
    """How far a run has come, by the files in `results`; told to `report` by each `look`."""

    def __init__(self, results: OutputFolder, report: Callable[[Progress], None]) -> None:
        self.results, self.report = results, report
        self.began = time.monotonic()
        self.every_s = 0.5
        """How often to look: seldom where so many are done that to list them takes long."""
        self.videos = 0
        self.video_s = self.video_s_done = 0.0
        self.unfinished = self.faces = 0
        self.length_s: dict[str, float] = {}
        """Of the bundles that are under way."""
        self.parts: dict[str, set[str]] = {}
        """The videos that each of them has parts of."""
        self.open: Counter[str] = Counter()
        """How many of them each video has parts in."""

    def expect(self, todo: pa.Table) -> None:
        """Count segments that are to be done in this start."""
        lengths_s = pc.subtract(todo.column("core_end_s"), todo.column("core_start_s"))
        self.video_s += pc.sum(lengths_s).as_py() or 0.0
        self.unfinished += pc.count_distinct(todo.column("video_id")).as_py()

    def begin(self, todo: pa.Table) -> None:
        """From now on look at these, which have been counted."""
        for row in todo.select(["bundle_id", "video_id", "core_start_s", "core_end_s"]).to_pylist():
            bundle = row["bundle_id"]
            self.length_s[bundle] = self.length_s.get(bundle, 0) + row["core_end_s"] - row["core_start_s"]
            self.parts.setdefault(bundle, set()).add(row["video_id"])
        self.open.update(video for videos in self.parts.values() for video in videos)

    def look(self) -> None:
        """See what has been done since the last time, and report."""
        for bundle_id in self.length_s.keys() & list_done_bundles(self.results):
            self.video_s_done += self.length_s.pop(bundle_id)
            self.faces += read_face_count(self.results, bundle_id)
            for video in self.parts.pop(bundle_id):
                self.open[video] -= 1
                self.unfinished -= not self.open[video]
        self.report(
            Progress(
                videos=self.videos,
                videos_done=self.videos - self.unfinished,
                video_s=self.video_s,
                video_s_done=self.video_s_done,
                faces=self.faces,
                elapsed_s=time.monotonic() - self.began,
            )
        )


def _set_up_data(verbose: bool) -> None:
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = verbose
    context.print_on_execution_start = verbose
    context.execution_no_progress_timeout_s = PATIENCE_S
    # Ray's makers are told nothing of a run: it is nobody's business, and takes a process of its own.
    os.environ["RAY_DATA_USAGE_DISABLED"] = "1"
    # Not its errors either: what ends a run is raised, and told once.
    logging.getLogger("ray.data").setLevel(logging.INFO if verbose else logging.CRITICAL)
