"""Check training and analysis on a real GPU, and write all measurements to one JSON file.

    python -m tests.benchmarks.gpu --out DIR [CHECK ...]
    python -m tests.benchmarks.gpu --out DIR --cpu --small

It runs at the root of a checkout and takes less than ten minutes. Each check runs in its own processes with a
time limit, so that a CUDA error or a hang in one check does not affect the others. DIR/gpu.json has a row
for each check, with its measurements and its problems, and is written after each check. The exit code is 1
if a check has problems. `--cpu` hides the GPUs, and `--small` uses less data: together they test this script.
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch

from fer_batch.pipeline.child import NO_GPUS
from tests.benchmarks.gpu_analysis import (
    measure_decoding,
    measure_detector,
    measure_faces,
    measure_guard,
    measure_memory,
    measure_pipeline,
    measure_recognizer,
)
from tests.benchmarks.gpu_setup import Measurement, Setup
from tests.benchmarks.gpu_training import measure_ddp, measure_resume, measure_training


@dataclass(frozen=True, kw_only=True)
class Check:
    """A check, and its time limit. All limits together are less than ten minutes."""

    measure: Callable[[Setup], Measurement]
    limit_s: float


CHECKS = {
    "training": Check(measure=measure_training, limit_s=60),
    "ddp": Check(measure=measure_ddp, limit_s=65),
    "resume": Check(measure=measure_resume, limit_s=100),
    "recognizer": Check(measure=measure_recognizer, limit_s=50),
    "faces": Check(measure=measure_faces, limit_s=50),
    "detector": Check(measure=measure_detector, limit_s=50),
    "decoding": Check(measure=measure_decoding, limit_s=40),
    "memory": Check(measure=measure_memory, limit_s=40),
    "guard": Check(measure=measure_guard, limit_s=40),
    "pipeline": Check(measure=measure_pipeline, limit_s=100),
}

SMALL_LIMIT_FACTOR = 10
"""Factor of all limits with `--small`, which may run on a busy machine."""


def main() -> int:
    """Run the checks, print a line for each, and write gpu.json."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checks", nargs="*", metavar="CHECK", help=", ".join(CHECKS))
    parser.add_argument("--out", required=True, type=Path, metavar="DIR")
    parser.add_argument("--cpu", action="store_true", help="hide the GPUs")
    parser.add_argument("--small", action="store_true", help="use little data")
    parser.add_argument("--row", type=Path, metavar="FILE", help=argparse.SUPPRESS)  # of the own processes
    options = parser.parse_args()
    if unknown := set(options.checks) - set(CHECKS):
        parser.error(f"there is no check {', '.join(sorted(unknown))}")
    if options.cpu:
        os.environ |= NO_GPUS | {"OMP_NUM_THREADS": "1"}
    elif not torch.cuda.is_available():
        parser.error("PyTorch finds no GPU here; --cpu checks the script itself")
    options.out.mkdir(parents=True, exist_ok=True)
    if options.row:
        (name,) = options.checks
        with tempfile.TemporaryDirectory() as folder:
            setup = Setup(folder=Path(folder), small=options.small)
            options.row.write_text(json.dumps(CHECKS[name].measure(setup)))
        return 0
    report: dict[str, Any] = {"machine": describe_machine(), "small": options.small, "checks": {}}
    for name in options.checks or CHECKS:
        row = run_check(name, CHECKS[name].limit_s * (SMALL_LIMIT_FACTOR if options.small else 1), options)
        report["checks"][name] = row
        (options.out / "gpu.json").write_text(json.dumps(report, indent=1))
        print(f"{name}: {'; '.join(row['problems']) or 'ok'} ({row['wall_s']:.0f} s)", flush=True)
    return int(any(row["problems"] for row in report["checks"].values()))


def run_check(name: str, limit_s: float, options: argparse.Namespace) -> Measurement:
    """Run a check in a process of its own; returns its measurements, `problems` and `wall_s`."""
    began = time.monotonic()
    log = options.out / f"{name}.log"
    result = options.out / f".{name}.json"
    result.unlink(missing_ok=True)
    flags = [flag for flag, given in (("--cpu", options.cpu), ("--small", options.small)) if given]
    command = [sys.executable, "-m", "tests.benchmarks.gpu", name, *flags, "--out", str(options.out)]
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, "--row", str(result)], stdout=output, stderr=output, start_new_session=True
        )
        try:
            code: int | None = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            kill_group(process.pid)
            process.wait()
    row: Measurement = {"problems": []}
    if code is None:
        row["problems"].append(f"not finished after {limit_s:.0f} s, see {log.name}")
    elif code or not result.exists():
        row["problems"].append(f"ended with exit code {code}, see {log.name}")
    else:
        row |= json.loads(result.read_text())
        result.unlink()
    return row | {"wall_s": time.monotonic() - began}


def kill_group(leader: int) -> None:
    """Kill the remaining processes of a group."""
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        return


def describe_machine() -> Measurement:
    """Describe the GPUs, the CPU and the versions of the libraries."""
    gpus = []
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        capability = f"{properties.major}.{properties.minor}"
        gpus.append({"name": properties.name, "gb": properties.total_memory / 1e9, "capability": capability})
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = {line.partition(":")[2].strip() for line in lines if line.startswith("model name")}
    return {
        "gpus": gpus,
        "cpu": ", ".join(sorted(models)),
        "cpus": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "ray": ray.__version__,
    }


if __name__ == "__main__":
    sys.exit(main())
