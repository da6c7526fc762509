"""Magnitude pruning: the largest weights as they are, their places by a bitmap or by Rice-coded gaps."""

import struct

import numpy as np
import torch

from hmcompress.baselines.bits import rice_decode, rice_encode, rice_width
from hmcompress.baselines.matrix import Matrix
from hmcompress.baselines.peer import Peer

BITMAP = 255
_HEADER = struct.Struct("<B")


def _encode(matrix: Matrix, tol: float) -> bytes:
    """Keep the fewest weights whose complement measures within `tol`."""
    if "pruning" not in matrix.memo:
        matrix.memo["pruning"] = _by_size(matrix.values.reshape(-1))
    order, dropped = matrix.memo["pruning"]
    keep = int((dropped > (tol * matrix.norm) ** 2).sum())
    kept = np.sort(order[:keep])
    return _places(kept, order.size) + _bytes_of(matrix.w.reshape(-1)[torch.from_numpy(kept)])


def _by_size(flat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places of the weights, the largest first, and the squared norm of what goes if the first i stay."""
    order = np.argsort(-np.abs(flat), kind="stable")
    squares = flat[order].astype(np.float64) ** 2
    return order, np.cumsum(squares[::-1])[::-1]


def _places(kept: np.ndarray, count: int) -> bytes:
    gaps = np.diff(kept, prepend=-1) - 1
    width = rice_width(gaps)
    rice = rice_encode(gaps, width)
    if len(rice) + 4 >= (count + 7) // 8:
        bitmap = np.zeros(count, np.uint8)
        bitmap[kept] = 1
        return _HEADER.pack(BITMAP) + np.packbits(bitmap).tobytes()
    return _HEADER.pack(width) + struct.pack("<I", kept.size) + rice


def _bytes_of(values: torch.Tensor) -> bytes:
    return values.contiguous().view(torch.uint8).numpy().tobytes()


def _decode(payload: bytes, shape: tuple[int, int], dtype: torch.dtype) -> np.ndarray:
    size = torch.empty(0, dtype=dtype).element_size()
    flat = torch.zeros(shape[0] * shape[1], dtype=dtype)
    places = _read_places(payload, flat.numel(), size)
    values = torch.frombuffer(bytearray(payload[len(payload) - size * places.size :]), dtype=dtype)
    flat[torch.from_numpy(places)] = values
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return flat.to(wide).reshape(shape).numpy()


def _read_places(payload: bytes, count: int, size: int) -> np.ndarray:
    (width,) = _HEADER.unpack_from(payload)
    if width == BITMAP:
        return np.flatnonzero(np.unpackbits(np.frombuffer(payload, np.uint8, (count + 7) // 8, 1), count=count))
    (kept,) = struct.unpack_from("<I", payload, 1)
    gaps = rice_decode(payload[5 : len(payload) - size * kept], width, kept)
    return np.cumsum(gaps + 1) - 1


PRUNING = Peer("pruning", "magnitude pruning", _encode, _decode)
