"""What a run is asked to do: frozen, keyword-only, checked when made."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any

from fer_batch.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class AnalyzeConfig:
    """How videos are analyzed. Everything here changes the answers, so it is part of a run's fingerprint."""

    fps: float = 5.0
    """Moments looked at per second of video."""
    every_frame: bool = False
    """Look at every frame instead; `fps` is then not used."""
    min_face: float = 0.05
    """Smallest face to find, as a share of the frame's height."""
    min_score: float = 0.9
    """Lowest score of the face detector, 0–1."""
    max_gap_s: float = 0.5
    """How long a face may be lost and still be the same track, in seconds."""
    segment_s: float = 60.0
    """Longest core of a segment, in seconds."""
    bundle_s: float = 600.0
    """Video in one bundle, the unit that is done or not done, in seconds."""
    checkpoint: str | None = None
    """Path of the model, None for the packaged one."""
    flip: bool = False
    """Answer with the mean of what the model says to a face and to its mirror image."""

    def __post_init__(self) -> None:
        _require(0 < self.fps <= 1000, "--fps", self.fps, "a number above 0, up to 1000")
        _require(
            0 < self.min_face <= 1,
            "--min-face",
            self.min_face,
            "a share of the frame's height above 0, up to 1",
        )
        _require(
            0 <= self.min_score < 1, "--min-score", self.min_score, "a number from 0 up to, not including, 1"
        )
        _require(0 <= self.max_gap_s <= 60, "--max-gap", self.max_gap_s, "seconds from 0 to 60")
        _require(1 <= self.segment_s <= 3600, "--segment", self.segment_s, "seconds from 1 to 3600")
        _require(
            self.bundle_s >= self.segment_s,
            "--bundle",
            self.bundle_s,
            f"at least --segment, {self.segment_s:g} s",
        )

    def fingerprint(self, model_id: str) -> str:
        """Hash of all that the answers depend on but the inputs: two runs with the same give the same
        rows.
        """
        settings = dataclasses.asdict(self) | {"checkpoint": model_id}
        if not self.flip:
            del settings["flip"]  # so that bundles done before it could be chosen are still known as done
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


SCHEDULES = ("onecycle", "cosine", "plateau")
CLASS_WEIGHTS = ("none", "sqrt", "balanced")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How a model is trained."""

    data: tuple[tuple[str, str], ...]
    """(name, path) of each data set."""
    epochs: int = 36
    """Passes over all frames as stills: encoder and heads."""
    sequence_epochs: int = 3
    """Passes in which every clip is a moving sequence: LSTMs and heads, the encoder frozen."""
    batch_size: int = 128
    lr: float = 0.1
    """Highest learning rate of the stills phase (SGD, Nesterov momentum 0.9)."""
    sequence_lr: float = 1e-3
    """Highest learning rate of the sequence phase (AdamW)."""
    weight_decay: float = 5e-4
    dropout: float = 0.3
    label_smoothing: float = 0.05
    schedule: str = "onecycle"
    class_weights: str = "sqrt"
    """Weight of a class in the loss by its frequency f: none, 1/√f, or 1/f ("balanced")."""
    ema_decay: float = 0.998
    filters: tuple[int, ...] = (32, 64, 128, 256)
    window_length: int = 9
    window_rate_hz: float = 5.0
    seed: int = 0
    workers: int = 1
    threads: int = 1
    """Torch threads of each worker on a CPU: no more than the cores that are really free."""

    def __post_init__(self) -> None:
        _require(len(self.data) > 0, "--data", "nothing", "at least one NAME=PATH")
        _require(self.epochs >= 1, "--epochs", self.epochs, "a whole number from 1")
        _require(
            self.sequence_epochs >= 0, "--sequence-epochs", self.sequence_epochs, "a whole number from 0"
        )
        _require(self.batch_size >= 2, "--batch-size", self.batch_size, "a whole number from 2")
        _require(self.lr > 0, "--lr", self.lr, "a number above 0")
        _require(self.schedule in SCHEDULES, "--schedule", self.schedule, ", ".join(SCHEDULES))
        _require(
            self.class_weights in CLASS_WEIGHTS,
            "--class-weights",
            self.class_weights,
            ", ".join(CLASS_WEIGHTS),
        )
        _require(
            0 <= self.ema_decay < 1, "--ema-decay", self.ema_decay, "a number from 0 up to, not including, 1"
        )
        _require(0 <= self.dropout < 1, "--dropout", self.dropout, "a number from 0 up to, not including, 1")
        _require(self.seed >= 0, "--seed", self.seed, "a whole number from 0")
        _require(self.workers >= 1, "--workers", self.workers, "a whole number from 1")
        _require(self.threads >= 1, "--threads", self.threads, "a whole number from 1")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as written to `train.json`."""
        return json.loads(json.dumps(dataclasses.asdict(self)))


def difference(old: dict[str, Any], new: dict[str, Any]) -> str:
    """What two configurations don't share, as "fps was 5, is 10; …"; empty where they are equal."""
    keys = sorted(old.keys() | new.keys())
    return "; ".join(f"{k} was {old.get(k)}, is {new.get(k)}" for k in keys if old.get(k) != new.get(k))


def _require(valid: bool, option: str, given: Any, allowed: str) -> None:
    if not valid:
        raise ConfigError(f"{option} is {given}; allowed is {allowed}")
