"""A peer: a compressor that encodes a matrix at a tolerance and decodes it again."""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import torch
from torch import Tensor

from hmcompress.baselines.matrix import Matrix


@dataclass(frozen=True)
class Peer:
    """A compressor to compare with.

    encode(matrix, tol): payload whose decoded values lie within `tol` in relative Frobenius norm, or None where the
    method cannot reach it. decode(payload, (m, n), dtype): the values, (m, n) float32 or float64; `dtype` is that of
    the stored weights. Shape and dtype are not part of a payload, everything else is.
    """

    name: str
    title: str
    encode: Callable[[Matrix, float], bytes | None]
    decode: Callable[[bytes, tuple[int, int], torch.dtype], np.ndarray]
    lossless: bool = False


@dataclass(frozen=True)
class Outcome:
    """What a peer made of a matrix: bytes of the payload, how it is decoded to the stored dtype, measured error.

    key: the same for the same payload; None where the weights are kept as they are.
    """

    nbytes: int
    decode: Callable[[], Tensor]
    error: float
    key: bytes | None = None


@np.errstate(all="ignore")  # what is too small or too large for a peer does not keep the tolerance
def run_peer(peer: Peer, matrix: Matrix, tol: float) -> Outcome:
    """Encode, decode and measure; weights are kept as they are where the peer is no smaller or not within `tol`."""
    if not peer.lossless and (matrix.norm == 0 or (matrix.is_codable and tol >= 1)):
        return Outcome(0, lambda: torch.zeros_like(matrix.w), float(matrix.norm > 0), b"")
    kept = Outcome(matrix.nbytes, lambda: matrix.w, 0.0)
    payload = peer.encode(matrix, tol) if matrix.is_codable or peer.lossless else None
    if payload is None or len(payload) >= matrix.nbytes:
        return kept

    def decode() -> Tensor:
        return torch.from_numpy(peer.decode(payload, matrix.shape, matrix.w.dtype)).to(matrix.w.dtype)

    key = blake2b(payload, digest_size=16).digest()
    place = (peer.name, "error", key)
    if place not in matrix.memo:
        matrix.memo[place] = 0.0 if peer.lossless else matrix.error_of(decode())
    error = matrix.memo[place]
    return Outcome(len(payload), decode, error, key) if error <= tol else kept
