"""Describe faces by dlib's face recognition network. Descriptors stay in the memory of this process."""

from pathlib import Path
from typing import Any

import numpy as np

from fer_batch.errors import ConfigError
from fer_batch.video.planes import Picture

CHIP_PADDING = 0.25
"""Share of the face's side that is added on each side of the chip, as in the training of the network."""
REGION_SIDE = 2.0
"""Side of the region that is searched for landmarks, in heights of the face's box."""
REGION_PX = 320
"""Largest side of this region in pixels."""
EXTRA_MESSAGE = "grouping tracks into persons needs the extra `people`: pip install 'fer-batch[people]'"


class FaceDescriber:
    """Describes faces by 128 numbers, in which faces of one person are near each other.

    Raises ConfigError if the extra `people` is not installed.
    """

    def __init__(self) -> None:
        try:
            import dlib
            import face_recognition_models as models
        except ImportError as error:
            raise ConfigError(EXTRA_MESSAGE) from error
        # onnxruntime is loaded where faces are described, and not in the process that starts the child.
        from fer_batch.people.network import CHIP_PX, DESCRIPTOR_SIZE, DescriptorNetwork

        self.size, self._chip_px = DESCRIPTOR_SIZE, CHIP_PX
        self._dlib: Any = dlib
        self._landmarks = dlib.shape_predictor(models.pose_predictor_five_point_model_location())
        self._network = DescriptorNetwork(Path(models.face_recognition_model_location()))

    def describe(self, picture: Picture, box: np.ndarray, pixel_aspect: float = 1.0) -> np.ndarray:
        """Return the descriptor of one face, `(128,) float64`.

        `box` is xyxy in pixels of the picture, `pixel_aspect` the width of a pixel over its height.
        """
        region, face = _cut_region(picture, np.asarray(box, np.float64), pixel_aspect)
        rectangle = self._dlib.rectangle(*(round(side) for side in face))
        shape = self._landmarks(region, rectangle)
        chip = self._dlib.get_face_chip(region, shape, size=self._chip_px, padding=CHIP_PADDING)
        return self._network.describe(np.asarray(chip))


def _cut_region(picture: Picture, box: np.ndarray, pixel_aspect: float) -> tuple[np.ndarray, list[float]]:
    """Return the RGB region around a face with square pixels, and the face in it as dlib's detector finds it.

    That detector finds squares from the brows to the chin, MTCNN boxes from the forehead to the chin.
    """
    x0, y0, x1, y1 = box
    height = y1 - y0
    half = np.array([REGION_SIDE / 2 * height / pixel_aspect, REGION_SIDE / 2 * height])
    centre = np.array([(x0 + x1) / 2, (y0 + y1) / 2])
    low = np.maximum(centre - half, 0)
    high = np.minimum(centre + half, [picture.width, picture.height])
    scale = min(1.0, REGION_PX / (REGION_SIDE * height))
    factors = np.array([pixel_aspect, 1.0]) * scale
    size = np.maximum(np.round((high - low) * factors), 1).astype(int)
    region = picture.crop_rgb((*low.tolist(), *high.tolist()), (int(size[0]), int(size[1])))
    middle = (centre + np.array([0, 0.06 * height]) - low) * factors
    side = 0.42 * height * scale
    return np.ascontiguousarray(region), [*(middle - side), *(middle + side)]
