"""Fixed-rate quantisation: b bits a weight; one scale with a searched clip, or one scale for each 64 weights."""

import struct
from bisect import bisect_left

import numpy as np
import torch

from hmcompress.baselines.bits import pack, packed_bytes, unpack
from hmcompress.baselines.matrix import Matrix
from hmcompress.baselines.peer import Peer

GROUP = 64
MOST_BITS = 24
TENSOR_CLIPS = tuple(0.96**i for i in range(48))
GROUP_CLIPS = (1.0, 0.96, 0.92, 0.88, 0.84, 0.8, 0.75)
_HEADER = struct.Struct("<Bf")

Quantised = tuple[np.ndarray, np.ndarray, float]  # codes (count,) int32, steps, unit of the steps


def _encode(matrix: Matrix, tol: float) -> bytes | None:
    """The cheapest of all widths and both kinds of scale that measures within `tol`."""
    bits = _fewest_bits(matrix, tol, False)
    group_bits = _fewest_bits(matrix, tol, True, below=bits)
    fewest, grouped = (bits, False) if group_bits is None else (group_bits, True)
    if fewest is None:
        return None
    clip = _first_within(matrix, tol, fewest, grouped)
    assert clip is not None
    return _write(fewest, grouped, _quantised(matrix.values, fewest, grouped, clip))


def _fewest_bits(matrix: Matrix, tol: float, grouped: bool, below: int | None = None) -> int | None:
    """Bisection on the width: a bit more halves the step, so the error falls with it."""
    low, high = 2, MOST_BITS if below is None else below - 1
    if high < low or _first_within(matrix, tol, high, grouped) is None:
        return None
    return bisect_left(range(high), True, low, key=lambda bits: _first_within(matrix, tol, bits, grouped) is not None)


def _first_within(matrix: Matrix, tol: float, bits: int, grouped: bool) -> float | None:
    """The first clip that holds; clips past the best one are not tried."""
    best = np.inf
    for clip in GROUP_CLIPS if grouped else TENSOR_CLIPS:
        error = _error(matrix, bits, grouped, clip)
        if error <= tol:
            return clip
        if error > 1.05 * best:
            return None
        best = min(best, error)
    return None


def _error(matrix: Matrix, bits: int, grouped: bool, clip: float) -> float:
    """Measured once for each setting: the search for a tolerance asks for the same ones again."""
    setting = ("quantization", bits, grouped, clip)
    if setting not in matrix.memo:
        quantised = _quantised(matrix.values, bits, grouped, clip)
        matrix.memo[setting] = matrix.error(_dequantise(quantised, matrix.shape, matrix.values.dtype))
    return matrix.memo[setting]


def _quantised(values: np.ndarray, bits: int, grouped: bool, clip: float) -> Quantised:
    return _per_group(values, bits, clip) if grouped else _per_tensor(values, bits, clip)


def _per_tensor(values: np.ndarray, bits: int, clip: float) -> Quantised:
    flat = values.reshape(-1)
    extreme = _extreme(flat[None])[0]
    step = np.float32(-extreme * clip / 2 ** (bits - 1))
    return _codes(flat, np.array([step]), bits), np.ones(1, np.float16), float(step)


def _per_group(values: np.ndarray, bits: int, clip: float) -> Quantised:
    flat = values.reshape(-1)
    padded = np.zeros(-(-flat.size // GROUP) * GROUP, flat.dtype)
    padded[: flat.size] = flat
    groups = padded.reshape(-1, GROUP)
    extremes = _extreme(groups)
    unit = float(np.float32(np.abs(extremes).max() / 2 ** (bits - 1) / 32768))
    steps = (-extremes * clip / 2 ** (bits - 1) / unit).astype(np.float16)
    codes = _codes(groups, steps.astype(np.float32)[:, None] * np.float32(unit), bits)
    return codes.reshape(-1)[: flat.size], steps, unit


def _extreme(groups: np.ndarray) -> np.ndarray:
    """The entry of largest magnitude of each row; a step of its opposite sign gives it the code of extra range."""
    return groups[np.arange(len(groups)), np.abs(groups).argmax(1)]


def _codes(values: np.ndarray, steps: np.ndarray, bits: int) -> np.ndarray:
    safe = np.where(steps == 0, np.float32(1), steps)
    codes = np.clip(np.rint(values / safe), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return np.where(steps == 0, 0, codes).astype(np.int32)


def _dequantise(quantised: Quantised, shape: tuple[int, int], dtype: np.dtype) -> np.ndarray:
    codes, steps, unit = quantised
    scale = steps.astype(np.float32) * np.float32(unit)
    spread = scale if len(scale) == 1 else np.repeat(scale, GROUP)[: codes.size]
    return (codes.astype(dtype) * spread).reshape(shape)


def _write(bits: int, grouped: bool, quantised: Quantised) -> bytes:
    codes, steps, unit = quantised
    body = pack(codes + 2 ** (bits - 1), bits)
    return _HEADER.pack(bits | (128 if grouped else 0), unit) + (steps.tobytes() if grouped else b"") + body


def _decode(payload: bytes, shape: tuple[int, int], dtype: torch.dtype) -> np.ndarray:
    code, unit = _HEADER.unpack_from(payload)
    bits, grouped = code & 127, code >= 128
    count = shape[0] * shape[1]
    steps = np.ones(1, np.float16)
    start = len(payload) - packed_bytes(count, bits)
    if grouped:
        steps = np.frombuffer(payload[_HEADER.size : start], np.float16)
    codes = unpack(payload[start:], bits, count).astype(np.int32) - 2 ** (bits - 1)
    wide = np.float64 if dtype == torch.float64 else np.float32
    return _dequantise((codes, steps, unit), shape, np.dtype(wide))


QUANTIZATION = Peer("quantization", "quantisation, fixed rate", _encode, _decode)
