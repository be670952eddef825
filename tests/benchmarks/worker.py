"""Measure the memory of a worker without Ray: python worker.py PLAN.parquet CROP_SCALE.

It prints the peak memory of the worker and its guarded process after each bundle, in bytes, as JSON.
"""

import json
import sys
import tempfile
from pathlib import Path

import pyarrow.parquet as pq

from fer_batch.config import AnalyzeConfig, Limits
from fer_batch.inputs.segments import split_into_bundles
from fer_batch.pipeline.guard import GuardedStage
from fer_batch.run.results import write_bundle
from fer_batch.schema import pack_bundle


def measure_peaks(planned: str, crop_scale: float) -> list[int]:
    """Return the peak memory after each bundle."""
    plan = pq.read_table(planned)
    stage = GuardedStage("AnalyzeStage", (AnalyzeConfig(), crop_scale, None), Limits())
    peaks_bytes = []
    with tempfile.TemporaryDirectory() as results:
        for bundle_id, rows in split_into_bundles(plan):
            write_bundle(Path(results), stage(pack_bundle(bundle_id, rows)))
            assert stage.child.process is not None
            peaks_bytes.append(_peak("self") + _peak(str(stage.child.process.pid)))
    stage.child.close()
    return peaks_bytes


def _peak(process: str) -> int:
    """Read the peak of a process; its `ru_maxrss` would include that of its parent."""
    status = Path(f"/proc/{process}/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))


if __name__ == "__main__":
    print(json.dumps(measure_peaks(sys.argv[1], float(sys.argv[2]))))
