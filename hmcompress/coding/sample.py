"""Which entries stand for many."""

import numpy as np


def jittered(n: int, stride: int) -> np.ndarray:
    """One of every `stride` indices below n, at changing places: of a spectrum, every second entry may vanish."""
    starts = np.arange(0, n, stride)
    if stride == 1:
        return starts
    places = starts + (np.modf(np.arange(len(starts)) * 0.6180339887498949)[0] * stride).astype(np.int64)
    return np.minimum(places, n - 1)
