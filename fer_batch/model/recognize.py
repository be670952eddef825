"""Recognize emotions: in images and face crops, and in the crops of tracked faces."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor, nn

from fer_batch.config import CROP_SIZE_PX
from fer_batch.model.card import is_onnx_path
from fer_batch.model.cnn_bilstm import Encoder
from fer_batch.model.inference import (
    BATCH_SIZE,
    DTYPES,
    WindowReader,
    choose_precision,
    optimize_encoder,
    pad_batch,
)
from fer_batch.model.int8 import Int8Encoder
from fer_batch.model.network import CropEncoder
from fer_batch.model.precision import check_network_precision, check_onnx_precision, network_has_int8
from fer_batch.model.weights import load_checkpoint
from fer_batch.model.window import build_windows
from fer_batch.timing import StageTimer
from fer_batch.video.planes import Picture
from fer_batch.vision.crop import crop_faces
from fer_batch.vision.detections import Face
from fer_batch.vision.images import ImageInput, load_image, scale_to_crop


@dataclass(frozen=True, repr=False)
class Prediction:
    """The probabilities of all emotions for one face."""

    probabilities: dict[str, float]
    """By emotion, in the order of the model's classes; their sum is 1."""

    @property
    def emotion(self) -> str:
        """The most probable emotion."""
        return max(self.probabilities, key=self.probabilities.__getitem__)

    @property
    def confidence(self) -> float:
        """Probability of `emotion`."""
        return self.probabilities[self.emotion]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {"emotion": self.emotion, "confidence": self.confidence, "probabilities": self.probabilities}

    def __repr__(self) -> str:
        ranked = sorted(self.probabilities.items(), key=lambda item: -item[1])
        return f"Prediction({', '.join(f'{name} {probability:.2f}' for name, probability in ranked[:3])})"


class Recognizer:
    """Predict emotions with a checkpoint or an exported network, by default the packaged checkpoint.

    `device` is "cpu" or "cuda", by default a GPU if there is one. With `flip`, the embeddings of a crop and
    of its mirror image are averaged. The head on the crop is linear, so this averages its logits.
    `precision` is "fp32", "int8" (the encoder only), "bf16", "fp16" or "auto": the first of int8, bf16 and
    fp32 that the device has in hardware. Exported networks compute in fp32 or as they were quantized.

    Raises CheckpointError if the checkpoint cannot be loaded, and ConfigError for a precision that the device
    does not have.

        faces = FaceDetector().detect("group.jpg")
        for prediction in Recognizer().predict_faces("group.jpg", faces):
            print(prediction.emotion, prediction.confidence)
    """

    def __init__(
        self,
        checkpoint: str | Path | None = None,
        device: str | None = None,
        flip: bool = True,
        precision: str = "auto",
    ) -> None:
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.encoder: CropEncoder
        self.reader: nn.Module
        checkpoint = None if checkpoint is None else Path(checkpoint)
        if checkpoint is not None and is_onnx_path(checkpoint):
            from fer_batch.model.onnx.network import open_onnx

            check_onnx_precision(precision)
            self.precision = "fp32"
            exported, self.reader, self.card = open_onnx(checkpoint, self.device.type)
            self.encoder, self.batch_size = exported, BATCH_SIZE[exported.device]
            self.device = torch.device("cpu")  # onnxruntime copies each batch from there
        else:
            model, self.card = load_checkpoint(checkpoint)
            model = model.to(self.device)
            network = self.card.network, self.card.architecture
            check_network_precision(precision, *network)
            self.precision = choose_precision(precision, self.device, network_has_int8(*network))
            dtype = DTYPES[self.precision]
            if self.precision == "int8" and isinstance(model.encoder, Encoder):
                self.encoder = Int8Encoder(model.encoder, self.card.mean, self.card.std)
            else:
                self.encoder = optimize_encoder(model.encoder, dtype)
            self.reader = WindowReader(model, self.card.temperature, dtype)
            self.batch_size = BATCH_SIZE[self.device.type]
        self.flip = flip
        self.timer = StageTimer()
        """Times of "encode" and "window" in `predict_tracks`. "window" includes waiting for a GPU."""
        self.on_batch: Callable[[], None] = lambda: None
        """Callback before each batch."""

    def __repr__(self) -> str:
        return f"<Recognizer {self.card.model_id}: {', '.join(self.card.classes)}>"

    @overload
    def predict(self, crops: ImageInput) -> Prediction: ...  # type: ignore[overload-overlap]
    @overload
    def predict(self, crops: Sequence[ImageInput]) -> list[Prediction]: ...

    def predict(self, crops: ImageInput | Sequence[ImageInput]) -> Prediction | list[Prediction]:
        """Predict the emotion of an image that shows one face and little else, or of each of a list.

        Images are given as in `FaceDetector.detect` and scaled to 48×48 grey pixels. Raises InputError for an
        unreadable image.
        """
        if isinstance(crops, ImageInput):
            return self.predict([crops])[0]
        return self._predict_crops([scale_to_crop(load_image(crop, "L")) for crop in crops])

    @overload
    def predict_faces(self, images: ImageInput, faces: Sequence[Face]) -> list[Prediction]: ...
    @overload
    def predict_faces(
        self, images: Sequence[ImageInput], faces: Sequence[Sequence[Face]]
    ) -> list[list[Prediction]]: ...

    def predict_faces(
        self, images: ImageInput | Sequence[ImageInput], faces: Sequence[Any]
    ) -> list[Prediction] | list[list[Prediction]]:
        """Predict the emotions of the faces of one image, or of each image of a list.

        `faces` is the result of `FaceDetector.detect`; the predictions have its order. Raises InputError for
        an unreadable image.
        """
        if isinstance(images, ImageInput):
            return self.predict_faces([images], [faces])[0]
        crops = [
            crop_faces(
                Picture.from_rgb(np.asarray(load_image(image, "RGB"))),
                np.array([face.box for face in image_faces]).reshape(-1, 4),
                self.card.crop_scale,
            )
            for image, image_faces in zip(images, faces, strict=True)
        ]
        predictions = iter(self._predict_crops([crop for image_crops in crops for crop in image_crops]))
        return [[next(predictions) for _ in image_crops] for image_crops in crops]

    @torch.inference_mode()
    def encode(self, crops: np.ndarray) -> Tensor:
        """Encode grey crops `(n, 48, 48) uint8` to embeddings `(n, D) float32` on the device."""
        views = 2 if self.flip else 1
        pixels = torch.from_numpy(np.require(crops, requirements=["C", "W"]))
        if self.device.type == "cuda":
            pixels = pixels.pin_memory().to(self.device, non_blocking=True)
        embeddings = [torch.zeros(0, self.encoder.width, device=self.device)]
        for grey in pixels.split(self.batch_size // views):
            self.on_batch()
            batch = torch.cat([grey, grey.flip(2)]) if self.flip else grey
            batch = pad_batch(batch, self.batch_size)
            batch = batch.float().div_(255).sub_(self.card.mean).div_(self.card.std)
            encoded = self.encoder(batch[:, None])[: views * len(grey)]
            embeddings.append(encoded.view(views, len(grey), self.encoder.width).mean(0))
        return torch.cat(embeddings)

    @torch.inference_mode()
    def predict_tracks(
        self, crops: np.ndarray, tracks: np.ndarray, times: np.ndarray, selected: np.ndarray
    ) -> np.ndarray:
        """Predict the emotions of tracked faces in their windows; returns `(n, classes) float32`.

        `crops` is `(n, 48, 48) uint8`, `tracks` `(n,) int`, `times` `(n,) float64` seconds, in any order.
        Rows where `selected` `(n,) bool` is true are probabilities, with the card's temperature applied.
        Other rows are NaN, but their faces are part of the windows of other faces.
        """
        self.timer.restart()
        embeddings = self.encode(crops)
        self.timer.record("encode")
        probs = self.classify_tracks(embeddings, tracks, times, selected)
        self.timer.record("window")
        return probs

    @torch.inference_mode()
    def classify_tracks(
        self, embeddings: Tensor, tracks: np.ndarray, times: np.ndarray, selected: np.ndarray
    ) -> np.ndarray:
        """Return the result of `predict_tracks` for crops whose embeddings `(n, D)` are known."""
        probs = np.full((len(embeddings), len(self.card.classes)), np.nan, np.float32)
        rate_hz, steps = self.card.window_rate_hz, self.card.window_length
        parts = []
        order = np.lexsort((times, tracks))
        for members in np.split(order, np.flatnonzero(np.diff(tracks[order])) + 1):
            index, lengths, centres = build_windows(times[members], rate_hz, steps)
            windows = np.where(index >= 0, members[np.maximum(index, 0)], 0)
            chosen = selected[members]
            parts.append([column[chosen] for column in (members, windows, lengths, centres)])
        rows, *columns = (np.concatenate(column) for column in zip(*parts, strict=True))
        probs[rows] = self._classify(embeddings, *columns)
        return probs

    def _predict_crops(self, crops: list[np.ndarray]) -> list[Prediction]:
        """Predict each crop `(48, 48) uint8` as a track of one frame."""
        stacked = np.stack(crops) if crops else np.zeros((0, CROP_SIZE_PX, CROP_SIZE_PX), np.uint8)
        count = len(stacked)
        probs = self.predict_tracks(stacked, np.arange(count), np.zeros(count), np.ones(count, bool))
        return [Prediction(dict(zip(self.card.classes, row, strict=True))) for row in probs.tolist()]

    def _classify(
        self, embeddings: Tensor, windows: np.ndarray, lengths: np.ndarray, centres: np.ndarray
    ) -> np.ndarray:
        """Classify windows `(m, length)` of rows of `embeddings`; returns probabilities `(m, classes)`.

        The first `lengths` rows of each window are valid; the prediction is for the row at `centres`.
        """
        probs = [torch.zeros(0, len(self.card.classes), device=self.device)]
        for first in range(0, len(windows), self.batch_size):
            self.on_batch()
            part = slice(first, first + self.batch_size)
            index, centre = torch.from_numpy(windows[part]), torch.from_numpy(centres[part])
            length = torch.from_numpy(lengths[part])
            batch = pad_batch(embeddings[index.to(self.device)], self.batch_size)
            length = torch.cat([length, length.new_ones(self.batch_size - len(length))])
            log_probs = self.reader(batch, length.to(self.device))
            probs.append(log_probs[torch.arange(len(centre)), centre].exp())
        return torch.cat(probs).cpu().numpy()
