"""Tone curves that show HDR video as SDR, for detectors and models that know only SDR pictures.

Both transfer functions become absolute luminance (ITU-R BT.2100), of which the reference white (BT.2408) is
SDR's white. SDR's signal follows the display curve of BT.1886. Signals above a knee are compressed.
"""

import functools

import numpy as np
from av.video.reformatter import ColorTrc

REFERENCE_WHITE = 203.0
"""Luminance in cd/m² of white paper or graphics in HDR (ITU-R BT.2408)."""
PEAK = 1000.0
"""Luminance in cd/m² that becomes the maximum. It is the nominal peak of HLG and of most PQ masters."""
SDR_GAMMA = 2.4
HLG_GAMMA = 1.2
"""System gamma of a display with a peak of 1000 cd/m² (ITU-R BT.2100)."""
KNEE = 0.75
"""SDR signal from which highlights are compressed."""


@functools.cache
def make_tone_table(transfer: int) -> np.ndarray | None:
    """Return the SDR signal, `(256,) uint8`, of each signal 0–255 of an HDR transfer function.

    `transfer` is the code of the transfer characteristics (ITU-T H.273). For SDR the result is None.
    """
    signal = np.arange(256) / 255
    if transfer == ColorTrc.SMPTE2084:
        luminance = _decode_pq(signal)
    elif transfer == ColorTrc.ARIB_STD_B67:
        luminance = PEAK * _decode_hlg(signal) ** HLG_GAMMA
    else:
        return None
    sdr = _compress((luminance / REFERENCE_WHITE) ** (1 / SDR_GAMMA))
    return np.round(255 * sdr).astype(np.uint8)


def _decode_pq(signal: np.ndarray) -> np.ndarray:
    """Return the luminance in cd/m² of a PQ signal 0–1 (SMPTE ST 2084)."""
    m1, m2 = 2610 / 16384, 2523 / 32
    c1, c2, c3 = 3424 / 4096, 2413 / 128, 2392 / 128
    power = signal ** (1 / m2)
    return 10_000 * (np.maximum(power - c1, 0) / (c2 - c3 * power)) ** (1 / m1)


def _decode_hlg(signal: np.ndarray) -> np.ndarray:
    """Return the scene's light 0–1 of an HLG signal 0–1 (ARIB STD-B67)."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)


def _compress(sdr: np.ndarray) -> np.ndarray:
    """Compress SDR signals above `KNEE` so that the one of `PEAK` becomes 1 (Reinhard et al. 2002, eq. 4)."""
    peak = ((PEAK / REFERENCE_WHITE) ** (1 / SDR_GAMMA) - KNEE) / (1 - KNEE)
    excess = np.clip((sdr - KNEE) / (1 - KNEE), 0, peak)
    return np.minimum(sdr, KNEE) + (1 - KNEE) * excess * (1 + excess / peak**2) / (1 + excess)
