"""Recognition of bundles: segments share batches, but do not affect each other's predictions."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from fer_batch.pipeline.stages import RecognizeStage
from fer_batch.schema import (
    FACE_TYPE,
    FACES_SCHEMA,
    RESULTS_SCHEMA,
    bundle_schema,
    pack_bundle,
    unpack_bundles,
)

Segment = dict[str, Any]


@pytest.fixture(scope="module")
def stage() -> RecognizeStage:
    return RecognizeStage(None, flip=True)


@pytest.fixture(scope="module")
def segment() -> Callable[..., Segment]:
    """Make a segment with two tracks; its first two faces are before the core."""

    def make(number: int, faces: int) -> Segment:
        rng = np.random.default_rng(number)
        rows = [
            dict.fromkeys((field.name for field in FACE_TYPE), 0.5)
            | {"time_s": i / 5, "frame_index": 5 * i if i > 1 else -1, "track": i % 2}
            for i in range(faces)
        ]
        crops = rng.integers(0, 256, faces * 48 * 48, np.uint8)
        return {
            "segment_id": f"v/1/{number:05d}", "video_id": "v", "version": "1", "index": number,
            "core_start_s": 0.0, "core_end_s": 9.0, "status": "ok", "error": None, "read_s": 9.0,
            "frames": 225, "moments": [], "faces": rows, "crops": crops.tobytes(),
            "decode_s": 0.1, "detect_s": 0.2, "crop_s": 0.3,
        }  # fmt: skip

    return make


def bundle(name: str, *segments: Segment) -> pa.Table:
    return pack_bundle(name, pa.Table.from_pylist(list(segments), schema=FACES_SCHEMA))


def result_rows(table: pa.Table) -> list[Segment]:
    return [
        {k: v for k, v in row.items() if k != "recognize_s"}
        for row in unpack_bundles(table, RESULTS_SCHEMA).to_pylist()
    ]


def test_predictions_do_not_depend_on_other_segments(
    stage: RecognizeStage, segment: Callable[..., Segment]
) -> None:
    sizes = (3, 0, 40, 1, 17)
    alone = [result_rows(stage(bundle("x", segment(k, n))))[0] for k, n in enumerate(sizes)]
    segments = [segment(k, n) for k, n in enumerate(sizes)]
    together = stage(bundle("x", *segments))
    assert together.schema == bundle_schema(RESULTS_SCHEMA)
    assert result_rows(together) == alone
    apart = stage(pa.concat_tables([bundle("x", *segments[:3]), bundle("y", *segments[3:])]))
    assert apart.column("bundle_id").to_pylist() == ["x", "y"]
    assert result_rows(apart) == alone


def test_only_faces_in_the_core_have_predictions(
    stage: RecognizeStage, segment: Callable[..., Segment]
) -> None:
    faces = result_rows(stage(bundle("x", segment(0, 6))))[0]["faces"]
    assert [len(face["probs"]) for face in faces] == [0, 0, 7, 7, 7, 7]
    assert all(sum(face["probs"]) == pytest.approx(1, abs=1e-5) for face in faces[2:])


def test_time_is_distributed_by_the_number_of_crops(
    stage: RecognizeStage, segment: Callable[..., Segment]
) -> None:
    table = stage(bundle("x", segment(0, 30), segment(1, 0), segment(2, 10)))
    seconds = unpack_bundles(table, RESULTS_SCHEMA).column("recognize_s").to_pylist()
    assert seconds[1] == 0
    assert seconds[0] == pytest.approx(3 * seconds[2])
    assert sum(seconds) > 0


def test_bundles_without_faces_or_segments_are_kept(
    stage: RecognizeStage, segment: Callable[..., Segment]
) -> None:
    assert result_rows(stage(bundle("x", segment(0, 0))))[0]["faces"] == []
    assert stage(bundle("x")).column("bundle_id").to_pylist() == ["x"]
    assert stage(bundle_schema(FACES_SCHEMA).empty_table()).num_rows == 0


@pytest.mark.slow
def test_stage_does_not_import_the_compiler_of_torch() -> None:
    """Its import would take a second of each worker's start."""
    script = (
        "import sys; from fer_batch.config import AnalyzeConfig\n"
        "from fer_batch.pipeline.stages import AnalyzeStage\n"
        "AnalyzeStage(AnalyzeConfig(), 1.3, None)\n"
        "print(sorted({'torch._dynamo', 'sympy'} & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ended.stdout.strip() == "[]", ended.stderr
