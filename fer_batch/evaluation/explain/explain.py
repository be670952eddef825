"""Explain predictions with pictures: which parts of a face and which frames of a window they come from."""

import io
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count, groupby
from pathlib import Path

import numpy as np

from fer_batch.data.labels import normalize_label
from fer_batch.errors import CheckpointError, ConfigError, InputError
from fer_batch.evaluation.explain.attribution import METHODS, Attribution, attribute_face, find_map_layer
from fer_batch.evaluation.explain.faces import (
    ANALYZE_CONFIG,
    InputFaces,
    WindowedFace,
    find_picture_faces,
    find_video_faces,
    is_picture,
    list_files,
)
from fer_batch.evaluation.explain.plots import DISCLAIMER, plot_frames, plot_maps
from fer_batch.model.card import Card
from fer_batch.model.network import Network
from fer_batch.model.weights import load_checkpoint
from fer_batch.plotting import render_figure
from fer_batch.records import Record
from fer_batch.storage.atomic import encode_json, write_files
from fer_batch.storage.folder import check_folder
from fer_batch.vision.detect import FaceDetector

ALL_EMOTIONS = "all"
MAX_STEM_BYTES = 150
"""Longest part of an input's name in the names of its pictures. File systems allow 255 bytes."""
MAX_REASONS = 3
"""Problems in the message of an error."""


@dataclass(frozen=True, kw_only=True)
class FrameExplanation:
    """The weights of the frames of a window, by emotion; see `attribution.FrameWeights`."""

    picture: str
    times_s: list[float]
    weights: dict[str, list[float]]
    contributions: dict[str, list[float]]
    difference: dict[str, float]
    error: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class FaceExplanation:
    """The explanation of one face."""

    picture: str
    moment_s: float | None
    """Time of the explained frame; None in a picture."""
    box: tuple[float, float, float, float] | None
    """Shares of the picture's width and height, xyxy; None for the whole picture."""
    answer: dict[str, float]
    """Probabilities of all classes, in the window."""
    crop_answer: dict[str, float]
    """The probabilities that the maps explain."""
    emotions: list[str]
    maps: dict[str, str]
    """Names of the arrays in `maps.npz`, `(emotions, 48, 48) float32`, by method."""
    frames: FrameExplanation | None
    face: int
    """Number of the face at this time, from 1 at the left."""


@dataclass(frozen=True, kw_only=True)
class InputExplanation(Record):
    """The explanations of one input."""

    json_properties = ("status",)

    input: str
    problems: list[str]
    faces: list[FaceExplanation]

    @property
    def status(self) -> str:
        """Either "ok", "partial" (faces and problems) or "failed" (no faces)."""
        return "failed" if not self.faces else "partial" if self.problems else "ok"


@dataclass(frozen=True, kw_only=True)
class Explanation(Record):
    """The explanations of all inputs; its record is the content of `explain.json`."""

    says: str = DISCLAIMER
    model_id: str
    network: str
    classes: tuple[str, ...]
    left_out: dict[str, str]
    """Methods that the network does not support, with the reason."""
    inputs: list[InputExplanation]


def explain(
    inputs: Sequence[Path],
    out: Path,
    *,
    checkpoint: Path | None = None,
    emotions: Sequence[str] = (),
    methods: Sequence[str] = METHODS,
    at_s: Sequence[float] = (),
    whole: bool = False,
    on_line: Callable[[str], None] = lambda line: None,
    on_picture: Callable[[str], None] = lambda line: None,
) -> Explanation:
    """Write pictures that explain the prediction for each face of the inputs into the folder `out`.

    The folder also gets `explain.json` and `maps.npz`; other files in it stay. An input that cannot be
    explained does not stop the others.

    Args:
        inputs: pictures, videos, and folders of them.
        checkpoint: a `.safetensors` checkpoint; None is the packaged one.
        emotions: names of the model's classes, or "all"; by default the two most probable classes.
        methods: any of `METHODS`.
        at_s: times in the videos in seconds; by default up to three frames with faces.
        whole: whether pictures are face crops.
        on_line: called with a line of text for each video.
        on_picture: called with a line of text for each written picture.

    Raises CheckpointError, ConfigError and OutputError before any input is read, and InputError if no input
    has a face; then nothing is written.
    """
    if checkpoint is not None and checkpoint.suffix.lower() == ".onnx":
        raise CheckpointError(f"{checkpoint} has no gradients: give the .safetensors file of the same model")
    check_folder(out)
    network, card = load_checkpoint(checkpoint)
    chosen = _parse_emotions(emotions, card)
    left_out = _check_methods(network, methods)
    for reason in left_out.values():
        on_line(f"no Grad-CAM: {reason}")
    files = list(list_files(inputs))
    if at_s and all(is_picture(path) for path, _ in files):
        raise InputError("--at gives times in videos, but there is no video among the inputs")
    detector = FaceDetector(ANALYZE_CONFIG.min_face, ANALYZE_CONFIG.min_score)
    arrays: dict[str, np.ndarray] = {}
    used_paths = {path.resolve() for path, _ in files}
    rows = []
    for path, problem in files:
        name = os.fsencode(path).decode(errors="replace")
        found = InputFaces(problems=[problem] if problem else [])
        if problem is None and is_picture(path):
            found = find_picture_faces(path, detector, card.crop_scale, whole)
        elif problem is None:
            on_line(f"reading {name} …")
            found = find_video_faces(path, at_s, detector, card)
        faces = []
        for _, simultaneous in groupby(found.faces, lambda face: face.moment_s):
            for number, face in enumerate(simultaneous, start=1):
                attribution = attribute_face(network, card, face.crops, face.centre, chosen, methods)
                stem = _choose_stem(out, path, face, number, used_paths)
                explanation = _write_face(out, stem, face, number, attribution, card.classes)
                arrays |= {explanation.maps[method]: maps for method, maps in attribution.maps.items()}
                faces.append(explanation)
                for line in _describe_pictures(out, explanation):
                    on_picture(line)
        rows.append(InputExplanation(input=name, problems=found.problems, faces=faces))
    if not arrays:
        raise InputError(_describe_problems(rows))
    explanation_of_all = Explanation(
        model_id=card.model_id, network=card.network, classes=card.classes, left_out=left_out, inputs=rows
    )
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)  # type: ignore[arg-type]
    record = encode_json(explanation_of_all.to_dict())
    write_files(out, {"maps.npz": content.getvalue(), "explain.json": record})
    return explanation_of_all


def _check_methods(network: Network, methods: Sequence[str]) -> dict[str, str]:
    """Return the unsupported methods with the reason; raises ConfigError if there is no other."""
    if "grad-cam" not in methods or find_map_layer(network.encoder) is not None:
        return {}
    reason = "the network has no convolution that distinguishes places of a face"
    if list(methods) == ["grad-cam"]:
        raise ConfigError(f"--method is grad-cam, but {reason}; give --method occlusion")
    return {"grad-cam": reason}


def _parse_emotions(names: Sequence[str], card: Card) -> list[int]:
    """Return the indices of the named classes, each once."""
    numbers = []
    for name in names:
        if name == ALL_EMOTIONS:
            return list(range(len(card.classes)))
        known = name if name in card.classes else normalize_label(name)
        if known not in card.classes:
            allowed = ", ".join((*card.classes, ALL_EMOTIONS))
            raise ConfigError(f"--emotion must be one of {allowed}, got {name}")
        numbers.append(card.classes.index(known))
    return list(dict.fromkeys(numbers))


def _describe_problems(rows: Sequence[InputExplanation]) -> str:
    reasons = [f"{row.input} {problem}" for row in rows for problem in row.problems]
    more = f"; and {len(reasons) - MAX_REASONS} more" if len(reasons) > MAX_REASONS else ""
    return "; ".join(reasons[:MAX_REASONS]) + more


def _choose_stem(out: Path, path: Path, face: WindowedFace, number: int, used_paths: set[Path]) -> str:
    """Choose a name for a face's pictures that replaces no input and no other picture."""
    base = re.sub(r"[\x00-\x1f\x7f]", "_", path.stem).encode(errors="replace")[:MAX_STEM_BYTES]
    time = "" if face.moment_s is None else f"_{face.moment_s:.2f}s"
    first = f"{base.decode(errors='ignore')}{time}_face{number}"
    for stem in chain([first], (f"{first}-{attempt}" for attempt in count(2))):
        pictures = {(out / f"{stem}{end}.png").resolve() for end in ("", "_time")}
        if not pictures & used_paths:
            break
    used_paths |= pictures
    return stem


def _write_face(
    out: Path,
    stem: str,
    face: WindowedFace,
    number: int,
    attribution: Attribution,
    classes: Sequence[str],
) -> FaceExplanation:
    """Write the pictures of a face."""
    names = [classes[emotion] for emotion in attribution.emotions]
    probs = dict(zip(classes, attribution.probs.tolist(), strict=True))
    crop_probs = dict(zip(classes, attribution.crop_probs.tolist(), strict=True))
    titles = ["the crop alone" if attribution.crop_only else "the crop in its window"]
    titles += [f"{name} {crop_probs[name]:.2f}" for name in names]
    figure = plot_maps(face.crops[face.centre], titles, attribution.maps)
    write_files(out, {f"{stem}.png": render_figure(figure)})
    frames: FrameExplanation | None = None
    if (weights := attribution.frames) is not None and face.moment_s is not None:
        by_name = {
            key: dict(zip(names, getattr(weights, key).tolist(), strict=True))
            for key in ("weights", "contributions", "difference", "error")
        }
        frames = FrameExplanation(picture=f"{stem}_time.png", times_s=face.times_s.tolist(), **by_name)
        grey_probs = {name: probs[name] / math.exp(frames.difference[name]) for name in names}
        titles = [f"{name} {probs[name]:.2f}; {grey_probs[name]:.2f} with grey frames" for name in names]
        offsets_s = face.times_s - face.moment_s
        figure = plot_frames(face.crops, offsets_s, face.centre, titles, weights.weights)
        write_files(out, {frames.picture: render_figure(figure)})
    return FaceExplanation(
        picture=f"{stem}.png",
        moment_s=face.moment_s,
        box=face.box,
        answer=probs,
        crop_answer=crop_probs,
        emotions=names,
        maps={method: f"{stem}_{method}" for method in attribution.maps},
        frames=frames,
        face=number,
    )


def _describe_pictures(out: Path, face: FaceExplanation) -> Iterator[str]:
    """Yield a line for each picture of a face."""
    crop_probs = ", ".join(f"{name} {face.crop_answer[name]:.2f}" for name in face.emotions)
    yield f"{out / face.picture}: {crop_probs}"
    if frames := face.frames:
        probs = ", ".join(f"{name} {face.answer[name]:.2f}" for name in face.emotions)
        worst = max(abs(error) for error in frames.error.values())
        yield f"{out / frames.picture}: {probs}; {len(frames.times_s)} frames, sum off by {worst:.0e}"
