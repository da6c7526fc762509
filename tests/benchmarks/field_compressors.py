"""SZ3 and zfp as peers: the general compressors of scientific fields, each run in the best of its modes."""

import math
from collections.abc import Callable

import numpy as np
import torch
import zfpy
from pysz import sz, szAlgorithm, szConfig, szErrorBoundMode

from hmcompress.baselines import Matrix, Peer

_ALGORITHMS = (szAlgorithm.NOPRED, szAlgorithm.LORENZO_REG, szAlgorithm.INTERP_LORENZO, szAlgorithm.INTERP)
_CLOSE = 0.997  # of the tolerance: how near the measured error must come
_PASSES = 9

Code = Callable[[np.ndarray, float], bytes]
Decode = Callable[[bytes, tuple[int, int], np.dtype], np.ndarray]


def _tuned(matrix: Matrix, tol: float, start: float, code: Code, decode: Decode) -> bytes | None:
    """The shortest payload found whose measured error is within `tol`, the bound moved by secant steps."""
    bound, held, failed, best = start, 0.0, math.inf, None
    for _ in range(_PASSES):
        payload = code(matrix.values, bound)
        error = matrix.error(decode(payload, matrix.shape, matrix.values.dtype))
        if error <= tol:
            held = max(held, bound)
            best = payload if best is None or len(payload) < len(best) else best
        else:
            failed = min(failed, bound)
        if _CLOSE * tol <= error <= tol:
            break
        bound *= min(max(0.999 * tol / error, 0.2), 4.0) if error > 0 else 4.0
        if not held < bound < failed:
            bound = math.sqrt(held * failed) if held and failed < math.inf else 0.97 * min(failed, bound)
    return best


# ---- SZ3 ----


def _sz3_code(algorithm: int, values: np.ndarray, bound: float) -> bytes:
    config = szConfig(values.shape)
    config.errorBoundMode = szErrorBoundMode.ABS
    config.absErrorBound = float(bound)
    config.cmprAlgo = algorithm
    return sz.compress(np.ascontiguousarray(values), config)[0].tobytes()


def _sz3_decode(payload: bytes, shape: tuple[int, int], dtype: np.dtype) -> np.ndarray:
    return np.array(sz.decompress(np.frombuffer(payload, np.uint8).copy(), dtype, shape)[0])


def _sz3_encode(matrix: Matrix, tol: float) -> bytes | None:
    start = tol * matrix.rms * math.sqrt(3)
    found = (_tuned(matrix, tol, start, _with(algorithm), _sz3_decode) for algorithm in _ALGORITHMS)
    return min((payload for payload in found if payload), key=len, default=None)


def _with(algorithm: int) -> Code:
    return lambda values, bound: _sz3_code(algorithm, values, bound)


# ---- zfp ----


def _zfp_encode(matrix: Matrix, tol: float) -> bytes | None:
    """Fixed accuracy (powers of two) and fixed precision, as a matrix and as a row of numbers."""
    found = []
    for flat in (False, True):
        values = matrix.values.reshape(-1) if flat else matrix.values
        for settings in (_tolerances(matrix.rms), _precisions()):
            payload = _coarsest(matrix, tol, values, settings, flat)
            if payload:
                found.append(bytes([flat]) + payload)
    return min(found, key=len, default=None)


def _tolerances(rms: float) -> list[dict]:
    """Finest last."""
    top = math.ceil(math.log2(rms)) + 4
    return [{"tolerance": 2.0**k} for k in range(top, top - 30, -1)]


def _precisions() -> list[dict]:
    return [{"precision": bits} for bits in range(2, 32)]


def _coarsest(matrix: Matrix, tol: float, values: np.ndarray, settings: list[dict], flat: bool) -> bytes | None:
    low, high, best = 0, len(settings), None
    while low < high:
        middle = (low + high) // 2
        payload = zfpy.compress_numpy(values, **settings[middle])
        if matrix.error(zfpy.decompress_numpy(payload).reshape(matrix.shape)) <= tol:
            high, best = middle, payload
        else:
            low = middle + 1
    return best


def _zfp_decode(payload: bytes, shape: tuple[int, int], dtype: torch.dtype) -> np.ndarray:
    return zfpy.decompress_numpy(payload[1:]).reshape(shape)


def _wide(dtype: torch.dtype) -> np.dtype:
    return np.dtype(np.float64 if dtype == torch.float64 else np.float32)


SZ3 = Peer("sz3", "SZ3", _sz3_encode, lambda p, shape, dtype: _sz3_decode(p, shape, _wide(dtype)))
ZFP = Peer("zfp", "zfp", _zfp_encode, _zfp_decode)
FIELD_COMPRESSORS = {peer.name: peer for peer in (SZ3, ZFP)}
