"""Views and patches cross between processes, and faces are those of a detector that works alone."""

import asyncio
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import ray
import torch
from av.video.reformatter import ColorTrc
from PIL import Image
from torch import Tensor

from fer_batch.config import AnalyzeConfig, Limits
from fer_batch.pipeline.child import START_TIMEOUT_S, WorkerProcess
from fer_batch.pipeline.detector import REQUEST_TIMEOUT_S, Detector, DetectorClient
from fer_batch.pipeline.offload import (
    BOXES_SCHEMA,
    CLASSIFIED_SCHEMA,
    MIN_SENT_PATCHES,
    PATCHES_SCHEMA,
    VIEWS_SCHEMA,
    OffloadingDetector,
    decode_boxes,
    decode_classified,
    decode_patches,
    decode_views,
    encode_boxes,
    encode_classified,
    encode_patches,
    encode_views,
)
from fer_batch.pipeline.stages import FacesStage
from fer_batch.video.planes import BT601_WEIGHTS, Picture, yuv_to_rgb_matrix
from fer_batch.video.segment import Segment
from fer_batch.vision import batched
from fer_batch.vision.batched import load_images, propose_boxes
from fer_batch.vision.detect import GROUP_BYTES
from fer_batch.vision.views import SearchView, view_planes

CONFIG = AnalyzeConfig(min_face=0.2)
MATRIX = yuv_to_rgb_matrix(*BT601_WEIGHTS, full_range=False)


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector()


def make_picture(width: int = 5, height: int = 3, transfer: int = ColorTrc.UNSPECIFIED) -> Picture:
    """Return a picture whose planes are ramps, with colours of half the size."""
    sizes = ((width, height), *[((width + 1) // 2, (height + 1) // 2)] * 2)
    y, u, v = (Image.fromarray(np.linspace(60, 200, w * h, dtype=np.uint8).reshape(h, w)) for w, h in sizes)
    return Picture(y=y, u=u, v=v, yuv_to_rgb=MATRIX, transfer=transfer)


def make_view(picture: Picture | None = None) -> SearchView:
    return SearchView(picture or make_picture(), 5, 1.0, 2.0, 3.0, 16.0, np.inf)


def view_image(image: Image.Image) -> SearchView:
    """Return a view of a whole RGB image as planes."""
    picture = Picture.from_rgb(np.asarray(image))
    return make_view(picture.crop_planes((0, 0, *image.size), image.size))


def answer(detector: Detector, *tables: pa.Table) -> list[pa.Table]:
    """Send requests at the same time."""

    async def request() -> list[pa.Table]:
        return await asyncio.gather(*map(detector.answer, tables))

    return asyncio.run(request())


def test_no_views_have_no_boxes(detector: Detector) -> None:
    assert decode_views(encode_views([])) == []
    (boxes,) = answer(detector, encode_views([]))
    assert boxes.schema == BOXES_SCHEMA
    assert [part.shape for part in decode_boxes(boxes)] == [(0, 4), (0,)]


def test_views_and_boxes_arrive_as_they_were() -> None:
    sent = make_picture(transfer=ColorTrc.SMPTE2084)
    (view,) = decode_views(encode_views([make_view(sent)]))
    assert isinstance(view.image, Picture)
    assert np.array_equal(view.image.to_rgb(), sent.to_rgb())
    assert (view.min_face_px, view.max_face_px) == (16.0, np.inf)
    boxes, owners = torch.arange(8.0).reshape(2, 4), torch.tensor([3, 0])
    received = decode_boxes(encode_boxes(boxes, owners))
    assert all(map(torch.equal, received, (boxes, owners)))


@pytest.mark.parametrize("count", [0, 1, 3])
def test_patches_and_their_outputs_arrive_as_they_were(count: int) -> None:
    patches = [np.full((48, 48, 3), number, np.uint8) for number in range(count)]
    received = decode_patches(encode_patches(patches))
    assert [part.tolist() for part in received] == [part.tolist() for part in patches]
    outputs = [torch.rand(count, size) for size in (4, 10, 2)]
    assert all(map(torch.equal, decode_classified(encode_classified(outputs)), outputs))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        pytest.param({"width": 400}, "has 27 bytes", id="more pixels than there are"),
        pytest.param({"height": -3, "width": -5}, "has 27 bytes", id="negative sides"),
        pytest.param({"min_face_px": 1e-4}, "too large", id="a huge pyramid"),
        pytest.param({"min_face_px": float("nan")}, "too large", id="not a number"),
    ],
)
def test_forged_views_are_refused(changes: dict[str, float], reason: str) -> None:
    rows = encode_views([make_view()]).to_pylist()
    with pytest.raises(ValueError, match=reason):
        decode_views(pa.Table.from_pylist([rows[0] | changes], schema=VIEWS_SCHEMA))


def test_forged_patches_are_refused() -> None:
    with pytest.raises(ValueError, match="patches have the columns"):
        decode_patches(pa.table({"patch": [b"short"]}))


def test_planes_become_rgb_on_the_device_as_on_a_cpu() -> None:
    for transfer in (ColorTrc.UNSPECIFIED, ColorTrc.SMPTE2084):
        picture = make_picture(64, 36, transfer)
        (image,) = load_images([make_view(picture)], torch.device("cpu"))
        difference = image.permute(1, 2, 0).numpy() - picture.to_rgb()
        assert np.abs(difference).max() <= 1


@pytest.mark.parametrize(
    ("size", "min_face", "expected"),
    [
        pytest.param((1920, 1080), 0.05, (569, 320), id="1080p"),
        pytest.param((640, 360), 0.05, (569, 320), id="360p"),
        pytest.param((320, 180), 0.05, (320, 180), id="never larger"),
        pytest.param((1920, 1080), 0.5, (57, 32), id="large faces"),
    ],
)
def test_views_have_the_size_that_the_smallest_face_needs(
    size: tuple[int, int], min_face: float, expected: tuple[int, int]
) -> None:
    view = view_planes(0, make_picture(*size), None, min_face, 1.0)
    assert view.image.size == expected
    assert view.min_face_px == pytest.approx(16, abs=0.1) or size == expected
    assert encode_views([view]).nbytes < 300_000


def test_requests_at_the_same_time_share_a_batch(
    detector: Detector, sample_frames: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = []

    def record(views: list[SearchView], *arguments: Any) -> tuple[Tensor, Tensor]:
        batches.append(len(views))
        return propose_boxes(views, *arguments)

    monkeypatch.setattr(batched, "propose_boxes", record)
    face = encode_views([view_image(Image.fromarray(sample_frames[0]).resize((160, 90)))])
    blank = encode_views([view_image(Image.new("RGB", (160, 90)))])
    alone, *_ = answer(detector, face)
    nothing, *others = answer(detector, blank, *[face] * 63)
    assert batches == [1, 64]
    assert len(alone) > 0 == len(nothing)
    for boxes in others:
        assert np.allclose(decode_boxes(boxes)[0], decode_boxes(alone)[0], atol=0.01)


def test_patches_at_the_same_time_share_a_batch(detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = []
    classify = detector.detector.classify_patches

    def record(patches: list[np.ndarray]) -> list[Tensor]:
        batches.append(len(patches))
        return classify(patches)

    monkeypatch.setattr(detector.detector, "classify_patches", record)
    noise = np.random.default_rng(0).integers(0, 256, (40, 48, 48, 3), np.uint8)
    first, *others, none = answer(
        detector, *[encode_patches(noise[number::8]) for number in range(8)], PATCHES_SCHEMA.empty_table()
    )
    assert batches == [40]
    assert none.equals(CLASSIFIED_SCHEMA.empty_table())
    for number, outputs in enumerate([first, *others]):
        expected = classify([*noise[number::8]])
        assert all(map(partial(torch.allclose, atol=1e-4), decode_classified(outputs), expected))


def test_few_patches_and_those_without_an_answer_are_classified_here() -> None:
    requests: list[int] = []

    def refuse(table: pa.Table) -> pa.Table:
        requests.append(len(table))
        return pa.table({})

    detector = OffloadingDetector(CONFIG, refuse)
    assert detector.group_bytes == GROUP_BYTES["cuda"]
    for count in (1, MIN_SENT_PATCHES):
        outputs = detector.classify_patches([np.zeros((48, 48, 3), np.uint8)] * count)
        assert [part.shape for part in outputs] == [(count, 4), (count, 10), (count, 2)]
    assert requests == [MIN_SENT_PATCHES]
    assert detector.group_bytes == GROUP_BYTES["cpu"]


def test_first_answer_may_take_as_long_as_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    limits_s: list[float] = []

    def get(reference: object, timeout: float) -> pa.Table:
        limits_s.append(timeout)
        return pa.table({})

    monkeypatch.setattr(ray, "get", get)
    client = DetectorClient(SimpleNamespace(answer=SimpleNamespace(remote=lambda table: None)))
    for _ in range(3):
        client.request(pa.table({}))
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
    assert [rows.column("detected_on")[0].as_py() for rows in (alone, offloaded)] == ["cpu", "gpu"]
    assert np.array_equal(read_boxes(alone), read_boxes(expected))
    views = [table for table in requests if table.schema == VIEWS_SCHEMA]
    patches = [len(table) for table in requests if table.schema == PATCHES_SCHEMA]
    assert len(views) + len(patches) == len(requests)
    assert sum(map(len, views)) >= 2
    assert all(table.nbytes < 300_000 * len(table) for table in views)
    assert min(patches) >= MIN_SENT_PATCHES
    assert offloaded.column("moments").equals(expected.column("moments"))
    assert np.abs(read_boxes(offloaded) - read_boxes(expected)).max() < 0.05


@pytest.mark.slow
def test_process_whose_gpu_cannot_decode_decodes_in_software(sample: Path) -> None:
    segment = Segment.whole(sample).end_at(1.0)
    arguments = (CONFIG, 0.9, 0, True)
    rows = []
    for gpu in (999, None):
        child = WorkerProcess("fer_batch.pipeline.stages:FacesStage", (*arguments, gpu), Limits(), gpu=True)
        try:
            rows.append(child.call("extract_faces", segment))
        finally:
            child.close()
    assert rows[0].column("status")[0].as_py() == "ok"
    assert np.array_equal(*map(read_boxes, rows))


def read_boxes(rows: pa.Table) -> np.ndarray:
    """Return all boxes of rows of FACES_SCHEMA, `(n, 4) float`."""
    faces = pc.list_flatten(rows.column("faces")).to_pylist()
    return np.array([[face[f"box_{corner}"] for corner in ("x0", "y0", "x1", "y1")] for face in faces])
