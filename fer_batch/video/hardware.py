"""Hardware decoding of videos on NVIDIA GPUs (NVDEC), through FFmpeg as PyAV builds it."""

import functools
import logging

import av
import av.error
from av.codec.hwaccel import HWAccel, hwdevices_available

from fer_batch.faults import fault_point

DEVICE_TYPE = "cuda"

logger = logging.getLogger(__name__)


def make_hardware_decoder(gpu: int | None) -> HWAccel | None:
    """Return the argument `hwaccel` of `av.open` for the GPU of this number; None where it cannot decode.

    FFmpeg decodes a stream in software that the GPU does not support. Decoded frames are in main memory.
    """
    if gpu is None:
        return None
    fault_point("hardware.decoder")
    if not has_hardware_decoder(gpu):
        return None
    return HWAccel(DEVICE_TYPE, device=str(gpu), allow_software_fallback=True)


@functools.cache
def has_hardware_decoder(gpu: int) -> bool:
    """Return whether FFmpeg can use this GPU; the reason why not is one warning in the log."""
    reason = f"this FFmpeg has no {DEVICE_TYPE}, only {', '.join(hwdevices_available())}"
    if DEVICE_TYPE in hwdevices_available():
        try:
            HWAccel(DEVICE_TYPE, device=str(gpu)).create(av.Codec("h264", "r"))
            return True
        except (av.error.FFmpegError, NotImplementedError) as error:
            reason = str(error)
    logger.warning("videos are decoded in software, as GPU %d cannot be used: %s", gpu, reason)
    return False
