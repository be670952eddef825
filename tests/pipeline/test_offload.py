"""Views of key frames cross between processes, and faces are those of a detector that works alone."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import ray
import torch
from PIL import Image
from torch import Tensor

from fer_batch.config import AnalyzeConfig, Limits
from fer_batch.pipeline.child import START_TIMEOUT_S, WorkerProcess
from fer_batch.pipeline.detector import REQUEST_TIMEOUT_S, Detector, DetectorClient
from fer_batch.pipeline.offload import (
    BOXES_SCHEMA,
    VIEWS_SCHEMA,
    decode_boxes,
    decode_views,
    encode_boxes,
    encode_views,
)
from fer_batch.pipeline.stages import FacesStage
from fer_batch.video.segment import Segment
from fer_batch.vision import batched
from fer_batch.vision.batched import propose_boxes
from fer_batch.vision.views import SearchView

CONFIG = AnalyzeConfig(min_face=0.2)


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector()


def make_view(width: int = 4, height: int = 3, min_face_px: float = 16.0) -> SearchView:
    pixels = np.arange(width * height * 3, dtype=np.uint8).reshape(height, width, 3)
    return SearchView(Image.fromarray(pixels), 5, 1.0, 2.0, 3.0, min_face_px, np.inf)


def answer(detector: Detector, *tables: pa.Table) -> list[pa.Table]:
    """Send requests at the same time."""

    async def propose() -> list[pa.Table]:
        return await asyncio.gather(*map(detector.propose, tables))

    return asyncio.run(propose())


def test_no_views_have_no_boxes(detector: Detector) -> None:
    assert decode_views(encode_views([])) == []
    (boxes,) = answer(detector, encode_views([]))
    assert boxes.schema == BOXES_SCHEMA
    assert [part.shape for part in decode_boxes(boxes)] == [(0, 4), (0,)]


def test_views_and_boxes_arrive_as_they_were() -> None:
    (view,) = decode_views(encode_views([make_view()]))
    assert np.array_equal(np.asarray(view.image), np.asarray(make_view().image))
    assert (view.min_face_px, view.max_face_px) == (16.0, np.inf)
    boxes, owners = torch.arange(8.0).reshape(2, 4), torch.tensor([3, 0])
    received = decode_boxes(encode_boxes(boxes, owners))
    assert all(map(torch.equal, received, (boxes, owners)))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        pytest.param({"width": 400}, "has 36 bytes", id="more pixels than there are"),
        pytest.param({"height": -3, "width": -4}, "has 36 bytes", id="negative sides"),
        pytest.param({"min_face_px": 1e-4}, "too large", id="a huge pyramid"),
        pytest.param({"min_face_px": float("nan")}, "too large", id="not a number"),
    ],
)
def test_forged_views_are_refused(changes: dict[str, float], reason: str) -> None:
    rows = encode_views([make_view()]).to_pylist()
    with pytest.raises(ValueError, match=reason):
        decode_views(pa.Table.from_pylist([rows[0] | changes], schema=VIEWS_SCHEMA))


def test_requests_at_the_same_time_share_a_batch(
    detector: Detector, sample_frames: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = []

    def record(views: list[SearchView], *arguments: Any) -> tuple[Tensor, Tensor]:
        batches.append(len(views))
        return propose_boxes(views, *arguments)

    monkeypatch.setattr(batched, "propose_boxes", record)
    image = Image.fromarray(sample_frames[0]).resize((160, 90))
    face = encode_views([SearchView(image, 0, 0, 0, 1, 18.0, np.inf)])
    blank = encode_views([SearchView(Image.new("RGB", (160, 90)), 0, 0, 0, 1, 18.0, np.inf)])
    alone, *_ = answer(detector, face)
    nothing, *others = answer(detector, blank, *[face] * 63)
    assert batches == [1, 64]
    assert len(alone) > 0 == len(nothing)
    for boxes in others:
        assert np.allclose(decode_boxes(boxes)[0], decode_boxes(alone)[0], atol=0.01)


def test_first_answer_may_take_as_long_as_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    limits_s: list[float] = []

    def get(reference: object, timeout: float) -> pa.Table:
        limits_s.append(timeout)
        return pa.table({})

    monkeypatch.setattr(ray, "get", get)
    client = DetectorClient(SimpleNamespace(propose=SimpleNamespace(remote=lambda views: None)))
    for _ in range(3):
        client.propose(pa.table({}))
    assert limits_s == [START_TIMEOUT_S, REQUEST_TIMEOUT_S, REQUEST_TIMEOUT_S]


def test_process_finds_the_same_faces_with_and_without_an_answer(sample: Path, detector: Detector) -> None:
    requests: list[pa.Table] = []

    def send(views: pa.Table) -> pa.Table:
        requests.append(views)
        return answer(detector, views)[0]

    segment = Segment.whole(sample).end_at(2.0)
    child = WorkerProcess("fer_batch.pipeline.stages:FacesStage", (CONFIG, 0.9, 0, True), Limits())
    try:
        alone = child.call("extract_faces", segment)
        child.answer = send
        offloaded = child.call("extract_faces", segment)
    finally:
        child.close()
    expected = FacesStage(CONFIG, 0.9).extract_faces(segment)
    assert np.array_equal(read_boxes(alone), read_boxes(expected))
    assert requests
    assert all(views.nbytes < 400_000 for views in requests)
    assert offloaded.column("moments").equals(expected.column("moments"))
    assert np.abs(read_boxes(offloaded) - read_boxes(expected)).max() < 0.05


def read_boxes(rows: pa.Table) -> np.ndarray:
    """Return all boxes of rows of FACES_SCHEMA, `(n, 4) float`."""
    faces = pc.list_flatten(rows.column("faces")).to_pylist()
    return np.array([[face[f"box_{corner}"] for corner in ("x0", "y0", "x1", "y1")] for face in faces])
