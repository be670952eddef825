"""The record of a run, `run.json`: its settings, its classes, and the columns of its manifests."""

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from fer_batch.config import AnalyzeConfig, difference
from fer_batch.errors import ConfigError, OutputError
from fer_batch.faults import fault_point
from fer_batch.inputs.manifest import COLUMN_TYPES, merge_column_types
from fer_batch.run.attempts import AttemptLog
from fer_batch.run.snapshot import TABLES, UNCLEAN_MARKER
from fer_batch.schema import SCHEMA_VERSION, rename_reserved
from fer_batch.storage.folder import FolderLike, OutputFolder, open_folder

if TYPE_CHECKING:
    from fer_batch.model.card import Card

BUCKET_S = 20 * 3600.0
"""Seconds of video in a bucket of the tables, the unit that `finalize` holds in memory and writes."""
RECORD_FILE = "run.json"
SUCCESS_FILE = "_SUCCESS.json"
TOTALS_FILE = "buckets.parquet"
RUN_FILES = (
    RECORD_FILE,
    SUCCESS_FILE,
    TOTALS_FILE,
    "snapshot.json",
    "people.parquet",
    "person_groups.parquet",
)
RUN_FOLDERS = ("plan", "results", *TABLES)
"""With RUN_FILES, everything that a run keeps in its folder except hidden files."""
REMOVAL_MARKER = ".removed.json"
"""Name of `run.json` while the run is being removed."""
PACKAGES = ("fer-batch", "ray", "torch", "av", "facenet-pytorch", "deltalake")
"""Packages whose versions the record contains."""


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """The content of `run.json`. Fields with a default are missing in records of older schemas."""

    schema_version: int
    settings: dict[str, Any]
    """The fields of AnalyzeConfig; `checkpoint` is the model's id, wherever its file lies."""
    classes: tuple[str, ...]
    fingerprint: str = ""
    """A hash of all settings that the results depend on."""
    columns: dict[str, str] = field(default_factory=dict)
    """The columns from manifests, each with its type, a key of `manifest.COLUMN_TYPES`."""
    bucket_s: float = BUCKET_S
    buckets: int = 0
    """Number of buckets that videos of schema 3 and older are spread over by a hash of their id."""
    started: str = ""
    """Start of the run in UTC, ISO 8601."""
    versions: dict[str, str] = field(default_factory=dict)
    """Versions of Python and the `PACKAGES` that started the run."""

    def to_dict(self) -> dict[str, Any]:
        """Return the content of `run.json`."""
        content = asdict(self) | {"classes": list(self.classes)}
        return content if self.buckets else {k: v for k, v in content.items() if k != "buckets"}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "RunRecord":
        """Read the content of `run.json`; columns of unknown types are ignored."""
        given = content.get("columns", {}).items()
        columns = {rename_reserved(name): kind for name, kind in given if kind in COLUMN_TYPES}
        known = {name: value for name, value in content.items() if name in cls.__dataclass_fields__}
        return cls(**known | {"classes": tuple(content["classes"]), "columns": columns})


def read_run(out: FolderLike) -> RunRecord:
    """Read the record of the run in `out`; raise OutputError if there is none that this version can read."""
    folder = open_folder(out)
    try:
        content = json.loads(folder.read_bytes(RECORD_FILE))
        if not (isinstance(content, dict) and content.keys() >= {"schema_version", "settings", "classes"}):
            raise ValueError("it is not the record of a fer-batch run")
        if content["schema_version"] > SCHEMA_VERSION:
            raise OutputError(
                f"The run in {folder} was made by a newer fer-batch (schema {content['schema_version']}, "
                f"this version reads {SCHEMA_VERSION}): upgrade fer-batch, or give another folder"
            )
        return RunRecord.from_dict(content)
    except FileNotFoundError:
        raise OutputError(
            f"{folder} contains no run of fer-batch ({folder}/{RECORD_FILE} does not exist)"
        ) from None
    except (OSError, ValueError) as error:
        raise OutputError(f"Cannot read {folder}/{RECORD_FILE}: {error}") from error


def create_run(out: FolderLike, config: AnalyzeConfig, card: "Card", bucket_s: float = BUCKET_S) -> RunRecord:
    """Write the record of a new run in `out`."""
    run = RunRecord(
        schema_version=SCHEMA_VERSION,
        settings=_list_settings(config, card),
        fingerprint=config.fingerprint(card.model_id),
        classes=tuple(card.classes),
        bucket_s=bucket_s,
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        versions={"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
    )
    write_run(open_folder(out), run)
    fault_point(RECORD_FILE)
    return run


def record_precision(out: FolderLike, precision: str) -> None:
    """Record the precision of a run that an older version started."""
    folder = open_folder(out)
    run = read_run(folder)
    write_run(folder, replace(run, settings=run.settings | {"precision": precision}))


def write_run(folder: OutputFolder, run: RunRecord) -> None:
    """Replace the record of a run."""
    folder.write_json(RECORD_FILE, run.to_dict(), RECORD_FILE)


def add_manifest_columns(out: FolderLike, columns: Mapping[str, str]) -> None:
    """Add columns from a manifest, with their types, to the table `videos`, and upgrade the run's schema.

    A column that exists gets a type that holds the old and the new values.
    """
    folder = open_folder(out)
    run = read_run(folder)
    merged = {name: merge_column_types(run.columns.get(name, kind), kind) for name, kind in columns.items()}
    # Schema 1 has no snapshots: its number has to stay until the tables are written again.
    schema_version = SCHEMA_VERSION if run.schema_version > 1 else 1
    upgraded = replace(run, columns=run.columns | merged, schema_version=schema_version)
    if upgraded != run:
        write_run(folder, upgraded)


def load_matching_run(
    out: FolderLike, config: AnalyzeConfig, card: "Card", overwrite: bool = False
) -> RunRecord | None:
    """Check that a run with this configuration can be started or continued in `out`.

    Returns the record of the run in `out`; None if there is none or it is to be overwritten. Raises
    ConfigError, with the difference, if that run has another configuration or model. Raises OutputError if
    the folder cannot be used or contains other files, or if an earlier `remove_run` was interrupted.
    """
    folder = open_folder(out)
    folder.check_usable()
    folder.check_writable()
    visible = {name for name in folder.list_names() if name[0] != "."}
    is_half_removed = folder.exists(REMOVAL_MARKER)
    has_run = folder.exists(RECORD_FILE)
    if overwrite and (is_half_removed or has_run):
        if not is_half_removed:
            read_run(folder)
        foreign = sorted(visible.difference(RUN_FILES, RUN_FOLDERS))
        if foreign:
            raise OutputError(
                f"{folder} contains other files than the run: {', '.join(foreign)}; move them away, or give "
                "another --out"
            )
        return None
    if is_half_removed:
        raise OutputError(
            f"{folder} contains a run whose removal was interrupted: give --overwrite again, or give another "
            "--out"
        )
    if not has_run:
        if visible:
            raise OutputError(
                f"{folder} contains other files than a run of fer-batch; give a new or empty folder"
            )
        return None
    run = read_run(folder)
    # A setting that the record lacks did not exist: faces were neither mirrored nor limited in number.
    absent = {"flip": False, "max_faces": None, "precision": "auto", "hardware_decoding": False}
    recorded = absent | run.settings
    wanted = _list_settings(config, card)
    if "auto" in (recorded["precision"], wanted["precision"]):  # the run keeps its own, see `fix_precision`
        del recorded["precision"], wanted["precision"]
    changes = difference(recorded, wanted)
    if changes:
        raise ConfigError(
            f"{folder} contains a run with another configuration: {changes}. "
            "Give the same options to continue it, give another --out, or start again with --overwrite"
        )
    return run


def remove_run(out: FolderLike) -> None:
    """Remove the run in `out`, or the rest of a run whose removal was interrupted; the folder stays.

    From the first step on, `out` counts as a folder without a run; until the last step, `REMOVAL_MARKER` says
    that files of a run are left.
    """
    folder = open_folder(out)
    if folder.exists(RECORD_FILE):
        folder.rename_file(RECORD_FILE, REMOVAL_MARKER)
    if not folder.exists(REMOVAL_MARKER):
        return
    fault_point("overwrite.begun")
    try:
        for name in (*RUN_FILES, UNCLEAN_MARKER):
            folder.remove_file(name)
            fault_point("overwrite.removed")
        for name in RUN_FOLDERS:
            folder.remove_folder(name)
            fault_point("overwrite.removed")
        folder.remove_file(REMOVAL_MARKER)
    except OSError as error:
        raise OutputError(f"Cannot remove the run in {folder}: {error}") from error


def remove_leftovers(out: FolderLike) -> None:
    """Remove the temporary files and attempts that killed processes have left in the folder of a run."""
    folder = open_folder(out)
    AttemptLog(folder.subfolder("results")).clear()
    for part in (folder, folder.subfolder("plan"), folder.subfolder("results")):
        part.remove_temporary_files()


def _list_settings(config: AnalyzeConfig, card: "Card") -> dict[str, Any]:
    return asdict(config) | {"checkpoint": card.model_id}
