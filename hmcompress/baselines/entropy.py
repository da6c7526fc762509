"""Uniform quantisation with entropy-coded integers (pcodec): the strongest simple peer on weights without structure."""

import math
import struct

import numpy as np
import torch

from hmcompress.baselines.matrix import Matrix
from hmcompress.baselines.peer import Peer
from hmcompress.coding.lossless import pcodec_decode, pcodec_encode

LEVEL, SCREENING_LEVEL = 12, 4
_HEADER = struct.Struct("<Bd")
_TYPES = (np.dtype(np.int16), np.dtype(np.int32), np.dtype(np.int64))


def _encode(matrix: Matrix, tol: float) -> bytes | None:
    """The largest step found whose error is within `tol`, integers in row or column order, whichever is smaller."""
    step = _largest_step(matrix, tol)
    if step is None:
        return None
    codes = np.rint(matrix.values / step)
    if np.abs(codes).max() >= 2.0**63:
        return None
    codes = _narrow(codes)
    by_column = _screen(codes.T) < _screen(codes)
    order = np.ascontiguousarray(codes.T if by_column else codes)
    body = pcodec_encode(order.reshape(-1), LEVEL)
    return _HEADER.pack(_TYPES.index(codes.dtype) | (128 if by_column else 0), step) + body


def _largest_step(matrix: Matrix, tol: float, passes: int = 14) -> float | None:
    """Largest step found whose measured error is in [0.9995, 1] tol; the error is close to proportional to the step.

    Secant steps, kept between the largest step that held and the smallest that did not.
    """
    step, held, failed = tol * matrix.rms * 12**0.5, 0.0, math.inf
    for _ in range(passes):
        error = matrix.error(_dequantise(np.rint(matrix.values / step), step))
        if error <= tol:
            held = max(held, step)
        else:
            failed = min(failed, step)
        if 0.9995 * tol <= error <= tol:
            break
        step *= min(max(0.9998 * tol / error, 0.25), 2.0) if error > 0 else 2.0
        if not held < step < failed:
            step = math.sqrt(held * failed) if held and failed < math.inf else 0.99 * min(failed, step)
    return held or None


def _dequantise(codes: np.ndarray, step: float) -> np.ndarray:
    return codes * codes.dtype.type(step)


def _narrow(codes: np.ndarray) -> np.ndarray:
    largest = float(np.abs(codes).max())
    return codes.astype(next(t for t in _TYPES if largest <= np.iinfo(t).max))


def _screen(codes: np.ndarray) -> int:
    return len(pcodec_encode(np.ascontiguousarray(codes).reshape(-1), SCREENING_LEVEL))


def _decode(payload: bytes, shape: tuple[int, int], dtype: torch.dtype) -> np.ndarray:
    kind, step = _HEADER.unpack_from(payload)
    m, n = shape
    flat = pcodec_decode(payload[_HEADER.size :], _TYPES[kind & 127], m * n)
    codes = flat.reshape(n, m).T if kind >= 128 else flat.reshape(m, n)
    wide = np.float64 if dtype == torch.float64 else np.float32
    return _dequantise(np.ascontiguousarray(codes).astype(wide), step)


QUANTIZATION_ENTROPY = Peer("quantization_entropy", "quantisation + pcodec", _encode, _decode)
