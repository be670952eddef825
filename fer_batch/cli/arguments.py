"""Types of arguments that several commands share, each with its help text.

Arguments that are paths are annotated as `Path` at run time, so that shells complete file names.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter, Token

from fer_batch.cli.options import Convert
from fer_batch.errors import ConfigError, InputError
from fer_batch.fields import Range, Topic

RAY = Topic("Ray", order=1)
QUALITY = Topic("Confidence and quality")


def keep_text(kind: Any, tokens: Sequence[Token]) -> str:
    """Return an argument unchanged."""
    return tokens[0].value


def keep_texts(kind: Any, tokens: Sequence[Token]) -> list[str]:
    """Return arguments unchanged."""
    return [token.value for token in tokens]


def parse_file(name: str) -> Path:
    """Parse the path of a file to write; raises OutputError for an address of a store."""
    from fer_batch.storage.folder import parse_file_path

    return parse_file_path(name)


def parse_data(texts: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Parse several NAME=PATH."""
    return tuple(map(parse_named_path, texts))


def parse_named_path(text: str) -> tuple[str, str]:
    """Parse NAME=PATH to (name, absolute path); raises ConfigError."""
    name, _, path = text.partition("=")
    if not name or not path:
        raise ConfigError(f"a data set must be NAME=PATH, as in fer2013=fer2013.parquet; got {text!r}")
    return name, str(Path(path).absolute())


def parse_gpus(text: str) -> int | str:
    """Parse "auto" or a whole number from 0; raises ConfigError."""
    if text != "auto" and not text.isdecimal():
        raise ConfigError(f"--gpus must be auto or a whole number from 0, got {text}")
    return text if text == "auto" else int(text)


def check_data_exists(data: Sequence[tuple[str, str]]) -> None:
    """Raise InputError for a missing data set, before the seconds that importing torch and ray takes."""
    for name, path in data:
        if not Path(path).exists():
            raise InputError(f"--data {name}={path}: there is no such file or folder")


OutputFile = Annotated[Path, Parameter(name=["--output", "-o"], converter=keep_text), Convert(parse_file)]
OutputFolder = Annotated[Path, Parameter(name=["--output", "-o"], help="Folder for the results.")]

if TYPE_CHECKING:
    RunFolder = str
    NewRunFolder = str
    Inputs = list[str]
    VideoName = str
    VideoNames = list[str]
    OptionalVideoName = str | None
    FileName = str
    DataSets = tuple[tuple[str, str], ...]
    Gpus = int | Literal["auto"]
else:
    RunFolder = Annotated[
        Path, Parameter(converter=keep_text, help="Run folder of `analyze`, local or in a store.")
    ]
    NewRunFolder = Annotated[
        Path,
        Parameter(
            converter=keep_text,
            help="Run folder, local or in a store (s3://, gs://): new, empty or of this run.",
        ),
    ]
    Inputs = Annotated[
        list[Path],
        Parameter(
            converter=keep_texts,
            help="Files, folders (searched recursively), globs, archives (.tar, .tar.gz, .zip) and manifests "
            "(.txt, .csv, .parquet, .jsonl), local or in a store (s3://, gs://, hf://, https://).",
        ),
    ]
    _video = "Video, by its video_id, path or file name."
    VideoName = Annotated[Path, Parameter(converter=keep_text, help=_video)]
    OptionalVideoName = Annotated[
        Path | None, Parameter(converter=keep_text, help=f"{_video} By default all videos.")
    ]
    VideoNames = Annotated[
        list[Path], Parameter(converter=keep_texts, help="Videos, by their video_id, path or file name.")
    ]
    FileName = Annotated[Path, Parameter(converter=keep_text)]
    Gpus = Annotated[
        str,
        Parameter(
            metavar="N|auto",
            help="GPUs to use. The command waits until the cluster has them, and never uses CPUs instead. "
            "By default those that the cluster has now, or else CPUs.",
        ),
        Convert(parse_gpus),
    ]
    DataSets = Annotated[
        tuple[str, ...],
        Parameter(
            name="--data",
            metavar="NAME=PATH",
            help="Data set of labelled faces; may be repeated. Names: fer2013, ck48, muxspace, rafdb, "
            "affectnet, folder, clips.",
        ),
        Convert(parse_data),
    ]


@dataclass(frozen=True, kw_only=True)
class RayOptions:
    """The Ray cluster that runs a command."""

    address: Annotated[str | None, RAY] = None
    """Ray cluster. By default RAY_ADDRESS, the cluster of the current Ray job, or this machine."""
    insecure: Annotated[bool, RAY] = False
    """Allow a cluster without a token. Anyone who reaches such a cluster can run programs on it."""
    verbose: Annotated[bool, RAY] = False
    """Show the log: messages of Ray, names of skipped files, and which of several video streams is read."""


@dataclass(frozen=True, kw_only=True)
class QualityOptions:
    """The faces that a command uses, by confidence and quality. Faces without the value are left out."""

    min_confidence: Annotated[float | None, Range(at_least=0, at_most=1), QUALITY] = None
    """Use only faces whose most probable emotion has at least this probability."""
    min_face_px: Annotated[float | None, Range(at_least=0), QUALITY] = None
    """Use only faces of at least this height, in pixels of the video (column face_px)."""
    min_sharpness: Annotated[float | None, Range(at_least=0), QUALITY] = None
    """Use only faces of at least this sharpness, the variance of the Laplacian (column blur). Blurred faces
    are near 0."""
    max_yaw_deg: Annotated[float | None, Range(at_least=0, below=90), QUALITY] = None
    """Use only faces that are turned to the left or right by at most this angle, in degrees. It is estimated
    from the eyes and the nose (column yaw_deg)."""
    max_pitch_deg: Annotated[float | None, Range(at_least=0, below=90), QUALITY] = None
    """Use only faces that are raised or lowered by at most this angle, in degrees. It is estimated like the
    yaw (column pitch_deg)."""
