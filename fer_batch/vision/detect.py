"""Detect faces with the three networks of MTCNN (Zhang et al. 2016, arXiv:1604.02878).

The networks and their weights come from facenet-pytorch. `FaceDetector.detect` is the public method.
`search`, `search_near` and `refine` are the passes that `vision.schedule` combines for videos.
"""

from collections.abc import Sequence
from typing import overload

import numpy as np
import torch
from torch import Tensor

from fer_batch.config import AnalyzeConfig
from fer_batch.errors import ConfigError
from fer_batch.video.container import MAX_ASPECT_RATIO
from fer_batch.video.planes import Picture
from fer_batch.vision.batched import propose_boxes
from fer_batch.vision.detections import NO_FACES, Detections, Face
from fer_batch.vision.images import ImageInput, load_image
from fer_batch.vision.mtcnn import MTCNN, ONET_PX, bbreg, nms_numpy, rerec
from fer_batch.vision.networks import FastPNet, pad_linear_layers
from fer_batch.vision.patches import clip_to_pixels, cut_from_pictures, run_in_batches
from fer_batch.vision.proposals import propose_on_cpu
from fer_batch.vision.views import SearchView, view_neighbourhood, view_picture

PICTURE_MAX_IOU, NEAR_MAX_IOU = 0.7, 0.6
"""Largest IoU of two boxes that are both kept after P-Net and R-Net, in a picture and around a lost face."""
MIN_VISIBLE_SHARE = 0.6
"""Least share of a box inside the picture for which O-Net corrects the whole box."""
FINAL_MAX_OVERLAP = 0.7
"""Largest share of the smaller box that two faces may have in common."""
GROUP_BYTES = {"cpu": 32 << 20, "cuda": 256 << 20}
"""Bytes of a video's pictures that fill the batches of the networks. On a CPU, 1080p gets ten frames."""
IMAGES_AT_ONCE = {"cpu": 8, "cuda": 64}
"""Images that `detect` holds in memory."""


class FaceDetector:
    """Detect faces of at least `min_face` of the image height with a score of at least `min_score`.

    `device` is "cpu" or "cuda". Raises ConfigError for a value out of range.
    """

    def __init__(
        self,
        min_face: float = AnalyzeConfig.min_face,
        min_score: float = AnalyzeConfig.min_score,
        device: str = "cpu",
    ) -> None:
        if not 0 < min_face <= 1:
            raise ConfigError(f"min_face must be above 0 and at most 1, got {min_face}")
        if not 0 <= min_score < 1:
            raise ConfigError(f"min_score must be at least 0 and below 1, got {min_score}")
        self.min_face = min_face
        self.min_score = min_score
        self.device = torch.device(device)
        self.group_bytes = GROUP_BYTES[self.device.type]
        """Bytes of pictures of a video that are processed together, see `vision.schedule`."""
        self.searched_on: set[str] = set()
        """Where pictures were searched since this was cleared: "cpu" or "gpu"."""
        mtcnn = MTCNN(keep_all=True, device=self.device).eval()
        pnet = FastPNet(mtcnn.pnet) if self.device.type == "cpu" else mtcnn.pnet
        self.pnet, self.rnet, self.onet = (
            network.to(memory_format=torch.channels_last)  # three times as fast as channels first on a CPU
            for network in (pnet, mtcnn.rnet, mtcnn.onet)
        )
        for network in (self.rnet, self.onet):
            pad_linear_layers(network)

    def __repr__(self) -> str:
        device = self.device.type
        return f"FaceDetector(min_face={self.min_face:g}, min_score={self.min_score:g}, device={device!r})"

    @overload
    def detect(self, images: ImageInput) -> list[Face]: ...  # type: ignore[overload-overlap]
    @overload
    def detect(self, images: Sequence[ImageInput]) -> list[list[Face]]: ...

    def detect(self, images: ImageInput | Sequence[ImageInput]) -> list[Face] | list[list[Face]]:
        """Detect the faces of one image, or of each image of a list, from left to right.

        `images` takes paths, bytes of files, PIL images, uint8 arrays of shape `(H, W)` or `(H, W, 3)` (RGB),
        and frames of `read_frames`. An image whose sides differ by more than `MAX_ASPECT_RATIO` has no faces.
        Raises InputError for a file that is not a readable image and for any other array.

            detector = FaceDetector()
            for face in detector.detect("group.jpg"):
                print(face.box, face.score)
        """
        if isinstance(images, ImageInput):
            return self.detect([images])[0]
        faces: list[list[Face]] = [[] for _ in images]
        count = IMAGES_AT_ONCE[self.device.type]
        for first in range(0, len(images), count):
            pictures = {}
            for index, image in enumerate(images[first : first + count], first):
                loaded = load_image(image, "RGB")
                if max(loaded.size) <= MAX_ASPECT_RATIO * min(loaded.size):
                    pictures[index] = Picture.from_rgb(np.asarray(loaded))
            for index, found in zip(pictures, self.search([*pictures.values()]), strict=True):
                faces[index] = found.sort_by_x().to_faces()
        return faces

    @torch.inference_mode()
    def search(
        self,
        pictures: Sequence[Picture],
        pixel_aspect: float = 1.0,
        regions: Sequence[np.ndarray | None] | None = None,
    ) -> list[Detections]:
        """Run the whole cascade on each picture, or on a region `(4,)` xyxy of it.

        `pixel_aspect` is the width of a pixel over its height. Unlike MTCNN's own code, the pyramid and
        R-Net's patches come from a halved 8-bit picture. O-Net's patches come from the full picture.
        """
        regions = regions or [None] * len(pictures)
        if pictures:
            self.searched_on.add("gpu" if self.device.type == "cuda" else "cpu")
        views = [
            view_picture(index, picture, region, self.min_face, pixel_aspect)
            for index, (picture, region) in enumerate(zip(pictures, regions, strict=True))
        ]
        return self._run_cascade(pictures, views, pixel_aspect, PICTURE_MAX_IOU)

    @torch.inference_mode()
    def search_near(
        self, pictures: Sequence[Picture], boxes: Sequence[np.ndarray], pixel_aspect: float = 1.0
    ) -> list[Detections]:
        """Run the cascade around the `(n, 4)` boxes of each picture, for faces of about their size."""
        views = [
            view_neighbourhood(index, picture, box, pixel_aspect)
            for index, (picture, picture_boxes) in enumerate(zip(pictures, boxes, strict=True))
            for box in picture_boxes
        ]
        return self._run_cascade(pictures, views, pixel_aspect, NEAR_MAX_IOU)

    @torch.inference_mode()
    def refine(
        self, pictures: Sequence[Picture], boxes: Sequence[np.ndarray], pixel_aspect: float = 1.0
    ) -> list[Detections]:
        """Run O-Net alone on the `(n, 4)` boxes of each picture.

        Returns one face per box in the same order: its corrected box, its landmarks and its score from 0.
        """
        squares = torch.from_numpy(np.concatenate([NO_FACES.boxes, *boxes]).astype(np.float32))
        if not len(squares):
            return [NO_FACES for _ in pictures]
        owners = np.repeat(np.arange(len(boxes)), [len(part) for part in boxes])
        refined = self._run_onet(pictures, rerec(squares), owners, pixel_aspect)
        return _split_by_owner(refined, owners, len(pictures))

    def _run_cascade(
        self, pictures: Sequence[Picture], views: Sequence[SearchView], pixel_aspect: float, max_iou: float
    ) -> list[Detections]:
        """Return the faces of each picture, merged from all of its views.

        Views of one size share P-Net's batches. All views share the batches of R-Net and O-Net.
        """
        if not views:
            return [NO_FACES for _ in pictures]
        return self._confirm_boxes(pictures, views, *self.propose(views, max_iou), pixel_aspect)

    def _confirm_boxes(
        self,
        pictures: Sequence[Picture],
        views: Sequence[SearchView],
        boxes: Tensor,
        owners: Tensor,
        pixel_aspect: float,
    ) -> list[Detections]:
        """Return the faces of each picture that O-Net confirms, from the result of `propose`."""
        corners = torch.tensor([(view.left, view.top, view.left, view.top) for view in views]).reshape(-1, 4)
        scales = torch.tensor([view.scale for view in views])
        boxes = boxes * scales[owners][:, None] + corners[owners]
        places = np.array([view.picture for view in views])[owners.numpy()]
        faces = self._run_onet(pictures, boxes, places, pixel_aspect)
        is_sure = faces.scores >= self.min_score
        detections = _split_by_owner(faces.take(is_sure), places[is_sure], len(pictures))
        return [_suppress_parts(part) if len(part) > 1 else part for part in detections]

    @torch.inference_mode()
    def propose(self, views: Sequence[SearchView], max_iou: float) -> tuple[Tensor, Tensor]:
        """Run P-Net and R-Net; returns square boxes `(n, 4)` in pixels of the views, and each one's view.

        `max_iou` is the largest IoU of two boxes of a view that are both kept.
        """
        if self.device.type == "cpu":
            return propose_on_cpu(views, self.pnet, self.rnet, max_iou)
        return propose_boxes(views, self.pnet, self.rnet, self.device, max_iou)

    def _run_onet(
        self, pictures: Sequence[Picture], boxes: Tensor, owners: np.ndarray, pixel_aspect: float
    ) -> Detections:
        """Return a face for each of the square boxes `(n, 4)` of the pictures with the indices `owners`."""
        if not len(boxes):
            return NO_FACES
        boxes = boxes.clone()
        squares = boxes.numpy()
        sizes = np.array([(picture.width * pixel_aspect, picture.height) for picture in pictures])
        pixels = clip_to_pixels(squares, sizes[owners])
        sides, visible = squares[:, 2:] - squares[:, :2], pixels[:, 2:] - pixels[:, :2]
        areas = (sides[:, 0] * sides[:, 1]).astype(np.float64)
        is_cut_off = visible[:, 0] * visible[:, 1] < MIN_VISIBLE_SHARE * areas
        # The network sees the visible part as the whole face. Its shifts would inflate the whole box.
        boxes[is_cut_off] = torch.from_numpy(pixels + np.array([1, 1, 0, 0])).float()[is_cut_off]
        pixels /= np.array([pixel_aspect, 1, pixel_aspect, 1])
        patches = cut_from_pictures(pictures, pixels, owners.tolist(), ONET_PX)
        shifts, points, probs = self.classify_patches(patches)
        lengths = boxes[:, 2:] - boxes[:, :2] + 1  # (n, 2)
        xs = lengths[:, :1] * points[:, :5] + boxes[:, :1] - 1
        ys = lengths[:, 1:] * points[:, 5:] + boxes[:, 1:2] - 1
        return Detections(
            boxes=bbreg(boxes, shifts).numpy(),
            scores=probs[:, 1].numpy(),
            landmarks=torch.stack([xs, ys], dim=2).numpy(),
        )

    @torch.inference_mode()
    def classify_patches(self, patches: Sequence[np.ndarray] | np.ndarray) -> list[Tensor]:
        """Run O-Net on `(ONET_PX, ONET_PX, 3) uint8` RGB patches, at least one.

        Returns shifts `(n, 4)`, landmarks `(n, 10)` and probabilities `(n, 2)`, all on the CPU.
        """
        return run_in_batches(self.onet, patches, self.device)


def _suppress_parts(faces: Detections) -> Detections:
    """Return the faces of a picture without those that are mostly parts of others with higher scores."""
    best = nms_numpy(faces.boxes, faces.scores, FINAL_MAX_OVERLAP, "Min")
    return faces.take(best.astype(np.int64))


def _split_by_owner(faces: Detections, owners: np.ndarray, count: int) -> list[Detections]:
    """Return the faces of each of `count` owners, in their order."""
    ends = np.bincount(owners, minlength=count).cumsum().tolist()
    order = np.argsort(owners, kind="stable")
    return [faces.take(order[start:end]) for start, end in zip([0, *ends], ends, strict=False)]
