"""The end of a training run: the calibrated checkpoint, its card, and the summary."""

import dataclasses
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fer_batch.data.clips import Clips, count_classes
from fer_batch.model.card import Card, parse_card, read_card
from fer_batch.model.network import Network
from fer_batch.model.weights import encode_checkpoint
from fer_batch.plotting import render_figure
from fer_batch.storage.atomic import format_csv
from fer_batch.storage.folder import OutputFolder
from fer_batch.train_config import TrainConfig
from fer_batch.training.calibrate import fit_temperature
from fer_batch.training.curves import plot_curves
from fer_batch.training.predict import predict_log_probs, select_input_frames
from fer_batch.training.recipes import Settings
from fer_batch.training.sources import MIN_CALIBRATION_CLIPS, read_crop_scale
from fer_batch.training.state import HISTORY_COLUMNS, TrainState, selected_epoch

PATH_SETTINGS = ("data", "init", "backbone_weights", "teacher")
"""Settings that a card leaves out, because they are paths on the training machine."""


@dataclass(frozen=True, kw_only=True, repr=False)
class TrainSummary:
    """The result of a training run."""

    checkpoint: Path | str
    """The weights, as a path or the address in a store; the card is beside them, with the suffix .json."""
    config: Settings
    """Settings of the run, without paths."""
    data: list[str]
    init: str | None
    """`model_id` of the checkpoint that training started from."""
    left_out: dict[str, int]
    """Number of examples that were left out or are doubtful, by reason."""
    train_clips: dict[str, int]
    calibrate_clips: dict[str, int]
    select_clips: dict[str, int]
    accuracy: float
    """Accuracy on the selection split, in the epoch whose weights are kept, like `macro_f1`."""
    macro_f1: float
    n: int
    seconds: int
    hardware: str
    """GPUs of the workers that trained to the end, or CPUs of their machines."""
    torch: str
    teachers: list[str] = field(default_factory=list)
    """`model_id` of each teacher."""

    def __repr__(self) -> str:
        return (
            f"TrainSummary({str(self.checkpoint)!r}, accuracy={self.accuracy:.4f}, "
            f"macro_f1={self.macro_f1:.4f}, n={self.n}, seconds={self.seconds})"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the field `training` of the checkpoint's card."""
        values = {name: value for name, value in vars(self).items() if name != "checkpoint"}
        selection = {name: values.pop(name) for name in ("accuracy", "macro_f1", "n")}
        return {**values, "selection": selection}

    @classmethod
    def from_dict(cls, values: dict[str, Any], checkpoint: Path | str) -> "TrainSummary":
        """Read the field `training` of the card of `checkpoint`."""
        fields = {name: value for name, value in values.items() if name != "selection"}
        return cls(checkpoint=checkpoint, **fields, **values["selection"])


def export_model(
    config: TrainConfig,
    out: OutputFolder,
    state: TrainState,
    data: Clips,
    left_out: Counter[str],
    *,
    train_clips: dict[str, int],
    hardware: str,
) -> TrainSummary:
    """Write `model.safetensors` with its card, and the history of the run, to `out`.

    `data` is the data in memory; its split "calibrate" calibrates the confidences. `train_clips` counts the
    training clips of each class, and `hardware` describes the workers at the end.
    """
    model = state.build_network()
    kept = selected_epoch(config, state.history)
    summary = TrainSummary(
        checkpoint=locate_model(out),
        accuracy=kept.accuracy,
        macro_f1=kept.macro_f1,
        n=kept.n,
        seconds=round(sum(row.seconds for row in state.history)),
        config={k: v for k, v in config.to_dict().items() if k not in PATH_SETTINGS},
        data=[name for name, _ in config.data],
        init=read_card(Path(config.init))[1].model_id if config.init else None,
        left_out=dict(left_out),
        train_clips=train_clips,
        calibrate_clips=count_classes(data.take(data.splits == "calibrate")),
        select_clips=count_classes(data.take(data.splits == "select")),
        hardware=hardware,
        torch=torch.__version__,
        teachers=[read_card(Path(path))[1].model_id for path in config.teacher],
    )
    rows = [row.to_dict() for row in state.history]
    out.write_json("history.json", rows)
    out.write_bytes("history.csv", format_csv(HISTORY_COLUMNS, (list(row.values()) for row in rows)))
    out.write_bytes("learning_curves.png", render_figure(plot_curves(rows, kept.to_dict())))
    inactive_dropout = {"dropout": 0.0} if "dropout" in state.architecture else {}
    card = Card(
        classes=data.classes,
        network=state.network,
        architecture=state.architecture | inactive_dropout,
        window_rate_hz=config.window_rate_hz,
        window_length=config.window_length if model.lstms else 1,
        crop_scale=read_crop_scale(config),
        temperature=_calibrate(model, data.take(data.splits == "calibrate"), config.window_length),
        training=summary.to_dict(),
    )
    content, card = encode_checkpoint(model, card)
    out.write_bytes("model.safetensors", content)
    out.write_json("model.json", dataclasses.asdict(card))
    return summary


def read_summary(out: OutputFolder) -> TrainSummary | None:
    """Return the summary of the finished run in a folder; None for any other folder.

    Raises CheckpointError if its card cannot be read.
    """
    if not out.exists("model.json"):
        return None
    if out.path is not None:
        return TrainSummary.from_dict(read_card(out.path)[1].training, locate_model(out))
    return TrainSummary.from_dict(parse_card(out.read_bytes("model.json")).training, locate_model(out))


def locate_model(out: OutputFolder) -> Path | str:
    """Return the path or address of the weights in the folder of a run."""
    return f"{out}/model.safetensors" if out.path is None else out.path / "model.safetensors"


def _calibrate(model: Network, clips: Clips, length: int) -> float:
    """Fit the temperature to the mean prediction for each clip and its mirror image."""
    if len(clips) < MIN_CALIBRATION_CLIPS:
        return 1.0
    frames = select_input_frames(model, clips, length)
    views = (frames, frames[..., ::-1].copy())
    log_probs = np.mean([predict_log_probs(model, view, torch.device("cpu")) for view in views], axis=0)
    return fit_temperature(log_probs, clips.labels)
