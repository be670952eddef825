"""Opening of video files with limits, as their content is not trusted."""

import contextlib
import re
from pathlib import Path
from typing import Any

import av
import av.error
import av.logging
from av.codec.hwaccel import HWAccel

from fer_batch.errors import DecodeError
from fer_batch.storage.media import MediaFile, open_media
from fer_batch.video.formats import FORMATS, explain_refusal
from fer_batch.video.hardware import make_hardware_decoder
from fer_batch.video.pictures import is_picture, unpack_picture
from fer_batch.video.truncation import drop_partial_fragment

av.logging.set_level(av.logging.PANIC)

MAX_SIDE_PX = 16_384
"""Longest side of a frame: twice that of 8K, and about the limit of the highest levels of H.264 and HEVC."""
MAX_FRAME_PX = 8192 * 8192
"""Most pixels of a frame: twice those of 8K. A decoder holds up to 20 frames, 100 MB each in yuv420p."""
MAX_ASPECT_RATIO = 32
"""Largest ratio of a frame's sides. Pictures are scaled by a share of the height for face detection, so
16384 × 2 pixels would grow a hundredfold, to gigabytes."""
MAX_STREAMS = 1000
"""Most streams of a file. FFmpeg inspects each before the first frame, which takes time and memory; a
thousand take 0.3 s and 20 MB."""
CONTAINER_OPTIONS = {
    "protocol_whitelist": "file",
    "format_whitelist": ",".join(FORMATS),
    "max_streams": str(MAX_STREAMS + 1),
}
TOO_MANY_STREAMS = f"the file has more than {MAX_STREAMS:,} streams, which is the limit"
CODEC_OPTIONS = {"max_pixels": str(MAX_FRAME_PX)}


def open_container(
    path: str | Path, offset: int | None, gpu: int | None = None
) -> tuple[MediaFile, av.container.InputContainer]:
    """Open a video file. `path` and `offset` are arguments of `open_media`, `gpu` of `make_hardware_decoder`.

    Raises DecodeError, with the reason, if FFmpeg cannot open it or a limit is exceeded.
    """
    media = None
    try:
        media = open_media(path, offset)
        if is_picture(str(path)):
            media = unpack_picture(media, MAX_FRAME_PX)
        try:
            return media, _open_av(media, gpu)
        except (av.error.InvalidDataError, av.error.EOFError):
            if (trimmed := drop_partial_fragment(media)) is None:
                raise
            return trimmed, _open_av(trimmed, gpu)
    except (av.error.FFmpegError, OSError, ValueError, MemoryError) as error:
        raise _explain_open_error(error, media) from None


def find_size_problem(width: int, height: int) -> str | None:
    """Return the reason if a frame of this size in pixels exceeds the limits, None otherwise."""
    short, long = sorted((width, height))
    if long <= MAX_SIDE_PX and width * height <= MAX_FRAME_PX and long <= MAX_ASPECT_RATIO * short:
        return None
    return (
        f"a frame has {width} × {height} pixels; the limits are {MAX_SIDE_PX} pixels per side, "
        f"{MAX_FRAME_PX} pixels in total and a ratio of {MAX_ASPECT_RATIO} between the sides"
    )


def explain_undecodable(media: MediaFile, last_error: str) -> DecodeError:
    """Return the error for a file that opens but from which no frame can be decoded."""
    size = re.search(r"Picture size (\d+)x(\d+) (is invalid|exceeds)", _log_of_opening(media))
    problem = find_size_problem(int(size[1]), int(size[2])) if size else None
    return DecodeError(problem or f"no frame can be decoded ({last_error or 'the stream is empty'})")


def count_logged_errors() -> int:
    """Return the number of errors in FFmpeg's log so far."""
    return av.logging.get_last_error()[0]


def has_skipped_data(format_name: str, errors_before: int) -> bool:
    """Return whether Matroska's demuxer has skipped data since FFmpeg's log had so many errors.

    It continues behind unreadable parts and reports them only in the log.
    """
    errors, last = av.logging.get_last_error()
    return errors != errors_before and last is not None and last[1] == format_name == "matroska,webm"


def describe_error(error: Exception) -> str:
    """Return the short text of an FFmpeg or operating system error."""
    return (getattr(error, "strerror", None) or str(error)).split(":")[0].strip()


def reopen_container(
    container: av.container.InputContainer, media: MediaFile, gpu: int | None
) -> av.container.InputContainer:
    """Return a container at its beginning, in the state in which `open_container` returns it."""
    container.close()
    return _open_av(media, gpu)


def exceeds_stream_limit(error: av.error.FFmpegError) -> bool:
    """Return whether reading failed because a container that lists streams as they come has too many."""
    return "max_streams" in str(error.log)


def _open_av(media: MediaFile, gpu: int | None = None) -> av.container.InputContainer:
    if (hardware := make_hardware_decoder(gpu)) is not None:
        # The GPU may lack the memory for another decoder. An error of the file returns without the GPU.
        with contextlib.suppress(av.error.FFmpegError):
            return _open_av_with(media, hardware)
    return _open_av_with(media, None)


def _open_av_with(media: MediaFile, hardware: HWAccel | None) -> av.container.InputContainer:
    file: Any = media.source
    if isinstance(file, str):
        file = f"file:{file}"
    else:
        file.seek(0)
    container = av.open(
        file,
        mode="r",  # the default would be the mode of a temporary file
        metadata_errors="replace",
        options=CODEC_OPTIONS,
        container_options=CONTAINER_OPTIONS,
        hwaccel=hardware,
    )
    if len(container.streams) > MAX_STREAMS:  # Matroska's demuxer leaves out the others without an error
        container.close()
        raise DecodeError(TOO_MANY_STREAMS)
    return container


def _log_of_opening(media: MediaFile) -> str:
    """Open a file again and return FFmpeg's log, the only place that names some of the exceeded limits."""
    av.logging.set_level(av.logging.ERROR)
    try:
        with av.logging.Capture() as entries, contextlib.suppress(av.error.FFmpegError):
            _open_av(media).close()
    finally:
        av.logging.set_level(av.logging.PANIC)
    return "".join(message for _, _, message in entries)


def _explain_open_error(error: Exception, media: MediaFile | None) -> Exception:
    """Return the error for the user. A lack of memory stays a MemoryError."""
    _, source, message = getattr(error, "log", None) or (0, "", "")
    if isinstance(error, MemoryError):
        if media is not None and "max_streams" in _log_of_opening(media):
            return DecodeError(TOO_MANY_STREAMS)
        return error
    if isinstance(error, FileNotFoundError):
        reason = "the file does not exist"
    elif isinstance(error, PermissionError):
        reason = "the file can't be read (permission denied)"
    elif "not on whitelist" in message:
        reason = explain_refusal(source)
    elif media is not None and not media.size:
        reason = "the file is empty"
    else:
        reason = f"not a video that FFmpeg can open ({describe_error(error)})"
    return DecodeError(reason)
