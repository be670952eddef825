"""The main job: inputs to tables. Plans, runs what is not done yet through Ray Data, and finalizes."""

import itertools
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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

from fer_batch.archive.listing import Listing, list_videos
from fer_batch.archive.plan import plan_segments
from fer_batch.config import AnalyzeConfig, Limits
from fer_batch.model.weights import Card, load_checkpoint
from fer_batch.pipeline.finalize import RunSummary, finalize, unsuccessful
from fer_batch.pipeline.forget import complete_forget
from fer_batch.pipeline.gauges import gauged
from fer_batch.pipeline.guard import GuardedProbe, GuardedStage, NoChildError
from fer_batch.pipeline.lease import lease
from fer_batch.pipeline.plan_store import (
    add_round,
    attempts,
    check_output,
    clean,
    read_plan,
    remove_run,
    start_run,
)
from fer_batch.pipeline.results import ResultsSink, done_bundles, faces_found, remove_damaged, write_result
from fer_batch.runtime import meanwhile, ray_session
from fer_batch.schema import PLAN, RESULTS, from_bundle, to_bundle

PROBES_PER_TASK = 32
AHEAD = 24
"""Moments that a worker decodes in a second thread while it looks at others, where it has a core for that."""
RETRIES: dict[str, Any] = {"max_restarts": -1, "max_task_retries": 3}
"""A worker that died is started anew, but no bundle is tried for ever, as Ray's own default would."""
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
    out: Path,
    config: AnalyzeConfig | None = None,
    *,
    limits: Limits | None = None,
    retry_failed: bool = False,
    overwrite: bool = False,
    address: str | None = None,
    insecure: bool = False,
    verbose: bool = False,
    on_listing: Callable[[Listing], None] = lambda listing: None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> RunSummary:
    """Analyze videos into the tables of `out`; what an earlier start has done there is not done again.

    `inputs` are files, folders, globs and manifests (see `list_videos`). Ray is the one that runs already,
    else that of `address`, RAY_ADDRESS or the job, else one of its own. `retry_failed` analyzes those of the
    inputs again that have ended as failed or partial; `overwrite` removes the run that stands in `out`, of
    whatever settings, once the new one is about to be planned. Raises FerBatchError, with nothing
    written, where the inputs, the configuration, the checkpoint or `out` can't be used. Trouble with a
    video is never raised: it ends in `videos`.
    """
    config, limits = config or AnalyzeConfig(), limits or Limits()
    out = Path(out).absolute()
    checkpoint = Path(config.checkpoint).absolute() if config.checkpoint else None
    card = load_checkpoint(checkpoint)[1]
    check_output(out, config, card, overwrite)  # before anything is made there
    with lease(out, "analyze"):
        run = check_output(out, config, card, overwrite)
        complete_forget(out)
        listing = list_videos(inputs)
        on_listing(listing)
        with ray_session(address, insecure=insecure, verbose=verbose):
            _quiet_data(verbose)
            on_progress = gauged(out, on_progress)
            again = unsuccessful(out) if run and retry_failed else set()
            planned = attempts(listing.sources, read_plan(out)[0] if run else [], again)
            fresh = [vars(source) for source in listing.sources if source.video_id in planned]
            if fresh:
                videos = [v | {"attempt": planned[v["video_id"]]} for v in _probe(fresh, limits)]
                workers = max(1, int(ray.cluster_resources().get("CPU", 1)))
                segments = plan_segments(videos, config, card.half_window_s, card.model_id, workers)
                if run is None:
                    remove_run(out)
                    cores = pc.subtract(segments.column("core_end_s"), segments.column("core_start_s"))
                    start_run(out, config, card, pc.sum(cores).as_py() or 0.0)
                add_round(out, videos, segments)
            (out / "results").mkdir(exist_ok=True)
            clean(out)
            videos, plan = read_plan(out)
            remove_damaged(out / "results", plan.column("bundle_id").to_pylist())
            done = done_bundles(out / "results")
            todo = plan.filter(
                pa.array([b not in done for b in plan.column("bundle_id").to_pylist()], pa.bool_())
            )
            if todo.num_rows:
                (out / "_SUCCESS.json").unlink(missing_ok=True)
                with meanwhile(_progress(out / "results", len(videos), todo, on_progress), every_s=0.5):
                    run_bundles(todo, out / "results", config, card, checkpoint, limits)
            return finalize(out)


class Worker(GuardedStage):
    """One that dies where it can't have a guarded process, as Ray tells exceptions of workers no further.

    Ray starts another.
    """

    def __call__(self, bundles: pa.Table) -> pa.Table:
        try:
            return super().__call__(bundles)
        except NoChildError as error:
            print(error, file=sys.stderr, flush=True)
            os._exit(1)


def run_bundles(
    plan: pa.Table,
    results: Path,
    config: AnalyzeConfig,
    card: Card,
    checkpoint: Path | None,
    limits: Limits,
) -> None:
    """Take planned segments through the stages to a file of answers a bundle, on the Ray that is connected.

    Bundles whose worker died are taken again, as long as any gets done. Those that then are left have taken
    worker after worker with them: their segments end as failed.
    """
    left = list(_bundles(plan))
    fruitless = 0
    while left and fruitless < FRUITLESS:
        before = len(left)
        try:
            _through_stages(left, results, config, card, checkpoint, limits)
        except Exception as error:
            if not any(isinstance(cause, WORKER_LOST) for cause in _causes(error)):
                raise
        done = done_bundles(results)
        left = [bundle for bundle in left if _name(bundle) not in done]
        fruitless = fruitless + 1 if len(left) == before else 0
    for bundle in left:
        write_result(results, _given_up(bundle, card))


def _through_stages(
    work: list[pa.Table],
    results: Path,
    config: AnalyzeConfig,
    card: Card,
    checkpoint: Path | None,
    limits: Limits,
) -> None:
    """Without a GPU one stage does all; with GPUs, faces and recognition are pools of their own and crops
    cross between.
    """
    resources = ray.cluster_resources()
    cpus, gpus = max(1, int(resources.get("CPU", 1))), int(resources.get("GPU", 0))
    work = sorted(work, key=_length_s, reverse=True)  # so that no long one is left for the end
    bundles = ray.data.from_arrow(work)
    if gpus:
        from fer_batch.pipeline.stages import RecognizeStage

        # Four workers that decode share a GPU for detection with one that recognizes.
        answers = _stage(
            bundles,
            Worker,
            ("FacesStage", (config, card.crop_scale, AHEAD), limits),
            min(4 * gpus, cpus, len(work)),
            num_cpus=0.5,
            num_gpus=0.2,
        )
        answers = _stage(
            answers,
            RecognizeStage,
            (checkpoint, config.flip),
            min(gpus, len(work)),
            num_cpus=0.25,
            num_gpus=0.2,
        )
    else:
        workers = min(cpus, len(work))
        ahead = AHEAD if cpus >= 2 * workers else 0
        # Half a CPU each, so that the write tasks always find a place, also on one CPU.
        arguments = ("AnalyzeStage", (config, card.crop_scale, checkpoint, ahead), limits)
        answers = _stage(bundles, Worker, arguments, workers, num_cpus=0.5)
    answers.write_datasink(ResultsSink(results), ray_remote_args={"num_cpus": 0.1})


def _stage(
    rows: ray.data.Dataset,
    stage: type,
    arguments: tuple[Any, ...],
    workers: int,
    at_once: int | None = 1,
    **resources: Any,
) -> ray.data.Dataset:
    """A pool of workers; each takes so many rows at once, or a whole block."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # RETRIES have no named parameters yet
        return rows.map_batches(
            stage,
            fn_constructor_args=arguments,
            batch_size=at_once,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(
                min_size=1, max_size=workers, initial_size=workers, max_tasks_in_flight_per_actor=2
            ),
            **resources,
            **RETRIES,
        )


def _probe(sources: list[dict[str, Any]], limits: Limits) -> list[dict[str, Any]]:
    """Listed files to rows of `schema.PROBED`, in the same order, each opened on some node of the cluster."""
    fields = ("video_id", "version", "uri", "size_bytes")
    schema = pa.schema(
        [*[PLAN.field(n) for n in fields[:3]], ("size_bytes", pa.int64()), ("error", pa.string())]
    )
    table = pa.Table.from_pylist(sources, schema=schema)
    blocks = [table.slice(first, PROBES_PER_TASK) for first in range(0, len(table), PROBES_PER_TASK)]
    workers = min(max(1, int(ray.cluster_resources().get("CPU", 1))), len(blocks))
    probed = _stage(ray.data.from_arrow(blocks), GuardedProbe, (limits,), workers, None, num_cpus=0.5)
    rows = pa.concat_tables(ray.get(probed.to_arrow_refs())).to_pylist()
    order = {source["uri"]: number for number, source in enumerate(sources)}
    return sorted(rows, key=lambda row: order[row["uri"]])


def _bundles(plan: pa.Table) -> Iterator[pa.Table]:
    first = 0
    for bundle_id, rows in itertools.groupby(plan.column("bundle_id").to_pylist()):
        count = len(list(rows))
        yield to_bundle(bundle_id, plan.slice(first, count))
        first += count


def _name(bundle: pa.Table) -> str:
    return str(bundle.column("bundle_id")[0])


def _given_up(bundle: pa.Table, card: Card) -> pa.Table:
    """A bundle of answers that there are none."""
    reason = "each worker that looked at it died"
    rows = [
        {name: row.get(name) for name in RESULTS.names}
        | {"status": "failed", "error": reason, "model_id": card.model_id, "moments": [], "faces": []}
        | dict.fromkeys(("read_s", "frames", "decode_s", "detect_s", "crop_s", "recognize_s"), 0)
        for row in from_bundle(bundle, PLAN).to_pylist()
    ]
    return to_bundle(_name(bundle), pa.Table.from_pylist(rows, schema=RESULTS))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and those that it came from; Ray's own hold theirs in `cause`."""
    while error is not None:
        yield error
        error = getattr(error, "cause", None) or error.__cause__ or error.__context__


def _length_s(bundle: pa.Table) -> float:
    rows = from_bundle(bundle, PLAN).select(["start_s", "end_s"]).to_pylist()
    return float(sum(row["end_s"] - row["start_s"] for row in rows))


def _progress(
    results: Path, videos: int, todo: pa.Table, report: Callable[[Progress], None]
) -> Callable[[], None]:
    """What reports, each time it is called, how far the work has come, by the files in `results`."""
    began = time.monotonic()
    left = set(todo.column("bundle_id").to_pylist())
    length_s = dict.fromkeys(left, 0.0)
    waiting: dict[str, set[str]] = {}
    for row in todo.select(["bundle_id", "video_id", "core_start_s", "core_end_s"]).to_pylist():
        length_s[row["bundle_id"]] += row["core_end_s"] - row["core_start_s"]
        waiting.setdefault(row["bundle_id"], set()).add(row["video_id"])
    faces, done_s = 0, 0.0

    def look() -> None:
        nonlocal faces, done_s
        for bundle_id in left & done_bundles(results):
            left.discard(bundle_id)
            waiting.pop(bundle_id)
            faces += faces_found(results, bundle_id)
            done_s += length_s[bundle_id]
        unfinished = len(set().union(*waiting.values()))
        elapsed_s = time.monotonic() - began
        total_s = sum(length_s.values())
        report(
            Progress(
                videos=videos,
                videos_done=videos - unfinished,
                video_s=total_s,
                video_s_done=done_s,
                faces=faces,
                elapsed_s=elapsed_s,
            )
        )

    return look


def _quiet_data(verbose: bool) -> None:
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = verbose
    context.print_on_execution_start = verbose
    # Not its errors either: what ends a run is raised, and told once.
    logging.getLogger("ray.data").setLevel(logging.INFO if verbose else logging.CRITICAL)
