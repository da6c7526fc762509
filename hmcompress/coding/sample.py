"""Which entries stand for many, and how they are read."""

import numpy as np


def jittered(n: int, stride: int) -> np.ndarray:
    """One of every `stride` indices below n, at changing places: of a spectrum, every second entry may vanish."""
    starts = np.arange(0, n, stride)
    if stride == 1:
        return starts
    places = starts + (np.modf(np.arange(len(starts)) * 0.6180339887498949)[0] * stride).astype(np.int64)
    return np.minimum(places, n - 1)


class Joined:
    """Arrays one after the other, of which only some entries are read: to join them would take as much memory again."""

    def __init__(self, arrays: list[np.ndarray]) -> None:
        self._arrays = [a.reshape(-1) for a in arrays]
        self._ends = np.cumsum([0, *(a.size for a in self._arrays)])

    def __getitem__(self, places: np.ndarray) -> np.ndarray:
        """The entries at these places (k,), which ascend."""
        own = np.split(places, np.searchsorted(places, self._ends[1:-1]))
        runs = zip(self._arrays, own, self._ends[:-1], strict=True)
        return np.concatenate([a[at - start] for a, at, start in runs])
