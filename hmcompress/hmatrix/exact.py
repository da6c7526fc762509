"""Codecs `raw` and `lossless`: the matrix bit for bit, row after row or column after column."""

import numpy as np
import torch
from torch import Tensor

from hmcompress.coding import lossless
from hmcompress.hmatrix.bodies import DenseBody

# The integer type that carries a dtype numpy lacks.
_CARRIERS = {torch.bfloat16: torch.uint16}
_NUMPY = {
    torch.float64: np.float64,
    torch.float32: np.float32,
    torch.float16: np.float16,
    torch.uint16: np.uint16,
}
_BY_COLUMNS = 8  # added to the byte that says how the numbers are coded
_LOOK, _PARTS = 1 << 15, 4  # entries, in so many bands
_CLEARLY, _NEARLY = 0.995, 1.05  # of the bits: chance does less; more
_REPEATING = 4  # bits for each byte of a number
_BANDS = 2  # of rows, which tell about a large matrix


def encode(w: Tensor, effort: str = "default") -> bytes:
    """The smallest lossless form of a (m, n) matrix; its first byte says which."""
    by_rows = lossless.encode_array(_words(w), effort)
    if w.numel() > 2 * _LOOK and not _columns_may_serve(w):
        return by_rows
    by_columns = lossless.encode_array(_words(w.T), effort)
    return min(by_rows, bytes([by_columns[0] | _BY_COLUMNS]) + by_columns[1:], key=len)


def _columns_may_serve(w: Tensor) -> bool:
    """Whether columns come out shorter than rows, judged by some; where much repeats, a look is not to be trusted."""
    rows = _bits(_rows(w))
    return _bits(_columns(w)) < (_NEARLY if rows < _REPEATING * w.element_size() else _CLEARLY) * rows


def glance(w: Tensor) -> float:
    """Bytes of w (m, n), guessed from some rows and, of 16-bit numbers, columns: few where much repeats."""
    if w.element_size() > 2:
        return len(lossless.zstd_compress(_words(_rows(w)).tobytes(), 1)) / _rows(w).numel() * w.numel()
    return min(_bits(_rows(w)), _bits(_columns(w))) * w.numel() / 8


def estimate(w: Tensor, entries: int) -> float:
    """Bytes that encode takes for w (m, n), from bands of its rows of so many entries; 0 where w is hardly larger."""
    height = entries // max(w.shape[1], 1)
    if not 0 < 8 * _BANDS * height <= w.shape[0]:
        return 0.0
    starts = ((i + 1) * (w.shape[0] - height) // (_BANDS + 1) for i in range(_BANDS))
    return float(np.mean([len(encode(w[i : i + height])) for i in starts])) * w.shape[0] / height


def _rows(w: Tensor) -> Tensor:
    """Some rows of w, in bands that are spread over it: parts may differ."""
    height = max(1, _LOOK // max(w.shape[1], 1) // _PARTS)
    if w.shape[0] <= _PARTS * height:
        return w
    return torch.cat([w[start : start + height] for start in range(0, w.shape[0] - height + 1, w.shape[0] // _PARTS)])


def _columns(w: Tensor) -> Tensor:
    return _rows(w.T)


def _bits(part: Tensor) -> float:
    """Bits an entry of a part, coded quickly."""
    return 8 * len(lossless.encode_array(_words(part), "fast")) / max(part.numel(), 1)


def _words(w: Tensor) -> np.ndarray:
    return w.contiguous().view(_CARRIERS.get(w.dtype, w.dtype)).numpy()


def decode(data: bytes, shape: tuple[int, int], dtype: torch.dtype) -> DenseBody:
    """Inverse of encode. Raises FormatError."""
    carrier = _CARRIERS.get(dtype, dtype)
    code = data[0] & ~_BY_COLUMNS if data else 0
    values = lossless.decode_array(bytes([code]) + data[1:] if data else data, _NUMPY[carrier], shape[0] * shape[1])
    w = torch.from_numpy(values).view(dtype)
    w = w.reshape(shape) if data[0] == code else w.reshape(shape[::-1]).T.contiguous()
    return DenseBody(w, "raw" if data[0] == lossless.RAW else "lossless")
