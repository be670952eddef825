"""Let a detector in another process search key frames and confirm faces, many of many videos together.

Two kinds of requests go there. A view is a scaled picture of 0.27 MB by default, whose boxes P-Net and R-Net
propose. Patches of expected faces come from full pictures, and O-Net classifies them.
"""

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from torch import Tensor

from fer_batch.config import AnalyzeConfig
from fer_batch.video.planes import Picture
from fer_batch.vision.detect import GROUP_BYTES, FaceDetector
from fer_batch.vision.detections import Detections
from fer_batch.vision.mtcnn import ONET_PX
from fer_batch.vision.views import PNET_PX, SearchView, view_planes

VIEWS_SCHEMA = pa.schema(
    [
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("planes", pa.binary(), nullable=False),
        pa.field("yuv_to_rgb", pa.list_(pa.float32(), 12), nullable=False),
        pa.field("transfer", pa.int32(), nullable=False),
        pa.field("min_face_px", pa.float64(), nullable=False),
        pa.field("max_face_px", pa.float64(), nullable=False),
    ]
)
"""Views: `planes` has y `(height, width) uint8`, then u and v of half the size, rounded up. `yuv_to_rgb` and
`transfer` are those of a `Picture`, and the sizes of faces are pixels of the view."""
BOXES_SCHEMA = pa.schema(
    [
        pa.field("view", pa.int64(), nullable=False),
        pa.field("box", pa.list_(pa.float32(), 4), nullable=False),
    ]
)
"""Square boxes as xyxy in pixels of a view, and the number of the view in its table."""
PATCHES_SCHEMA = pa.schema([pa.field("patch", pa.binary(3 * ONET_PX * ONET_PX), nullable=False)])
"""Patches for O-Net, `(ONET_PX, ONET_PX, 3) uint8` RGB."""
CLASSIFIED_SCHEMA = pa.schema([pa.field("outputs", pa.list_(pa.float32(), 16), nullable=False)])
"""The result of `FaceDetector.classify_patches` for each patch: 4 shifts, 10 landmarks, 2 probabilities."""
OUTPUT_SIZES = (4, 10, 2)
MIN_SENT_PATCHES = 4
"""Fewest patches that are sent. O-Net needs about 1 ms of CPU for a patch, and a request about 2 ms."""
MAX_LEVEL_PIXELS = 2**26
"""Most pixels of the largest level of a view's pyramid. No picture of the pipeline reaches it."""


class OffloadingDetector(FaceDetector):
    """A detector on a CPU that lets another process run the networks on batches.

    `request` maps rows of VIEWS_SCHEMA to rows of BOXES_SCHEMA, and rows of PATCHES_SCHEMA to rows of
    CLASSIFIED_SCHEMA. It may return a table without columns, and then the work is done here. So are searches
    around lost faces, which are smaller than a message, and a few patches. Frames of about a minute are
    processed together, because each step from frame to frame is a request.
    """

    def __init__(self, config: AnalyzeConfig, request: Callable[[pa.Table], pa.Table]) -> None:
        super().__init__(config.min_face, config.min_score, "cpu")
        self.request = request
        self.group_bytes = GROUP_BYTES["cuda"]

    @torch.inference_mode()
    def search(
        self,
        pictures: Sequence[Picture],
        pixel_aspect: float = 1.0,
        regions: Sequence[np.ndarray | None] | None = None,
    ) -> list[Detections]:
        if not pictures:
            return []
        places = regions or [None] * len(pictures)
        views = [
            view_planes(index, picture, place, self.min_face, pixel_aspect)
            for index, (picture, place) in enumerate(zip(pictures, places, strict=True))
        ]
        boxes = self._request(encode_views(views))
        if boxes is None:
            return super().search(pictures, pixel_aspect, regions)
        self.searched_on.add("gpu")
        return self._confirm_boxes(pictures, views, *decode_boxes(boxes), pixel_aspect)

    @torch.inference_mode()
    def classify_patches(self, patches: Sequence[np.ndarray] | np.ndarray) -> list[Tensor]:
        if len(patches) >= MIN_SENT_PATCHES:
            outputs = self._request(encode_patches(patches))
            if outputs is not None:
                return decode_classified(outputs)
        return super().classify_patches(patches)

    def _request(self, table: pa.Table) -> pa.Table | None:
        """Return the answer; None if there is none, after which small groups of frames are faster."""
        answer = self.request(table)
        self.group_bytes = GROUP_BYTES["cuda" if answer.num_columns else "cpu"]
        return answer if answer.num_columns else None


def encode_views(views: Sequence[SearchView]) -> pa.Table:
    """Return the rows of VIEWS_SCHEMA of views of planes."""
    pictures = [view.image for view in views if isinstance(view.image, Picture)]
    columns = {
        "width": [picture.width for picture in pictures],
        "height": [picture.height for picture in pictures],
        "planes": [b"".join(plane.tobytes() for plane in (p.y, p.u, p.v)) for p in pictures],
        "yuv_to_rgb": [picture.yuv_to_rgb for picture in pictures],
        "transfer": [picture.transfer for picture in pictures],
        "min_face_px": [view.min_face_px for view in views],
        "max_face_px": [view.max_face_px for view in views],
    }
    return pa.table(columns, schema=VIEWS_SCHEMA)


def decode_views(table: pa.Table) -> list[SearchView]:
    """Return the views of `encode_views`, without their places in a picture.

    Raises ValueError where they cannot come from there: the process that sends them reads untrusted files.
    """
    views = []
    for row in table.select(VIEWS_SCHEMA.names).to_pylist():
        width, height, planes, min_face_px = row["width"], row["height"], row["planes"], row["min_face_px"]
        half = (width + 1) // 2, (height + 1) // 2
        ends = width * height, width * height + half[0] * half[1], width * height + 2 * half[0] * half[1]
        if not (width > 0 and height > 0 and len(planes) == ends[2]):
            raise ValueError(f"a view of {width}×{height} has {len(planes)} bytes")
        if not (min_face_px > 0 and width * height * (PNET_PX / min_face_px) ** 2 <= MAX_LEVEL_PIXELS):
            raise ValueError(f"a view of {width}×{height} for faces of {min_face_px} pixels is too large")
        y, u, v = (
            Image.frombuffer("L", size, planes[first:end], "raw", "L", 0, 1)
            for size, first, end in zip(((width, height), half, half), (0, *ends), ends, strict=False)
        )
        matrix = tuple(row["yuv_to_rgb"])
        picture = Picture(y=y, u=u, v=v, yuv_to_rgb=matrix, transfer=row["transfer"])
        views.append(SearchView(picture, 0, 0.0, 0.0, 1.0, min_face_px, row["max_face_px"]))
    return views


def encode_boxes(boxes: Tensor, owners: Tensor) -> pa.Table:
    """Return the rows of BOXES_SCHEMA of the result of `FaceDetector.propose`."""
    columns = [pa.array(owners.numpy(), pa.int64()), _encode_floats(boxes)]
    return pa.Table.from_arrays(columns, schema=BOXES_SCHEMA)


def decode_boxes(table: pa.Table) -> tuple[Tensor, Tensor]:
    """Return boxes `(n, 4) float32` and the view of each `(n,) int64`."""
    return _decode_floats(table, "box", 4), torch.from_numpy(table.column("view").to_numpy().copy())


def encode_patches(patches: Sequence[np.ndarray] | np.ndarray) -> pa.Table:
    """Return the rows of PATCHES_SCHEMA of `(ONET_PX, ONET_PX, 3) uint8` patches."""
    return pa.table({"patch": [patch.tobytes() for patch in patches]}, schema=PATCHES_SCHEMA)


def decode_patches(table: pa.Table) -> list[np.ndarray]:
    """Return the patches of `encode_patches`. Raises ValueError where they cannot come from there."""
    if table.schema != PATCHES_SCHEMA:
        raise ValueError(f"patches have the columns {table.schema}")
    patches = table.column("patch").to_pylist()
    return [np.frombuffer(patch, np.uint8).reshape(ONET_PX, ONET_PX, 3) for patch in patches]


def encode_classified(outputs: Sequence[Tensor]) -> pa.Table:
    """Return the rows of CLASSIFIED_SCHEMA of the result of `FaceDetector.classify_patches`."""
    return pa.Table.from_arrays([_encode_floats(torch.cat([*outputs], dim=1))], schema=CLASSIFIED_SCHEMA)


def decode_classified(table: pa.Table) -> list[Tensor]:
    """Return shifts `(n, 4)`, landmarks `(n, 10)` and probabilities `(n, 2)`."""
    return [*_decode_floats(table, "outputs", sum(OUTPUT_SIZES)).split(OUTPUT_SIZES, dim=1)]


def _encode_floats(rows: Tensor) -> pa.Array:
    values = pa.array(rows.contiguous().numpy().ravel(), pa.float32())
    return pa.FixedSizeListArray.from_arrays(values, rows.shape[1])


def _decode_floats(table: pa.Table, name: str, size: int) -> Tensor:
    values = table.column(name).combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return torch.from_numpy(values.astype(np.float32).reshape(-1, size))
