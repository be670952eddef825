"""Speed of queries over ten million rows, and of the overlay."""

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from deltalake import DeltaTable, write_deltalake
from media import clip, enlarged, kept
from speed_stages import CARD, Measurement, Setup

from fer_batch.pipeline.analyze import analyze
from fer_batch.run.snapshot import write_snapshot
from fer_batch.runtime import ray_session
from fer_batch.schema import (
    EMOTIONS,
    MOMENTS_SCHEMA,
    SCHEMA_VERSION,
    VIDEOS_SCHEMA,
    conform_table,
    probability_column,
    tracks_schema,
)
from fer_batch.timeline.store import open_timeline


def measure_shares(setup: Setup) -> Measurement:
    """Seconds for the shares of 1,000 videos, from 10 million rows of `tracks`."""
    timeline = open_timeline(kept(setup.media / "ten_million", write_ten_million_rows))
    shares = """
        SELECT video_id, emotion, count(*) / sum(count(*)) OVER (PARTITION BY video_id) AS share
        FROM tracks GROUP BY video_id, emotion"""
    return time_queries({"shares": lambda: timeline.sql(shares)}, setup.runs)


def measure_queries(setup: Setup) -> Measurement:
    """Seconds of the slowest query over all of 10 million rows of `tracks`."""
    timeline = open_timeline(kept(setup.media / "ten_million", write_ten_million_rows))
    events = pa.table({"video": [f"{v:016x}" for v in range(1000)], "start_s": [10.0] * 1000})
    events = events.append_column("end_s", pa.array([70.0] * 1000))
    return time_queries(
        {
            "shares": lambda: timeline.shares(by=[]),
            "shares by video": timeline.shares,
            "shares by minute": lambda: timeline.shares(every_s=60),
            "episodes": timeline.episodes,
            "peaks": timeline.peaks,
            "peaks of happy": lambda: timeline.peaks("happy"),
            "turning points": timeline.turning_points,
            "co-occurrence": timeline.co_occurrence,
            "co-occurrence by pair": lambda: timeline.co_occurrence(by="pair"),
            "baseline": timeline.baseline,
            "baseline of a video": lambda: timeline.baseline(video=f"{1:016x}"),
            "smooth": timeline.smooth,
            "smooth of a video": lambda: timeline.smooth(video=f"{1:016x}"),
            "resample": timeline.resample,
            "resample by track": lambda: timeline.resample(by="track"),
            "join": lambda: timeline.join_events(events),
            "summary": lambda: timeline.sql("FROM summary"),
        },
        setup.runs,
    )


def measure_overlay(setup: Setup) -> Measurement:
    """Seconds of 720p video with two faces that the overlay draws in one second."""
    video = enlarged(setup.media, clip("heads_female-and-male.mp4"), 720, 20)
    wall_s, cpu_s = [], []
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        with ray_session(num_cpus=2):
            analyze([str(video)], run)
        timeline = open_timeline(run)
        for _ in range(setup.runs):
            began, before = time.perf_counter(), time.process_time()
            overlay = timeline.write_overlay(video.name, Path(folder) / "annotated.mp4")
            wall_s.append(time.perf_counter() - began)
            cpu_s.append(time.process_time() - before)
    return {
        "value": overlay.frames / 25 / statistics.median(wall_s),
        "seconds": wall_s,
        "cpu_ms_a_frame": 1000 * statistics.median(cpu_s) / overlay.frames,
    }


def time_queries(queries: dict[str, Callable[[], Any]], runs: int) -> Measurement:
    """Return the seconds of the slowest query until all its rows are read, after one warm-up."""
    seconds: dict[str, float] = {}
    rows = {}
    for name, query in queries.items():
        times_s = []
        for _ in range(runs + 1):
            began = time.perf_counter()
            rows[name] = len(query().to_arrow_table())
            times_s.append(time.perf_counter() - began)
        seconds[name] = statistics.median(times_s[1:])
        print(f"  {name}: {seconds[name]:.2f} s, {rows[name]:,} rows", flush=True)
    return {"value": max(seconds.values()), "seconds": seconds, "rows": rows}


def write_ten_million_rows(out: Path) -> None:
    """Write tables as `finalize` does: 1,000 videos with 1,000 sampled frames of 10 faces, in 8 buckets."""
    schemas = {"tracks": tracks_schema(EMOTIONS), "moments": MOMENTS_SCHEMA, "videos": VIDEOS_SCHEMA}
    tables = {
        name: DeltaTable.create(str(out / name), schema, mode="ignore", partition_by=["bucket"])
        for name, schema in schemas.items()
    }
    rng, frame = np.random.default_rng(0), np.arange(1000)
    for bucket in range(8):
        ids = np.array([f"{video:016x}" for video in range(bucket, 1000, 8)])
        uris = np.char.add(np.char.add("/archive/talks/", ids), ".mp4")
        faces = 10_000 * len(ids)
        probs = rng.dirichlet(np.full(len(EMOTIONS), 0.3), faces).astype(np.float32)
        tracks = {name: rng.random(faces, np.float32) for name in schemas["tracks"].names} | {
            "video_id": np.repeat(ids, 10_000),
            "uri": np.repeat(uris, 10_000),
            "track_id": np.tile(np.repeat(np.arange(10), 1000), len(ids)),
            "time_s": np.tile(frame / 5, 10 * len(ids)),
            "frame_index": np.tile(frame * 5, 10 * len(ids)),
            "step_s": np.full(faces, 0.2),
            "emotion": np.array(EMOTIONS)[probs.argmax(1)],
            "confidence": probs.max(1),
            **{probability_column(name): probs[:, kind] for kind, name in enumerate(EMOTIONS)},
            "model_id": np.full(faces, CARD.model_id),
        }
        moments = {
            "video_id": np.repeat(ids, 1000),
            "time_s": np.tile(frame / 5, len(ids)),
            "frame_index": np.tile(frame * 5, len(ids)),
            "faces": np.full(1000 * len(ids), 10),
            "step_s": np.full(1000 * len(ids), 0.2),
        }
        videos = {"video_id": ids, "uri": uris, "moments": np.full(len(ids), 1000)}
        videos |= dict.fromkeys(("duration_s", "read_s"), np.full(len(ids), 200.0))
        for name, columns in (("tracks", tracks), ("moments", moments), ("videos", videos)):
            columns["bucket"] = np.full(len(columns["video_id"]), bucket)
            table = conform_table(pa.table(columns), schemas[name])
            write_deltalake(tables[name], table, mode="overwrite", predicate=f"bucket = {bucket}")
    run = {"schema_version": SCHEMA_VERSION, "settings": {}, "classes": EMOTIONS}
    (out / "run.json").write_text(json.dumps(run))
    write_snapshot(out, tables, "")
