"""The public names: type checkers read this file, and `__init__.py` imports them lazily from it."""

from .config import AnalyzeConfig as AnalyzeConfig
from .config import Limits as Limits
from .errors import CheckpointError as CheckpointError
from .errors import ConfigError as ConfigError
from .errors import DecodeError as DecodeError
from .errors import FerBatchError as FerBatchError
from .errors import InputError as InputError
from .errors import NoVideoError as NoVideoError
from .errors import OutputError as OutputError
from .errors import QueryError as QueryError
from .errors import ResourceError as ResourceError
from .evaluation.evaluate import Evaluation as Evaluation
from .evaluation.evaluate import evaluate as evaluate
from .live.session import LiveFace as LiveFace
from .live.session import LiveSession as LiveSession
from .model.recognize import Prediction as Prediction
from .model.recognize import Recognizer as Recognizer
from .pipeline.analyze import analyze as analyze
from .pipeline.local import analyze_images as analyze_images
from .pipeline.local import analyze_video as analyze_video
from .pipeline.people import group_people as group_people
from .pipeline.progress import Progress as Progress
from .pipeline.tables import finalize as finalize
from .pipeline.tables import verify as verify
from .run.summary import RunSummary as RunSummary
from .run.summary import VideoFailure as VideoFailure
from .timeline.store import Timeline as Timeline
from .timeline.store import open_timeline as open_timeline
from .train_config import TrainConfig as TrainConfig
from .training.export import TrainSummary as TrainSummary
from .training.recipes import Recipe as Recipe
from .training.recipes import list_recipes as list_recipes
from .training.recipes import read_recipe as read_recipe
from .training.run import train as train
from .training.tune.run import tune as tune
from .training.tune.study import Study as Study
from .video.planes import Frame as Frame
from .video.random_access import read_frames as read_frames
from .video.segment import Segment as Segment
from .vision.detect import FaceDetector as FaceDetector
from .vision.detections import Face as Face

__version__: str
