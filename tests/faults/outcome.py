"""Analyze one file in its own process, which may crash or hang."""

import functools
import multiprocessing
from collections import Counter
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from fer_batch.config import AnalyzeConfig
from fer_batch.inputs.listing import list_videos
from fer_batch.inputs.probe import probe_videos
from fer_batch.inputs.segments import plan_segments
from fer_batch.video.reader import SegmentReader
from fer_batch.video.segment import Segment
from fer_batch.vision.detect import FaceDetector
from fer_batch.vision.faces import extract_faces

CONFIG = AnalyzeConfig(min_face=0.2)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The outcome of a file."""

    status: str
    """"ok", "partial", "failed", "no_video"; "crash" or "hang" where the process didn't end by itself."""
    error: str = ""
    moments: int = 0
    faces: int = 0
    read_s: float = 0.0


def analyze_in_child(path: Path, timeout_s: float, detect: bool) -> Outcome:
    """Analyze a file in a child process; only decode it if `detect` is False."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "pandas"])  # which pyarrow imports when it is first used
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_work, args=(theirs, path, detect), daemon=True)
    child.start()
    theirs.close()
    try:
        if not ours.poll(timeout_s):
            return Outcome(status="hang")
        found: Outcome = ours.recv()
    except EOFError:
        child.join()
        return Outcome(status="crash", error=f"exit code {child.exitcode}")
    finally:
        child.kill()
        child.join()
    return found


def _work(answer: Connection, path: Path, detect: bool) -> None:
    torch.set_num_threads(1)
    answer.send(Outcome(**analyze_file(path, detect)))


def analyze_file(path: Path, detect: bool) -> dict:
    """Probe, plan and analyze each segment; return the fields of an `Outcome`."""
    videos = probe_videos(list_videos([str(path)]).sources)
    (video,) = videos.to_pylist()
    if video["status"] != "ok":
        return {"status": video["status"], "error": video["error"]}
    states: Counter[str] = Counter()
    errors: dict[str, None] = {}
    moments = faces = 0
    read_s = 0.0
    for segment in plan_segments(videos, CONFIG, 1.0, "model", 1).to_pylist():
        if detect:
            found = extract_faces(Segment.from_row(segment), CONFIG, _detector(), 0.96)
            state, error, seen = found.status, found.error, len(found.moments)
            read_s = max(read_s, found.read_s)
            faces += len(found.faces)
        else:
            reader = SegmentReader(Segment.from_row(segment), CONFIG.fps)
            seen, error = sum(frame.index >= 0 for frame in reader), reader.report.error
            state = "ok" if not error else "partial" if reader.report.frames else "failed"
            read_s = max(read_s, reader.report.read_s)
        states[state] += 1
        moments += seen
        errors |= {error: None} if error else {}
    status = "failed" if set(states) == {"failed"} else "ok" if set(states) == {"ok"} else "partial"
    return {
        "status": status,
        "error": "; ".join(errors),
        "moments": moments,
        "faces": faces,
        "read_s": read_s,
    }


@functools.cache
def _detector() -> FaceDetector:
    return FaceDetector(CONFIG.min_face, CONFIG.min_score)
