"""Small data sets of noise and tiny checkpoints for the tests of this folder."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from fer_batch.data.clips import Clips
from fer_batch.model.card import Card
from fer_batch.model.cnn_bilstm import CnnBiLstm
from fer_batch.model.weights import save_checkpoint
from fer_batch.schema import EMOTIONS
from tests.clips import make_clips

ARCHITECTURE = {"filters": [8, 8], "depths": [1, 1], "fold": 2}


def images(count: int, seed: int = 0) -> np.ndarray:
    """Return images of noise with different gradients, so that predictions differ, also for mirror images."""
    random = np.random.default_rng(seed)
    ends = random.integers(0, 200, (2, count, 1, 1))
    light = ends[0] + (ends[1] - ends[0]) * np.linspace(0, 1, 48)
    return (light + random.integers(0, 56, (count, 48, 48))).astype(np.uint8)


def png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def fer2013(path: Path, **usages: int) -> tuple[str, str]:
    """Write a FER2013 table with this many faces in each split; the emotions alternate."""
    names = [usage for usage, count in usages.items() for _ in range(count)]
    columns = {
        "image_png": [png(image) for image in images(len(names))],
        "label_name": [EMOTIONS[i % 7] for i in range(len(names))],
        "usage": names,
    }
    pq.write_table(pa.table(columns), path)
    return "fer2013", str(path)


def folder(path: Path, *labels: str) -> tuple[str, str]:
    for number, (label, image) in enumerate(zip(labels, images(len(labels), 1), strict=True)):
        (path / label).mkdir(parents=True, exist_ok=True)
        (path / label / f"{number}.png").write_bytes(png(image))
    return "folder", str(path)


def ck48(path: Path, **sequences: str) -> tuple[str, str]:
    """Write a sequence of two frames for each name; the value is its class."""
    (path).mkdir(parents=True)
    for number, (name, label) in enumerate(sequences.items()):
        for frame, image in enumerate(images(2, number), 1):
            (path / label).mkdir(exist_ok=True)
            (path / label / f"{name}_{frame:08d}.png").write_bytes(png(image))
    return "ck48", str(path)


def clips(*lengths: int) -> Clips:
    return make_clips(images(sum(lengths)), lengths, classes=EMOTIONS)


def tiny(path: Path, *classes: str, seed: int = 0) -> Path:
    """Write a checkpoint with random weights whose predictions are not uniform."""
    torch.manual_seed(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    model = CnnBiLstm(len(classes), **ARCHITECTURE)
    architecture = {"classes": len(classes), **ARCHITECTURE}
    save_checkpoint(path, model, Card(classes=classes, architecture=architecture, temperature=0.1))
    return path
