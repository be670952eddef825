"""Run stages on Ray Data: planned segments to result files.

    segments ─ReportingWorker (decode, detect, track, crop)─▶ faces ─RecognizeWorker─▶ results

On CPUs one stage does both, because only crops would cross between two. With too few GPUs for all CPUs, each
way gets a part of the bundles.
"""

import logging
import os
from collections.abc import Collection, Mapping, Sequence
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

from fer_batch.config import Limits
from fer_batch.pipeline.detector import Detectors, run_detectors
from fer_batch.pipeline.device_errors import list_causes
from fer_batch.pipeline.guard import GuardedProbe, probe_guarded
from fer_batch.pipeline.placement import Placement, list_nodes, plan_placement, read_gpu_gb
from fer_batch.pipeline.rates import measure_recognition
from fer_batch.pipeline.reports import ReportingWorker
from fer_batch.pipeline.retries import WorkersLostError, measure_bundle_s, run_until_done
from fer_batch.pipeline.settings import PREFETCH_FRAMES, RunSettings
from fer_batch.pipeline.workers import RecognizeWorker

NO_RESOURCES_TIMEOUT_S = 86_400.0
"""Time that a run waits for nodes that have not joined, or for CPUs that other jobs hold."""
MAX_LOCAL_PROBES = 64
"""Number of files up to which the driver probes them itself, because workers take longer to start."""
PROBES_PER_TASK = 32
NODE_ID_LABEL = "ray.io/node-id"
"""Label that Ray gives each node."""
WORKER_LOST = (RayActorError, WorkerCrashedError, NodeDiedError, OutOfMemoryError, ObjectLostError)


def run_segments(segments: pa.Table, settings: RunSettings) -> None:
    """Process planned segments, rows of `schema.PLAN_SCHEMA`, on the connected Ray.

    Each finished bundle is a result file. Ray repeats the bundles of lost workers; `retries.run_until_done`
    starts the stages again for the bundles that workers have left unfinished. Raises NodeError where no node
    can process any.
    """

    def run_stages(bundles: list[pa.Table], broken: Collection[str]) -> None:
        try:
            _run_stages(bundles, settings, broken)
        except Exception as error:
            if any(isinstance(cause, WORKER_LOST) for cause in list_causes(error)):
                raise WorkersLostError(str(error)) from error
            raise

    run_until_done(segments, settings, run_stages, _has_nodes)


def _has_nodes(broken: Collection[str]) -> bool:
    """Return whether a node besides the broken ones has CPUs or GPUs."""
    return any({"CPU", "GPU"} & node["Resources"].keys() for node in list_nodes(broken))


def _run_stages(bundles: list[pa.Table], settings: RunSettings, broken: Collection[str] = ()) -> None:
    """Build the chains of stages and run them: segments to faces to results. `broken` nodes get no worker."""
    nodes = {NODE_ID_LABEL: f"!in({','.join(broken)})"} if broken else None
    working = list_nodes(broken)
    place = _place_stages(working, settings, nodes)
    chains = []
    with_gpus, without = split_work(bundles, place.gpu_share)
    with run_detectors(working if with_gpus else [], place.detectors_gpu) as detectors:
        if with_gpus:
            chains.append(_recognize_on_gpus(with_gpus, place, settings, nodes, detectors))
        if without:
            chains.append(_analyze_on_cpus(without, place, settings, nodes, detectors))
        first, *others = chains
        (first.union(*others) if others else first).materialize()


def _place_stages(
    nodes: Sequence[Mapping[str, Any]], settings: RunSettings, labels: Mapping[str, str] | None
) -> Placement:
    """Place the stages on nodes of `list_nodes`, which have these labels.

    The rate of recognition is only measured, which takes some seconds, where the placement depends on it.
    """
    resources, gpu_gb = [node["Resources"] for node in nodes], read_gpu_gb(nodes)
    place = plan_placement(resources, gpu_gb)
    if place.recognizers > 1 or (place.recognizers and place.analyzers):
        arguments = settings.recognizer_arguments
        rate = measure_recognition(arguments, settings.limits, place.recognizers_gpu, labels)
        place = plan_placement(resources, gpu_gb, rate) if rate else place
    return place


def _recognize_on_gpus(
    bundles: list[pa.Table],
    place: Placement,
    settings: RunSettings,
    nodes: dict[str, str] | None,
    detectors: Detectors,
) -> ray.data.Dataset:
    """Let workers on CPUs find faces, with detectors of their nodes, and others recognize them on GPUs."""
    arguments = (settings.config, settings.card.crop_scale, PREFETCH_FRAMES)
    faces = map_stage(
        ray.data.from_blocks(bundles),  # from_arrow would start workers to inspect the tables
        ReportingWorker,
        ("FacesStage", arguments, settings.limits, settings.queries, settings.results, detectors),
        workers=place.faces,
        max_workers=len(bundles),
        num_cpus=1,
        label_selector=nodes,
    )
    return map_stage(
        faces,
        RecognizeWorker,
        (settings.recognizer_arguments, settings.limits, settings.results, True),
        workers=place.recognizers,
        max_workers=place.recognizers,  # each is many times faster than a worker that finds faces
        num_cpus=0,
        num_gpus=place.recognizers_gpu,
        label_selector=nodes,
    )


def _analyze_on_cpus(
    bundles: list[pa.Table],
    place: Placement,
    settings: RunSettings,
    nodes: dict[str, str] | None,
    detectors: Detectors,
) -> ray.data.Dataset:
    """Let workers on CPUs find faces, with detectors of their nodes, and recognize them."""
    prefetch = PREFETCH_FRAMES if place.analyzers >= 2 * len(bundles) else 0
    arguments = settings.analyzer_arguments(prefetch)
    return map_stage(
        ray.data.from_blocks(bundles),
        ReportingWorker,
        ("AnalyzeStage", arguments, settings.limits, settings.queries, settings.results, detectors),
        workers=place.analyzers,
        max_workers=len(bundles),
        num_cpus=1,
        label_selector=nodes,
    )


def split_work(bundles: Sequence[pa.Table], share: float) -> tuple[list[pa.Table], list[pa.Table]]:
    """Split bundles into two parts, of which the first has about `share` of the work, the longest first.

    A long bundle at the end would delay the run.
    """
    parts: tuple[list[pa.Table], list[pa.Table]] = ([], [])
    work_s = [0.0, 0.0]
    for bundle in sorted(bundles, key=measure_bundle_s, reverse=True):
        number = int(work_s[0] * (1 - share) > work_s[1] * share or share == 0)
        parts[number].append(bundle)
        work_s[number] += measure_bundle_s(bundle)
    return parts


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
    autoscaler. Ray replaces lost workers and repeats their calls without end, so a stage counts its attempts.
    """
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
    )


def probe_on_cluster(sources: pa.Table, limits: Limits, queries: dict[str, str]) -> pa.Table:
    """Probe listed files on all nodes: rows of `schema.SOURCES_SCHEMA` to rows of `schema.PROBED_SCHEMA`."""
    if len(sources) <= MAX_LOCAL_PROBES:
        return probe_guarded(sources, limits, queries)
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
