"""How few cosines make up a row or a column: waves of all frequencies are no smooth neighbours, yet simple.

Bases of transforms are such (discrete cosines, windowed Fourier kernels), and lines that oscillate.
"""

import numpy as np
from scipy.fft import dct

Array = np.ndarray
LINES, LONGEST = 8, 512  # lines, and neighbours along each, that are looked at
_SHORTEST = 16
_GAUSSIAN = 3.0  # mean fourth power of a Gaussian over its mean square squared: of noise, in every basis
_LEAST = 0.75  # less may be a few large waves among noise
_TINY = 1e-30


def concentration(lines: Array) -> float:
    """The share of the cosines that most of the lines (k, n) hardly need, up to 1; 0 where they need many.

    The mean of a line is left out: it is no wave.
    """
    if lines.shape[1] < _SHORTEST:
        return 0.0
    power = np.square(dct(lines.astype(np.float64), axis=1)[:, 1:])
    spread = power.sum(1) ** 2 / np.maximum(np.vecdot(power, power), _TINY) / power.shape[1]
    found = 1 - _GAUSSIAN * float(np.sort(spread)[len(spread) // 2])
    return found if found > _LEAST else 0.0
