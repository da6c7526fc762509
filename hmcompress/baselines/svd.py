"""Flat truncated SVD (Eckart-Young), factors in float32 or float16, smallest rank whose measured error holds."""

from bisect import bisect_left
from collections.abc import Callable

import numpy as np
import torch

from hmcompress.baselines.matrix import Matrix
from hmcompress.baselines.peer import Peer

Factors = tuple[np.ndarray, np.ndarray]


def _float32_factors(u: np.ndarray, s: np.ndarray, vt: np.ndarray) -> bytes:
    root = np.sqrt(s)
    return (u * root).astype("<f4").tobytes() + (root[:, None] * vt).astype("<f4").tobytes()


def _read_float32(payload: bytes, shape: tuple[int, int]) -> Factors:
    m, n = shape
    rank = len(payload) // (4 * (m + n))
    both = np.frombuffer(payload, "<f4")
    return both[: m * rank].reshape(m, rank), both[m * rank :].reshape(rank, n)


def _float16_factors(u: np.ndarray, s: np.ndarray, vt: np.ndarray) -> bytes:
    """Columns scaled to a largest entry of 1, so that none is subnormal; their scale, float32, goes with them."""
    left, right = np.abs(u).max(0), np.abs(vt).max(1)
    scale = (s * left * right).astype("<f4")
    halves = (u / left).astype("<f2").tobytes() + (vt / right[:, None]).astype("<f2").tobytes()
    return scale.tobytes() + halves


def _read_float16(payload: bytes, shape: tuple[int, int]) -> Factors:
    m, n = shape
    rank = len(payload) // (2 * (m + n) + 4)
    scale = np.frombuffer(payload, "<f4", rank)
    halves = np.frombuffer(payload, "<f2", offset=4 * rank).astype(np.float32)
    return halves[: m * rank].reshape(m, rank) * scale, halves[m * rank :].reshape(rank, n)


def _smallest_rank(matrix: Matrix, tol: float, column_bytes: int) -> int | None:
    """Rank at which the exact truncated SVD meets `tol`, None where its factors are no smaller than the weights."""
    s = matrix.svd[1]
    tail = np.sqrt(np.maximum(np.cumsum((s**2)[::-1])[::-1], 0.0)) / matrix.norm
    rank = int((tail > tol).sum())
    return rank if rank * column_bytes < matrix.nbytes else None


def _first(holds: Callable[[int], bool], low: int, high: int) -> int | None:
    """The first rank of a range that holds; mostly it is among the first, since rounding adds little."""
    stride = 1
    while not holds(low):
        if low >= high or not holds(high):
            return None
        after = min(low + stride, high)
        if holds(after):
            return bisect_left(range(after), True, low + 1, key=holds)
        low, stride = after, 2 * stride
    return low


def _peer(
    name: str,
    title: str,
    write: Callable[[np.ndarray, np.ndarray, np.ndarray], bytes],
    read: Callable[[bytes, tuple[int, int]], Factors],
    column_bytes: Callable[[int, int], int],
) -> Peer:
    def encode(matrix: Matrix, tol: float) -> bytes | None:
        cost = column_bytes(*matrix.shape)
        low = _smallest_rank(matrix, tol, cost)
        if low is None:
            return None
        u, s, vt = matrix.svd
        high = min(len(s), (matrix.nbytes - 1) // cost)
        memo = matrix.memo.setdefault(read, {})  # errors by rank, and the rounded factors under "factors"

        def holds(rank: int) -> bool:
            if rank not in memo:
                if "factors" not in memo:
                    memo["factors"] = read(write(u[:, :high], s[:high], vt[:high]), matrix.shape)
                left, right = memo["factors"]
                memo[rank] = matrix.error(left[:, :rank] @ right[:rank])
            return memo[rank] <= tol

        rank = _first(holds, low, high)
        return None if rank is None else write(u[:, :rank], s[:rank], vt[:rank])

    def decode(payload: bytes, shape: tuple[int, int], dtype: torch.dtype) -> np.ndarray:
        left, right = read(payload, shape)
        return left @ right

    return Peer(name, title, encode, decode)


SVD32 = _peer("svd32", "SVD, float32 factors", _float32_factors, _read_float32, lambda m, n: 4 * (m + n))
SVD16 = _peer("svd16", "SVD, float16 factors", _float16_factors, _read_float16, lambda m, n: 2 * (m + n) + 4)
