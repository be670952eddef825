"""What the stages of a run need besides the segments. This module imports neither torch nor Ray."""

from dataclasses import dataclass, field
from pathlib import Path

from fer_batch.config import AnalyzeConfig, Limits
from fer_batch.model.card import Card
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
