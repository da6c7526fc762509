"""Codec `tree` (interim: one quantised leaf)."""

import struct
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hmcompress.coding.streams import decode_ints, encode_ints
from hmcompress.errors import FormatError
from hmcompress.hmatrix.bodies import LEAF_KINDS, Body


@dataclass(frozen=True)
class TreeBody(Body):
    values: Tensor

    def to_dense(self) -> Tensor:
        return self.values

    def matmul(self, x: Tensor) -> Tensor:
        return self.values.to(x.dtype) @ x

    def t(self) -> "TreeBody":
        return TreeBody(self.values.T)

    def leaf_counts(self) -> dict[str, int]:
        return dict.fromkeys(LEAF_KINDS, 0) | {"quantized": 1}


def encode(w: Tensor, step: float) -> bytes:
    q = np.rint(w.double().numpy() / step).astype(np.int64)
    return struct.pack("<d", step) + encode_ints(q)


def decode(data: bytes, shape: tuple[int, int], dtype: torch.dtype) -> TreeBody:
    if len(data) < 9:
        raise FormatError("a layer's payload is too short: the file is damaged")
    (step,) = struct.unpack("<d", data[:8])
    q = decode_ints(data[8:], shape[0] * shape[1], np.int64).reshape(shape)
    return TreeBody(torch.from_numpy(q * step))
