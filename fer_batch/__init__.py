"""Turn video archives into emotion timelines.

Analyze videos, then query the timeline:

    import fer_batch

    fer_batch.analyze(["talks/"], "results")
    timeline = fer_batch.open_timeline("results")
    timeline.sql("SELECT emotion, count(*) FROM tracks GROUP BY emotion")

Analyze one video in this process:

    faces = fer_batch.analyze_video("talk.mp4")

`import fer_batch` is fast: each name imports its module when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fer_batch.config import AnalyzeConfig, Limits, TrainConfig
    from fer_batch.errors import (
        CheckpointError,
        ConfigError,
        DecodeError,
        FerBatchError,
        InputError,
        NoVideoError,
        OutputError,
        QueryError,
        ResourceError,
    )
    from fer_batch.evaluation.evaluate import Evaluation, evaluate
    from fer_batch.model.predictions import Prediction
    from fer_batch.model.recognize import Recognizer
    from fer_batch.pipeline.analyze import analyze
    from fer_batch.pipeline.local import analyze_video
    from fer_batch.pipeline.progress import Progress
    from fer_batch.run.finalize import finalize
    from fer_batch.run.summary import RunSummary, VideoFailure
    from fer_batch.timeline.store import Timeline, open_timeline
    from fer_batch.training.export import TrainSummary
    from fer_batch.training.recipes import Recipe, list_recipes, read_recipe
    from fer_batch.training.run import train
    from fer_batch.training.tune.run import tune
    from fer_batch.training.tune.study import StudySummary
    from fer_batch.video.planes import Frame
    from fer_batch.video.random_access import read_frames
    from fer_batch.video.segment import Segment
    from fer_batch.vision.detect import FaceDetector
    from fer_batch.vision.detections import Face

__version__ = "0.1.0"

__all__ = [
    "AnalyzeConfig",
    "CheckpointError",
    "ConfigError",
    "DecodeError",
    "Evaluation",
    "Face",
    "FaceDetector",
    "FerBatchError",
    "Frame",
    "InputError",
    "Limits",
    "NoVideoError",
    "OutputError",
    "Prediction",
    "Progress",
    "QueryError",
    "Recipe",
    "Recognizer",
    "ResourceError",
    "RunSummary",
    "Segment",
    "StudySummary",
    "Timeline",
    "TrainConfig",
    "TrainSummary",
    "VideoFailure",
    "__version__",
    "analyze",
    "analyze_video",
    "evaluate",
    "finalize",
    "list_recipes",
    "open_timeline",
    "read_frames",
    "read_recipe",
    "train",
    "tune",
]

_MODULES = {
    "config": ("AnalyzeConfig", "Limits", "TrainConfig"),
    "errors": tuple(name for name in __all__ if name.endswith("Error")),
    "evaluation.evaluate": ("Evaluation", "evaluate"),
    "model.predictions": ("Prediction",),
    "model.recognize": ("Recognizer",),
    "pipeline.analyze": ("analyze",),
    "pipeline.local": ("analyze_video",),
    "pipeline.progress": ("Progress",),
    "run.finalize": ("finalize",),
    "run.summary": ("RunSummary", "VideoFailure"),
    "timeline.store": ("Timeline", "open_timeline"),
    "training.export": ("TrainSummary",),
    "training.recipes": ("Recipe", "list_recipes", "read_recipe"),
    "training.run": ("train",),
    "training.tune.run": ("tune",),
    "training.tune.study": ("StudySummary",),
    "video.planes": ("Frame",),
    "video.random_access": ("read_frames",),
    "video.segment": ("Segment",),
    "vision.detect": ("FaceDetector",),
    "vision.detections": ("Face",),
}
_MODULE_OF = {name: f"fer_batch.{module}" for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'fer_batch' has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
