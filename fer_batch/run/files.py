"""The files of analyzed videos, which may have changed since."""

from dataclasses import dataclass
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc

from fer_batch.storage.media import open_unchanged


@dataclass(frozen=True, kw_only=True)
class AnalyzedFile:
    """The file of a video as it was when the video was analyzed."""

    uri: str
    offset: int | None
    """Position of a member's header in its archive, in bytes."""
    version: str
    """Hash of its size and time."""

    def open(self) -> BinaryIO:
        """Open the file for reading and seeking.

        Raises ChangedFileError if it changed, DecodeError, InputError or OSError if it cannot be opened.
        """
        return open_unchanged(self.uri, self.offset, self.version)


def find_analyzed_file(planned: pa.Table, video_id: str, uri: str, version: str) -> AnalyzedFile:
    """Return the file of a video. `planned` has rows of `schema.PROBED_SCHEMA`.

    `uri` and `version` are those of the table `videos`: the plan may already be that of a newer file.
    """
    row = pc.index(planned.column("video_id"), video_id).as_py()
    plan = planned.slice(row, 1).to_pylist()[0] if row >= 0 else {}
    if plan.get("version") == version:
        version = plan["file_version"] or version
    return AnalyzedFile(uri=uri, offset=plan.get("offset"), version=version)
