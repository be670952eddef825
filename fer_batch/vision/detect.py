"""Detect faces with the three networks of MTCNN (Zhang et al. 2016, arXiv:1604.02878).

The networks and their weights come from facenet-pytorch. `FaceDetector.detect` is the public method.
`search`, `search_near` and `refine` are the passes that `vision.schedule` combines for videos.
"""

from collections.abc import Callable, Sequence
from typing import overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fer_batch.config import AnalyzeConfig
from fer_batch.errors import ConfigError
from fer_batch.video.container import MAX_ASPECT_RATIO
from fer_batch.video.planes import Picture
from fer_batch.vision.batched import correct_boxes, propose_boxes
from fer_batch.vision.detections import NO_FACES, Detections, Face
from fer_batch.vision.images import ImageInput, load_image
from fer_batch.vision.mtcnn import (
    LEVEL_MAX_IOU,
    MTCNN,
    ONET_PX,
    PNET_MIN_SCORE,
    RNET_MIN_SCORE,
    RNET_PX,
    bbreg,
    generateBoundingBox,
    nms,
    nms_numpy,
    rerec,
)
from fer_batch.vision.networks import FastPNet, PaddedLinear
from fer_batch.vision.views import (
    SearchView,
    build_pyramid,
    clip_to_pixels,
    view_neighbourhood,
    view_picture,
)

PICTURE_MAX_IOU, NEAR_MAX_IOU = 0.7, 0.6
"""Largest IoU of two boxes that are both kept after P-Net and R-Net, in a picture and around a lost face."""
MIN_VISIBLE_SHARE = 0.6
"""Least share of a box inside the picture for which O-Net corrects the whole box."""
FINAL_MAX_OVERLAP = 0.7
"""Largest share of the smaller box that two faces may have in common."""
BATCH_PATCHES = {"cpu": 32, "cuda": 1024}
"""Patches per batch of R-Net or O-Net. On a CPU, patches in batches of 512 took 1.6 and 2.4 times as long,
because batches of 32 stay in its cache."""
MIN_BATCH_IMAGES = 2
"""Minimum number of images in the batch of a convolution. A single one rounds differently, and a face must
not depend on its batch."""
SMALL_LEVEL_PX = 8192
"""Pixels below which a level of the pyramid needs `MIN_BATCH_IMAGES` too (measured on AMD: about 7,000)."""
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
            for name, layer in list(network.named_children()):
                if isinstance(layer, torch.nn.Linear):
                    setattr(network, name, PaddedLinear(layer))

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
        owners = torch.from_numpy(np.repeat(np.arange(len(boxes)), [len(part) for part in boxes]))
        results = self._run_onet(pictures, rerec(squares), owners, pixel_aspect)
        return [_to_detections(*(r[owners == index] for r in results)) for index in range(len(pictures))]

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
        owners = torch.tensor([view.picture for view in views], dtype=torch.int64)[owners]
        boxes, scores, landmarks = self._run_onet(pictures, boxes, owners, pixel_aspect)
        detections = []
        for index in range(len(pictures)):
            kept = (owners == index) & (scores >= self.min_score)
            faces = _to_detections(boxes[kept], scores[kept], landmarks[kept])
            if len(faces):
                best = nms_numpy(faces.boxes, faces.scores, FINAL_MAX_OVERLAP, "Min")
                faces = faces.take(best.astype(np.int64))
            detections.append(faces)
        return detections

    @torch.inference_mode()
    def propose(self, views: Sequence[SearchView], max_iou: float) -> tuple[Tensor, Tensor]:
        """Run P-Net and R-Net; returns square boxes `(n, 4)` in pixels of the views, and each one's view.

        `max_iou` is the largest IoU of two boxes of a view that are both kept.
        """
        if self.device.type == "cpu":
            return self._run_rnet(views, *self._run_pnet(views, max_iou), max_iou)
        return propose_boxes(views, self.pnet, self.rnet, self.device, max_iou)

    def _run_pnet(self, views: Sequence[SearchView], max_iou: float) -> tuple[Tensor, Tensor]:
        """Return square boxes `(n, 4)` in pixels of the views, and the index of each one's view `(n,)`."""
        all_boxes, all_owners = [torch.zeros(0, 9)], [torch.zeros(0, dtype=torch.int64)]
        shapes = [(view.image.size, view.min_face_px, view.max_face_px) for view in views]
        for shape in sorted(set(shapes)):
            members = [index for index, other in enumerate(shapes) if other == shape]
            pyramids = [build_pyramid(views[index]) for index in members]
            for levels in zip(*pyramids, strict=True):
                images = [np.asarray(image) for _, image in levels]
                if images[0].size < 3 * SMALL_LEVEL_PX:
                    images += [np.zeros_like(images[0])] * (MIN_BATCH_IMAGES - len(images))
                shifts, probs = (part[: len(levels)] for part in self.pnet(self._to_batch(images)))
                scale = levels[0][0]
                boxes, places = generateBoundingBox(shifts.cpu(), probs[:, 1].cpu(), scale, PNET_MIN_SCORE)
                kept = _suppress(boxes[:, :4], boxes[:, 4], places, LEVEL_MAX_IOU)
                all_boxes.append(boxes[kept])
                all_owners.append(torch.tensor(members)[places[kept]])
        boxes, owners = torch.cat(all_boxes), torch.cat(all_owners)
        kept = _suppress(boxes[:, :4], boxes[:, 4], owners, max_iou)
        return correct_boxes(boxes[kept]), owners[kept]

    def _run_rnet(
        self, views: Sequence[SearchView], boxes: Tensor, owners: Tensor, max_iou: float
    ) -> tuple[Tensor, Tensor]:
        """Reject and correct the boxes of `_run_pnet`."""
        patches, size = [], (RNET_PX, RNET_PX)
        images = [view.to_rgb() for view in views]
        for box, owner in zip(boxes.numpy(), owners.tolist(), strict=True):
            image = images[owner]
            pixels = clip_to_pixels(box, image.size)
            patches.append(np.asarray(image.resize(size, Image.Resampling.BOX, pixels)))
        shifts, probs = self._run_patches(self.rnet, patches, RNET_PX)
        passed = probs[:, 1] > RNET_MIN_SCORE
        boxes, owners, shifts, scores = boxes[passed], owners[passed], shifts[passed], probs[passed, 1]
        kept = _suppress(boxes, scores, owners, max_iou)
        return rerec(bbreg(boxes[kept], shifts[kept])), owners[kept]

    def _run_onet(
        self, pictures: Sequence[Picture], boxes: Tensor, owners: Tensor, pixel_aspect: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return boxes `(n, 4)`, scores `(n,)` and landmarks `(n, 5, 2)` of square boxes in pictures."""
        patches, boxes = [], boxes.clone()
        for box, owner in zip(boxes, owners.tolist(), strict=True):
            picture = pictures[owner]
            x0, y0, x1, y1 = clip_to_pixels(box.numpy(), (picture.width * pixel_aspect, picture.height))
            sides = box[2:] - box[:2]
            if (x1 - x0) * (y1 - y0) < MIN_VISIBLE_SHARE * float(sides[0] * sides[1]):
                # The network sees this part as the whole face. Its shifts would inflate the whole box.
                box[:] = torch.tensor((x0 + 1, y0 + 1, x1, y1))
            pixels = (x0 / pixel_aspect, y0, x1 / pixel_aspect, y1)
            patches.append(picture.crop_rgb(pixels, (ONET_PX, ONET_PX)))
        shifts, points, probs = self.classify_patches(patches)
        sides = boxes[:, 2:] - boxes[:, :2] + 1  # (n, 2)
        xs = sides[:, :1] * points[:, :5] + boxes[:, :1] - 1
        ys = sides[:, 1:] * points[:, 5:] + boxes[:, 1:2] - 1
        return bbreg(boxes, shifts), probs[:, 1], torch.stack([xs, ys], dim=2)

    @torch.inference_mode()
    def classify_patches(self, patches: list[np.ndarray]) -> list[Tensor]:
        """Run O-Net on `(ONET_PX, ONET_PX, 3) uint8` RGB patches.

        Returns shifts `(n, 4)`, landmarks `(n, 10)` and probabilities `(n, 2)`, all on the CPU.
        """
        return self._run_patches(self.onet, patches, ONET_PX)

    def _run_patches(
        self, network: Callable[[Tensor], Sequence[Tensor]], patches: list[np.ndarray], side: int
    ) -> list[Tensor]:
        """Run a network on `(side, side, 3) uint8` patches; returns its outputs on the CPU."""
        blank = [np.zeros((side, side, 3), np.uint8)]
        size = BATCH_PATCHES[self.device.type]
        batches = [patches[first : first + size] for first in range(0, max(len(patches), 1), size)]
        batches = [batch + blank * (MIN_BATCH_IMAGES - len(batch)) for batch in batches]
        outputs = [network(self._to_batch(batch)) for batch in batches]
        return [torch.cat(parts).cpu()[: len(patches)] for parts in zip(*outputs, strict=True)]

    def _to_batch(self, images: Sequence[np.ndarray]) -> Tensor:
        """Stack `(h, w, 3) uint8` images to a normalized `(n, 3, h, w)` batch, channels last in memory."""
        pixels = torch.from_numpy(np.stack(images)).to(self.device)
        return ((pixels.float() - 127.5) * 0.0078125).permute(0, 3, 1, 2)


def _suppress(boxes: Tensor, scores: Tensor, owners: Tensor, max_iou: float) -> Tensor:
    """Return the indices that non-maximum suppression keeps for each owner."""
    kept = [torch.zeros(0, dtype=torch.int64)]
    for owner in torch.unique(owners).tolist():
        members = torch.nonzero(owners == owner)[:, 0]
        kept.append(members[nms(boxes[members], scores[members], max_iou)])
    return torch.cat(kept)


def _to_detections(boxes: Tensor, scores: Tensor, landmarks: Tensor) -> Detections:
    return Detections(boxes=boxes.numpy(), scores=scores.numpy(), landmarks=landmarks.numpy())
