"""What a lossless form would take, guessed from some entries: where a lossy one is far smaller, none is made."""

import numpy as np
import torch
from torch import Tensor

from hmcompress.hmatrix.basics import exact

_SMALL = {2: 1 << 16}  # entries up to which a lossless form is tried always, by the bytes of one
_SMALLEST = 1 << 8
_LOOK = 1 << 15  # entries
_MANY_ROWS, _SURE = 1 << 20, 0.95  # entries of a band of rows, and a share of what it says that is believed
_GUESS, _REPEATING = 0.7, 8  # a share; how many times smaller than 16-bit weights a form is that repeat much
_SOME = 1 << 12  # entries among which values are counted
_MANY = 1 << 16  # entries of a longer look


def lossless_is_larger(w: Tensor, nbytes: int) -> bool:
    """Whether no lossless form of w will take as few bytes, as far as quick looks tell."""
    small = w.numel() <= _SMALL.get(w.element_size(), _SMALLEST)
    repeats = w.element_size() == 2 and nbytes * _REPEATING < w.nbytes
    if small or repeats:
        return False
    return nbytes < min(_lossless_floor(w), _lossless_guess(w)) or nbytes < _SURE * exact.estimate(w, _MANY_ROWS)


def _lossless_floor(w: Tensor) -> int:
    """Bytes below which a lossless form is not worth trying."""
    bits = {torch.float64: 44, torch.float32: 20, torch.bfloat16: 9, torch.float16: 9}.get(w.dtype, 0)
    return w.numel() * bits // 8


def _lossless_guess(w: Tensor) -> float:
    """Bytes of a lossless form, guessed low from some entries: rows and values that repeat may beat any rate."""
    part = w.reshape(-1)[:_LOOK]
    some = np.sort(part[:: max(1, part.numel() // _SOME)].float().numpy())
    if w.element_size() > 2 and 2 * np.count_nonzero(some[1:] != some[:-1]) < np.count_nonzero(some):
        return _GUESS * exact.estimate(w, _MANY)
    return _GUESS * exact.glance(w)
