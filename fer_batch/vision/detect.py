"""Faces in pictures, by the three networks of MTCNN (Zhang et al. 2016, arXiv:1604.02878) as
facenet-pytorch ships them with their weights.

`search` is the whole cascade; `refine` is its last network alone, for boxes that are nearly right. When which
is used is for `follow` to say.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fer_batch.video.planes import Picture
from fer_batch.vision.mtcnn import MTCNN, bbreg, generateBoundingBox, nms, nms_numpy, rerec

CASCADE = (0.6, 0.7)
"""Scores that P-Net and R-Net ask for."""
STEP = 0.709
"""From one level of the pyramid to the next."""
P_SIDE, R_SIDE, O_SIDE = 12, 24, 48
"""Pixels that each network looks at."""
FEWEST_PX = 16
"""Pixels of the smallest wanted face, at least, where P-Net's pyramid and R-Net's patches are made of a half,
a quarter … of the picture, which cost least to make."""
PART_PX = 24
"""Pixels of a lost face's box in the part of a picture that is searched for it."""
AROUND = 3.5
"""Side of the part of a picture that is searched for a lost face, in sides of its box."""
ABOUT = 1.6
"""Factor by which a lost face may be larger or smaller."""
OVERLAP, NEAR_OVERLAP = 0.7, 0.6
"""Most overlap of two boxes that are both looked at further, in a picture and around a lost face."""
PATCHES = {"cpu": 32, "cuda": 1024}
"""In one batch of R-Net or O-Net. On a CPU each took 1.6 and 2.4 times as long in 512 as in 32, which stay in
its cache."""
FEWEST_ROWS = 16
"""Of a matrix product: fewer round differently, and a face may not depend on what shares its batch."""
FEWEST_PATCHES = 2
"""Of a convolution, likewise."""
SMALL_PX = 8192
"""Pixels of a level of P-Net's pyramid below which that holds there too (measured on AMD: to some 7,000)."""


@dataclass(frozen=True, kw_only=True)
class Detections:
    """Faces of one picture, in its lines: y in pixels, x in pixels as wide as they are high."""

    boxes: np.ndarray
    """`(n, 4) float32`, xyxy; may reach beyond the picture."""
    scores: np.ndarray
    """`(n,) float32`, 0–1."""
    landmarks: np.ndarray
    """`(n, 5, 2) float32`: the face's left-in-picture eye, right-in-picture eye, nose, mouth corners (left,
    right)."""

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, which: np.ndarray) -> "Detections":
        """Some of them, by index or mask."""
        return Detections(boxes=self.boxes[which], scores=self.scores[which], landmarks=self.landmarks[which])


NO_FACES = Detections(
    boxes=np.zeros((0, 4), np.float32),
    scores=np.zeros(0, np.float32),
    landmarks=np.zeros((0, 5, 2), np.float32),
)


def join_detections(parts: Sequence[Detections]) -> Detections:
    """The faces of all parts, in their order."""
    return Detections(
        boxes=np.concatenate([NO_FACES.boxes, *(p.boxes for p in parts)]),
        scores=np.concatenate([NO_FACES.scores, *(p.scores for p in parts)]),
        landmarks=np.concatenate([NO_FACES.landmarks, *(p.landmarks for p in parts)]),
    )


class FaceDetector:
    """MTCNN's networks on one device, looking for faces from `min_face` of a picture's height that O-Net
    gives at least `min_score`.
    """

    def __init__(self, min_face: float, min_score: float, device: str = "cpu") -> None:
        self.min_face = min_face
        self.min_score = min_score
        self.device = torch.device(device)
        networks = MTCNN(keep_all=True, device=self.device).eval()
        self.pnet, self.rnet, self.onet = (
            network.to(memory_format=torch.channels_last)  # a third of the time of the other order, on a CPU
            for network in (networks.pnet, networks.rnet, networks.onet)
        )
        for network in (self.rnet, self.onet):
            for name, layer in list(network.named_children()):
                if isinstance(layer, torch.nn.Linear):
                    setattr(network, name, _FullRows(layer))

    @torch.inference_mode()
    def search(
        self,
        pictures: Sequence[Picture],
        pixel_aspect: float = 1.0,
        regions: Sequence[np.ndarray | None] | None = None,
    ) -> list[Detections]:
        """All faces in each picture, whose pixels are `pixel_aspect` times as wide as high, or in a region
        `(4,)` of it, xyxy, where one is given.

        As in MTCNN, but that the pyramid is made, in 8 bits, of a half, a quarter … of the picture, and
        R-Net's patches are cut from there; O-Net's are cut from the picture itself.
        """
        views = [
            _view(number, picture, region, self.min_face, pixel_aspect)
            for number, (picture, region) in enumerate(
                zip(pictures, regions or [None] * len(pictures), strict=True)
            )
        ]
        return self._cascade(pictures, views, pixel_aspect, OVERLAP)

    @torch.inference_mode()
    def search_near(
        self, pictures: Sequence[Picture], boxes: Sequence[np.ndarray], pixel_aspect: float = 1.0
    ) -> list[Detections]:
        """The faces around `(n, 4)` boxes of each picture, about as large as they."""
        views = [
            _part(number, picture, box, pixel_aspect)
            for number, (picture, part) in enumerate(zip(pictures, boxes, strict=True))
            for box in part
        ]
        return self._cascade(pictures, views, pixel_aspect, NEAR_OVERLAP)

    def _cascade(
        self, pictures: Sequence[Picture], views: Sequence["_View"], pixel_aspect: float, most: float
    ) -> list[Detections]:
        """The faces of each picture, of all its views together. Views of one size share P-Net's batches, all
        share those of R-Net and O-Net.
        """
        if not views:
            return [NO_FACES for _ in pictures]
        boxes, owners = self._proposals(views, most)
        patches = [
            np.asarray(
                views[owner].image.resize(
                    (R_SIDE, R_SIDE), Image.Resampling.BOX, _inside(box, views[owner].image.size)
                )
            )
            for box, owner in zip(boxes.numpy(), owners.tolist(), strict=True)
        ]
        shifts, answers = self._run(self.rnet, patches, R_SIDE)
        passed = answers[:, 1] > CASCADE[1]
        boxes, owners, shifts, scores = boxes[passed], owners[passed], shifts[passed], answers[passed, 1]
        pick = _apart(boxes, scores, owners, most)
        boxes, owners = rerec(bbreg(boxes[pick], shifts[pick])), owners[pick]
        places = torch.tensor([(view.left, view.top, view.left, view.top) for view in views]).reshape(-1, 4)
        scales = torch.tensor([view.scale for view in views])
        boxes = boxes * scales[owners][:, None] + places[owners]
        owners = torch.tensor([view.picture for view in views], dtype=torch.int64)[owners]
        boxes, scores, landmarks = self._look(pictures, boxes, owners, pixel_aspect)
        found = []
        for number in range(len(pictures)):
            which = torch.nonzero((owners == number) & (scores >= self.min_score))[:, 0]
            if len(which):
                pick = nms_numpy(boxes[which].numpy(), scores[which].numpy(), 0.7, "Min")
                which = which[pick.astype(np.int64)]
            found.append(_of(boxes[which], scores[which], landmarks[which]))
        return found

    @torch.inference_mode()
    def refine(
        self, pictures: Sequence[Picture], boxes: Sequence[np.ndarray], pixel_aspect: float = 1.0
    ) -> list[Detections]:
        """O-Net's word on `(n, 4)` boxes of each picture, in their order: where the face in each is, and how
        surely there is one (scores from 0).
        """
        given = torch.from_numpy(np.concatenate([NO_FACES.boxes, *boxes]).astype(np.float32))
        if not len(given):
            return [NO_FACES for _ in pictures]
        counts = torch.tensor([len(part) for part in boxes], dtype=torch.int64)
        owners = torch.repeat_interleave(torch.arange(len(boxes)), counts)
        answers = self._look(pictures, rerec(given), owners, pixel_aspect)
        return [_of(*(part[owners == number] for part in answers)) for number in range(len(pictures))]

    def _proposals(self, views: Sequence["_View"], most: float) -> tuple[Tensor, Tensor]:
        """P-Net's square boxes `(n, 4)` in pixels of the views, and the view `(n,)` of each."""
        boxes, owners = [torch.zeros(0, 9)], [torch.zeros(0, dtype=torch.int64)]
        kinds = {(view.image.size, view.smallest, view.largest) for view in views}
        for kind in sorted(kinds):
            members = [
                n for n, view in enumerate(views) if (view.image.size, view.smallest, view.largest) == kind
            ]
            pyramids = [_pyramid(views[number]) for number in members]
            for levels in zip(*pyramids, strict=True):
                images = [np.asarray(image) for _, image in levels]
                if images[0].size < 3 * SMALL_PX:
                    images += [np.zeros_like(images[0])] * (FEWEST_PATCHES - len(images))
                shifts, answers = (part[: len(levels)] for part in self.pnet(self._batch(images)))
                scale = levels[0][0]
                found, place = generateBoundingBox(shifts.cpu(), answers[:, 1].cpu(), scale, CASCADE[0])
                pick = _apart(found[:, :4], found[:, 4], place, 0.5)
                boxes.append(found[pick])
                owners.append(torch.tensor(members)[place[pick]])
        found, owner = torch.cat(boxes), torch.cat(owners)
        pick = _apart(found[:, :4], found[:, 4], owner, most)
        found, owner = found[pick], owner[pick]
        sides = found[:, 2:4] - found[:, :2]
        return rerec(found[:, :4] + found[:, 5:] * sides.repeat(1, 2)), owner

    def _look(
        self, pictures: Sequence[Picture], boxes: Tensor, owners: Tensor, pixel_aspect: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """O-Net's boxes `(n, 4)`, scores `(n,)` and landmarks `(n, 5, 2)` for square boxes."""
        patches = []
        for box, owner in zip(boxes.numpy(), owners.tolist(), strict=True):
            picture = pictures[owner]
            x0, y0, x1, y1 = _inside(box, (picture.width * pixel_aspect, picture.height))
            there = (x0 / pixel_aspect, y0, x1 / pixel_aspect, y1)
            patches.append(picture.crop_rgb(there, (O_SIDE, O_SIDE)))
        shifts, points, answers = self._run(self.onet, patches, O_SIDE)
        sides = boxes[:, 2:] - boxes[:, :2] + 1  # (n, 2)
        xs = sides[:, :1] * points[:, :5] + boxes[:, :1] - 1
        ys = sides[:, 1:] * points[:, 5:] + boxes[:, 1:2] - 1
        return bbreg(boxes.clone(), shifts), answers[:, 1], torch.stack([xs, ys], dim=2)

    def _run(self, network: torch.nn.Module, patches: list[np.ndarray], side: int) -> list[Tensor]:
        """A network's answers, on the CPU, for `(side, side, 3) uint8` patches."""
        blank = [np.zeros((side, side, 3), np.uint8)]
        size = PATCHES[self.device.type]
        parts = [patches[first : first + size] for first in range(0, max(len(patches), 1), size)]
        parts = [part + blank * (FEWEST_PATCHES - len(part)) for part in parts]
        answers = [network(self._batch(part)) for part in parts]
        return [torch.cat(each).cpu()[: len(patches)] for each in zip(*answers, strict=True)]

    def _batch(self, images: Sequence[np.ndarray]) -> Tensor:
        """`(h, w, 3) uint8` images to the networks' `(n, 3, h, w)`, channels last in memory."""
        pixels = torch.from_numpy(np.stack(images)).to(self.device)
        return ((pixels.float() - 127.5) * 0.0078125).permute(0, 3, 1, 2)


class _FullRows(torch.nn.Module):
    """A linear layer that is given FEWEST_ROWS rows or a multiple of that."""

    def __init__(self, layer: torch.nn.Linear) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, rows: Tensor) -> Tensor:
        missing = -len(rows) % FEWEST_ROWS
        return self.layer(torch.cat([rows, rows.new_zeros(missing, rows.shape[1])]))[: len(rows)]


@dataclass(frozen=True, kw_only=True)
class _View:
    """What is searched: a picture or a part of it, in RGB, its pixels as wide as high."""

    image: Image.Image
    picture: int
    """Which."""
    left: float
    top: float
    """Where it begins, in lines of the picture."""
    scale: float
    """Lines of the picture for each of its own."""
    smallest: float
    largest: float
    """Of the faces that are looked for, in its own pixels."""


def _view(
    number: int, picture: Picture, region: np.ndarray | None, min_face: float, pixel_aspect: float
) -> _View:
    """The picture or a region of it, or half as large, a quarter …: as small as leaves the smallest face
    FEWEST_PX pixels.
    """
    halvings = max(math.floor(math.log2(max(min_face * picture.height / FEWEST_PX, 1))), 0)
    whole = (0.0, 0.0, picture.width * pixel_aspect, float(picture.height))
    x0, y0, x1, y1 = whole if region is None else region.tolist()
    height = max(round((y1 - y0) / 2**halvings), 1)
    width = max(round((x1 - x0) / 2**halvings), 1)
    image = picture.crop_rgb((x0 / pixel_aspect, y0, x1 / pixel_aspect, y1), (width, height))
    scale = (y1 - y0) / height
    return _View(
        image=Image.fromarray(image),
        picture=number,
        left=x0,
        top=y0,
        scale=scale,
        smallest=min_face * picture.height / scale,
        largest=math.inf,
    )


def _part(number: int, picture: Picture, box: np.ndarray, pixel_aspect: float) -> _View:
    """What is around a box, as far as the picture goes, the box PART_PX pixels high."""
    x0, y0, x1, y1 = box.tolist()
    side = max(x1 - x0, y1 - y0, 1.0)
    width, height = picture.width * pixel_aspect, float(picture.height)
    wide, high = min(AROUND * side, width), min(AROUND * side, height)
    left = min(max((x0 + x1 - wide) / 2, 0), width - wide)
    top = min(max((y0 + y1 - high) / 2, 0), height - high)
    size = max(round(PART_PX * wide / side), 1), max(round(PART_PX * high / side), 1)
    there = (left / pixel_aspect, top, (left + wide) / pixel_aspect, top + high)
    return _View(
        image=Image.fromarray(picture.crop_rgb(there, size)),
        picture=number,
        left=left,
        top=top,
        scale=side / PART_PX,
        smallest=PART_PX / ABOUT,
        largest=PART_PX * ABOUT,
    )


def _pyramid(view: _View) -> list[tuple[float, Image.Image]]:
    """MTCNN's pyramid: (scale, image) from where the smallest face has P-Net's 12 pixels to where the largest
    has, made from halves, each from the smallest that is larger.
    """
    scale = P_SIDE / view.smallest
    levels, source = [], view.image
    while min(view.image.size) * scale >= P_SIDE and P_SIDE / scale < view.largest:
        size = int(view.image.width * scale + 1), int(view.image.height * scale + 1)
        while source.width >= 2 * size[0] and source.height >= 2 * size[1]:
            source = source.reduce(2)
        levels.append((scale, source.resize(size, Image.Resampling.BOX)))
        scale *= STEP
    return levels


def _inside(box: np.ndarray, size: tuple[float, float]) -> tuple[float, float, float, float]:
    """The whole pixels of a box that are in a picture of `size`, at least one, as MTCNN cuts them."""
    width, height = size
    x0, y0, x1, y1 = np.trunc(box).tolist()
    left, top = min(max(x0, 1.0) - 1, width - 1), min(max(y0, 1.0) - 1, height - 1)
    return left, top, max(min(x1, width), left + 1), max(min(y1, height), top + 1)


def _apart(boxes: Tensor, scores: Tensor, owners: Tensor, most: float) -> Tensor:
    """Indices of the best boxes of each picture that overlap each other by no more than `most`."""
    picks = [torch.zeros(0, dtype=torch.int64)]
    for number in torch.unique(owners).tolist():
        members = torch.nonzero(owners == number)[:, 0]
        picks.append(members[nms(boxes[members], scores[members], most)])
    return torch.cat(picks)


def _of(boxes: Tensor, scores: Tensor, landmarks: Tensor) -> Detections:
    return Detections(boxes=boxes.numpy(), scores=scores.numpy(), landmarks=landmarks.numpy())
