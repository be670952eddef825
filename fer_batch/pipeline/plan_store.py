"""The run's record on disk: `run.json`, and `plan/`, which grows by a round each time videos are added.

A round is two files: the segments, and then the probed videos, whose arrival makes the round count.
"""

import json
import os
import platform
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fer_batch.config import AnalyzeConfig, difference
from fer_batch.errors import ConfigError, OutputError
from fer_batch.files import check_path, write_json, write_parquet
from fer_batch.model.weights import Card
from fer_batch.schema import PLAN, PROBED, SCHEMA_VERSION

BUCKET_HOURS = 20


def check_output(out: Path, config: AnalyzeConfig, card: Card) -> dict[str, Any] | None:
    """The run that stands in `out`, None where there is none yet.

    Raises ConfigError, with the difference, where it was made with another configuration or model;
    OutputError where the folder holds something else.
    """
    check_path(out)
    standing = next(folder for folder in (out, *out.parents) if folder.exists())
    if not standing.is_dir():
        raise OutputError(f"{standing} is a file; --out needs a folder: new, empty, or of an earlier run")
    if not os.access(standing, os.W_OK | os.X_OK):
        raise OutputError(f"{standing} may not be written to; name another --out")
    if not (out / "run.json").exists():
        if out.exists() and any(not p.name.startswith(".") for p in out.iterdir()):
            raise OutputError(
                f"{out} holds something else than a run of fer-batch; name a new or empty folder"
            )
        return None
    run = read_run(out)
    # What a run doesn't name was not there to be chosen yet: no face was mirrored then.
    changed = difference({"flip": False} | run["settings"], _settings(config, card))
    if changed:
        raise ConfigError(
            f"{out} holds a run of another configuration: {changed}. "
            "Give the same options to go on with it, or name another --out"
        )
    return run


def read_run(out: Path) -> dict[str, Any]:
    """`run.json` of an output folder; raises OutputError where there is none."""
    try:
        run = json.loads((out / "run.json").read_text())
        if not (isinstance(run, dict) and run.keys() >= {"settings", "classes", "buckets"}):
            raise ValueError("it is not a run of fer-batch")
        return run
    except FileNotFoundError:
        raise OutputError(f"{out} holds no run of fer-batch (there is no {out / 'run.json'})") from None
    except (OSError, ValueError) as error:
        raise OutputError(f"{out / 'run.json'} can't be read: {error}") from error


def start_run(out: Path, config: AnalyzeConfig, card: Card, planned_s: float) -> dict[str, Any]:
    """Write `run.json` of a new run. Its number of buckets is chosen here, once, from the seconds of video
    planned.
    """
    run = {
        "schema_version": SCHEMA_VERSION,
        "settings": _settings(config, card),
        "fingerprint": config.fingerprint(card.model_id),
        "classes": list(card.classes),
        "buckets": min(4096, max(1, round(planned_s / 3600 / BUCKET_HOURS))),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version()}
        | {
            name: version(name)
            for name in ("fer-batch", "ray", "torch", "av", "facenet-pytorch", "deltalake")
        },
    }
    write_json(out / "run.json", run)
    return run


def add_round(out: Path, videos: list[dict[str, Any]], segments: pa.Table) -> None:
    """Add probed videos and their segments to the plan; a crash in between leaves the plan as it was."""
    folder = out / "plan"
    folder.mkdir(exist_ok=True)
    taken = [int(p.name[:6]) for p in folder.glob("*.videos.parquet")]
    name = f"{max(taken, default=0) + 1:06d}"
    write_parquet(folder / f"{name}.parquet", segments)
    write_parquet(folder / f"{name}.videos.parquet", pa.Table.from_pylist(videos, schema=PROBED))


def read_plan(out: Path) -> tuple[list[dict[str, Any]], pa.Table]:
    """All probed videos, each in its latest version, and the segments of those versions."""
    videos: dict[str, dict[str, Any]] = {}
    parts = [PLAN.empty_table()]
    for path in sorted((out / "plan").glob("*.videos.parquet")):
        for row in pq.read_table(path).to_pylist():
            videos[row["video_id"]] = row
        parts.append(pq.read_table(path.with_name(path.name.replace(".videos", ""))).cast(PLAN))
    segments = pa.concat_tables(parts)
    current = [
        videos.get(video_id, {}).get("version") == version
        for video_id, version in zip(
            segments.column("video_id").to_pylist(), segments.column("version").to_pylist(), strict=True
        )
    ]
    return list(videos.values()), segments.filter(pa.array(current, pa.bool_()))


def _settings(config: AnalyzeConfig, card: Card) -> dict[str, Any]:
    """What the answers depend on: a model is told by its weights, wherever its file lies."""
    return asdict(config) | {"checkpoint": card.model_id}
