"""Settings of an analysis: frozen, keyword-only dataclasses that check their values when made."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fer_batch.fields import Flag, Range, Topic, check_fields, require

CROP_SIZE_PX = 48
"""Side of a face crop."""
GREY_MEAN, GREY_STD = 0.5077, 0.2551
"""Mean and standard deviation of the grey values, 0–1, of FER2013's training images; they normalize crops."""
MAX_WINDOW_S = 120.0
"""Longest window of a network; half of it is the padding of each segment."""

FRAMES = Topic("Sampled frames")
FACES = Topic("Faces")
MODEL = Topic("Model")
WORK_UNITS = Topic("Work units (they do not change the results)")
LIMITS = Topic("Limits of one video (above them it ends as failed)")
FAST_FLAGS = (
    Flag("fast", "nonref", "For surveys: skip the frames that no other frame refers to."),
    Flag(
        "keyframes",
        "keyframes",
        "For surveys: decode key frames only, often one in several seconds. Faces cannot be followed between "
        "them: one that moves gets a new track.",
    ),
)
PrecisionName = Literal["auto", "fp32", "int8", "bf16", "fp16"]


@dataclass(frozen=True, kw_only=True)
class AnalyzeConfig:
    """How videos are analyzed. All of these settings change the results, so a run's fingerprint has them."""

    fps: Annotated[float, Range(above=0, at_most=1000), FRAMES] = 5.0
    """Sampled frames per second of video."""
    every_frame: Annotated[bool, FRAMES] = False
    """Analyze every frame and ignore the rate of sampled frames."""
    fast: Annotated[Literal["nonref", "keyframes"] | None, FRAMES, *FAST_FLAGS] = None
    """Decode fewer frames, for surveys. "nonref" skips the frames that no other frame refers to. "keyframes"
    decodes key frames only, often one in several seconds."""
    hardware_decoding: Annotated[bool, FRAMES] = False
    """Decode videos on NVIDIA GPUs, on nodes with CPUs and GPUs. Colours differ by rounding. Other nodes, and
    files that a GPU cannot decode, are decoded in software. Each worker takes memory of its GPU."""
    min_face: Annotated[float, Range(above=0, at_most=1), FACES] = 0.05
    """Height of the smallest detected face, as a fraction of the frame's height."""
    min_score: Annotated[float, Range(at_least=0, below=1), FACES] = 0.8
    """Lowest detector score of a face."""
    max_faces: Annotated[int | None, Range(at_least=1), FACES] = None
    """Number of faces that are kept per sampled frame, the largest first. By default all are kept."""
    detect_every: Annotated[float | None, Range(above=0, at_most=60), FACES] = None
    """Seconds of video between two searches for faces; faces are followed between them. Every other search
    covers only the parts of the picture that have changed. By default 1, or 2 with --fast and
    --keyframes."""
    max_gap_s: Annotated[float, Range(at_least=0, at_most=60), FACES] = 0.5
    """Longest time without a detection after which a face keeps its track, in seconds. Pauses without
    sampled frames do not count."""
    checkpoint: Annotated[str | None, MODEL] = None
    """Model to use: a .safetensors file, or an .onnx file of `export-model`. By default the packaged one."""
    flip: Annotated[bool, MODEL] = True
    """Average the predictions for a face and its mirror image. This is slightly more accurate; recognition
    takes twice as long."""
    precision: Annotated[PrecisionName, MODEL] = "auto"
    """Precision in which faces are recognized. A run keeps it, also on nodes that join later. By default
    int8 (only CPUs, VNNI) or else bf16 if all nodes have it in hardware when the run starts, else fp32."""
    segment_s: Annotated[float, Range(at_least=1, at_most=3600), WORK_UNITS] = 60.0
    """Longest core of a segment, in seconds."""
    bundle_s: Annotated[float, Range(above=0), WORK_UNITS] = 600.0
    """Seconds of video in one bundle. A stopped run repeats the bundles that were not finished."""

    def __post_init__(self) -> None:
        if self.detect_every is None:
            object.__setattr__(self, "detect_every", 2.0 if self.fast else 1.0)
        check_fields(self)
        require(not (self.every_frame and self.fast), "every_frame", "be false if fast is set", True)
        require(
            self.bundle_s >= self.segment_s,
            "bundle_s",
            f"be at least the length of a segment, {self.segment_s:g} s",
            self.bundle_s,
        )

    @property
    def search_s(self) -> float:
        """Seconds of video between two searches for faces."""
        assert self.detect_every is not None
        return self.detect_every

    def fingerprint(self, model_id: str) -> str:
        """Hash everything but the inputs that determines the rows of a run."""
        settings = dataclasses.asdict(self) | {"checkpoint": model_id}
        if self.max_faces is None:
            del settings["max_faces"]  # keeps the fingerprints of runs that are older than this setting
        if self.precision == "auto":
            del settings["precision"]  # likewise
        if not self.hardware_decoding:
            del settings["hardware_decoding"]  # likewise
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Time and memory that one video may take. Within them they do not change the results."""

    timeout_s: Annotated[float, Range(at_least=1, at_most=86400), LIMITS] = 120.0
    """Longest time without progress, in seconds."""
    memory_gb: Annotated[float, Range(at_least=0.5, at_most=1024), LIMITS] = 4.0
    """Memory to read a video, on top of the memory of an idle worker, in GB."""

    def __post_init__(self) -> None:
        check_fields(self)


RETIRED_SETTINGS = {"preset"}
"""Settings in the records of older versions that no longer exist."""
ADDED_SETTINGS: dict[str, Any] = {
    "heads": "shared",
    "ship_head": None,
    "teacher": [],
    "teacher_weight": 0.5,
    "min_workers": 0,
    "scale_lr": True,  # those versions never scaled, which is the same with one worker
}
"""Settings that the records of older versions lack, with the values that those versions used."""


def difference(old: dict[str, Any], new: dict[str, Any]) -> str:
    """Describe the settings that differ, as "fps was 5, is 10; …"; empty if they are equal."""
    old = {name: value for name, value in ADDED_SETTINGS.items() if name in new} | old
    names = sorted((old.keys() | new.keys()) - RETIRED_SETTINGS)
    changed = [key for key in names if old.get(key) != new.get(key)]
    return "; ".join(
        f"{key} was {_format_value(old.get(key))}, is {_format_value(new.get(key))}" for key in changed
    )


def _format_value(value: Any) -> Any:
    return "empty" if value == "" else value
