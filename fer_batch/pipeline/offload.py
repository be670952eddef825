"""Send views of key frames to a detector in another process, and receive the boxes in them.

A view is an RGB image of a few hundred kilobytes. P-Net and R-Net search it there, many views of many videos
together. O-Net runs here, because its patches come from the full picture.
"""

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from torch import Tensor

from fer_batch.config import AnalyzeConfig
from fer_batch.vision.detect import PICTURE_MAX_IOU, FaceDetector
from fer_batch.vision.views import PNET_PX, SearchView

VIEWS_SCHEMA = pa.schema(
    [
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("pixels", pa.binary(), nullable=False),
        pa.field("min_face_px", pa.float64(), nullable=False),
        pa.field("max_face_px", pa.float64(), nullable=False),
    ]
)
"""Views: `pixels` is `(height, width, 3) uint8` RGB, and the sizes of faces are pixels of the view."""
BOXES_SCHEMA = pa.schema(
    [
        pa.field("view", pa.int64(), nullable=False),
        pa.field("box", pa.list_(pa.float32(), 4), nullable=False),
    ]
)
"""Square boxes as xyxy in pixels of a view, and the number of the view in its table."""
MAX_LEVEL_PIXELS = 2**26
"""Most pixels of the largest level of a view's pyramid. No picture of the pipeline reaches it."""


class OffloadingDetector(FaceDetector):
    """A detector on a CPU that lets another process search whole pictures and changed regions.

    `request` maps rows of VIEWS_SCHEMA to rows of BOXES_SCHEMA. It may return a table without columns, and
    then the search runs here. So do searches around lost faces, which are smaller than a message.
    """

    def __init__(self, config: AnalyzeConfig, request: Callable[[pa.Table], pa.Table]) -> None:
        super().__init__(config.min_face, config.min_score, "cpu")
        self.request = request

    def propose(self, views: Sequence[SearchView], max_iou: float) -> tuple[Tensor, Tensor]:
        if max_iou == PICTURE_MAX_IOU:
            boxes = self.request(encode_views(views))
            if boxes.num_columns:
                return decode_boxes(boxes)
        return super().propose(views, max_iou)


def encode_views(views: Sequence[SearchView]) -> pa.Table:
    """Return the rows of VIEWS_SCHEMA of views."""
    columns = {
        "width": [view.image.width for view in views],
        "height": [view.image.height for view in views],
        "pixels": [view.image.tobytes() for view in views],
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
        width, height, min_face_px = row["width"], row["height"], row["min_face_px"]
        if not (width > 0 and height > 0 and len(row["pixels"]) == 3 * width * height):
            raise ValueError(f"a view of {width}×{height} has {len(row['pixels'])} bytes")
        if not (min_face_px > 0 and width * height * (PNET_PX / min_face_px) ** 2 <= MAX_LEVEL_PIXELS):
            raise ValueError(f"a view of {width}×{height} for faces of {min_face_px} pixels is too large")
        image = Image.frombuffer("RGB", (width, height), row["pixels"], "raw", "RGB", 0, 1)
        views.append(SearchView(image, 0, 0.0, 0.0, 1.0, min_face_px, row["max_face_px"]))
    return views


def encode_boxes(boxes: Tensor, owners: Tensor) -> pa.Table:
    """Return the rows of BOXES_SCHEMA of the result of `FaceDetector.propose`."""
    values = pa.array(boxes.numpy().ravel(), pa.float32())
    columns = [pa.array(owners.numpy(), pa.int64()), pa.FixedSizeListArray.from_arrays(values, 4)]
    return pa.Table.from_arrays(columns, schema=BOXES_SCHEMA)


def decode_boxes(table: pa.Table) -> tuple[Tensor, Tensor]:
    """Return boxes `(n, 4) float32` and the view of each `(n,) int64`."""
    boxes = np.array(table.column("box").to_pylist(), np.float32).reshape(-1, 4)
    return torch.from_numpy(boxes), torch.from_numpy(table.column("view").to_numpy().copy())
