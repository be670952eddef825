"""What the stages of a run need besides the segments. Importing this module loads neither torch nor Ray."""

from dataclasses import dataclass, field
from pathlib import Path

from fer_batch.config import AnalyzeConfig, Limits
from fer_batch.model.card import Card, read_card
from fer_batch.storage.folder import OutputFolder

PREFETCH_FRAMES = 24
"""Sampled frames that a second thread decodes ahead, where a core is free for it."""


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Everything that the stages need besides the segments."""

    results: OutputFolder
    """Folder of the result files."""
    config: AnalyzeConfig
    card: Card
    checkpoint: Path | None
    limits: Limits
    queries: dict[str, str] = field(default_factory=dict, repr=False)
    """Queries of web addresses, which no file may contain."""

    @property
    def recognizer_arguments(self) -> tuple[Path | None, bool, str]:
        """The arguments of `stages.RecognizeStage`."""
        return self.checkpoint, self.config.flip, self.config.precision

    def analyzer_arguments(self, prefetch: int) -> tuple[AnalyzeConfig, float, Path | None, int]:
        """Return the arguments of `stages.AnalyzeStage`."""
        return self.config, self.card.crop_scale, self.checkpoint, prefetch


def load_card(checkpoint: Path | None) -> Card:
    """Return the card of a checkpoint after a check that it can be loaded, by default of the packaged one.

    The packaged one needs no check, and so no import of torch. Raises CheckpointError.
    """
    if checkpoint is None:
        return read_card()[1]
    from fer_batch.model.recognize import Recognizer

    return Recognizer(checkpoint, "cpu").card
