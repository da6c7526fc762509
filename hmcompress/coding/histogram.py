"""Integers under their own histogram: of single values, or of bins that grow with them.

A smooth shape does not fit rounded weights that took few values before, nor a mixture of small and large ones. Bins
are (sign, octave, leading bits below the first); what they leave open is stored as it is.
"""

import numpy as np

from hmcompress.coding.ans import AnsCoder, Categorical, Uniform, coded_bytes, decoder_of
from hmcompress.coding.buffer import Reader, Writer
from hmcompress.coding.sample import some_of
from hmcompress.coding.streams import decode_ints, encode_ints
from hmcompress.errors import FormatError

_BITS = (62, 4, 2)  # leading bits that a bin fixes; with the first all values are bins of their own
_MOST = 1 << 16  # bins
_LEAST = 1 << 8  # integers below which a list of bins does not pay
_LOOK, _SAMPLE = 1 << 12, 1 << 14
_GAIN = 0.99  # of a size to beat: what promises more is not worth the slower decoding
_UNIFORM_BITS = 24


def smallest_histogram(q: np.ndarray, size: int) -> bytes | None:
    """Integers q (n,) under the best of their histograms; None where a look at some says not below `size` bytes."""
    if q.size < _LEAST or not histogram_promises(q, size):
        return None
    some = q[some_of(q.size, _SAMPLE)].astype(np.int64)
    prices = [_price(some, bits, q.size) for bits in _BITS]
    best = int(np.argmin(prices))
    return _encode(q.astype(np.int64), _BITS[best]) if prices[best] * q.size < 8 * _GAIN * size else None


def histogram_promises(q: np.ndarray, size: float) -> bool:
    """Whether the entropy of few, single values or coarse bins, less what so few tell too much, stays below `size`."""
    some = np.sort(q[some_of(q.size, _LOOK)])
    bins, low = _bins(some, _BITS[-1])
    limit = 8 * _GAIN * size / q.size
    return _entropy(some) < limit or _entropy(np.sort(bins)) + float(low.mean()) < limit


def _entropy(ordered: np.ndarray) -> float:
    """Bits a number of an ordered sample (n,), corrected by Miller and Madow's term; inf where most are different."""
    n = ordered.size
    ends = np.append(np.flatnonzero(ordered[1:] != ordered[:-1]) + 1, n)
    if len(ends) > n / 4 and n >= _LOOK / 2:
        return np.inf
    counts = np.diff(ends, prepend=0)
    return float(counts @ np.log2(n / counts)) / n + (len(ends) - 1) / (2 * np.log(2) * n)


def _price(some: np.ndarray, bits: int, count: int) -> float:
    """Bits a number, judged by how well one half of a sample predicts the other; all of a short run is given."""
    bins, low = _bins(some, bits)
    values, where = np.unique(bins, return_inverse=True)
    raw = float(low.mean())
    if count == some.size:
        counts = np.bincount(where)
        return raw + float(counts @ np.log2(count / counts)) / count + _side(values, counts) / count
    learned, tested = (np.bincount(where[k::2], minlength=len(values)) for k in (0, 1))
    new = np.log2(learned.sum() * (values[-1] - values[0] + 1) / max(np.count_nonzero(learned == 1), 1))
    known = np.log2(learned.sum() / np.maximum(learned, 1))
    return raw + float(tested @ np.where(learned > 0, known, new)) / tested.sum()


def _side(values: np.ndarray, counts: np.ndarray) -> float:
    """Bits of a list of bins and how many numbers each holds, about."""
    return float(np.log2(np.diff(values, prepend=values[0] - 1) + 1).sum() + np.log2(counts + 1).sum()) + 64.0


def _bins(q: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """The bin of each integer, and how many low bits it leaves open. A bin is the value without its low bits, over
    the sign; the low bits follow from the value."""
    size = np.abs(q)
    low = np.maximum(np.frexp(size.astype(np.float64))[1] - 1 - bits, 0).astype(q.dtype)
    return np.sign(q) * (size >> low << low), low


def _encode(q: np.ndarray, bits: int) -> bytes | None:
    bins, low = _bins(q, bits)
    values, where, counts = np.unique(bins, return_inverse=True, return_counts=True)
    if len(values) > _MOST or low.max(initial=0) > _UNIFORM_BITS:
        return None
    coder = AnsCoder()
    rest = np.abs(q) - np.abs(bins)
    for width in range(int(low.max()), 0, -1):  # a stack: the decoder meets narrow ones first
        if (low == width).any():
            coder.encode_reverse(rest[low == width].astype(np.int32), Uniform(1 << width))
    if len(values) > 1:
        coder.encode_reverse(where.astype(np.int32), _categorical(counts))
    out = Writer().uint(bits).uint(len(values)).section(encode_ints(np.diff(values, prepend=0)))
    out.section(encode_ints(counts))
    return out.raw(coded_bytes(coder)).getvalue()


def _categorical(counts: np.ndarray):
    return Categorical(counts.astype(np.float64), perfect=False)


def decode_histogram(data: bytes | memoryview, count: int) -> np.ndarray:
    """Inverse of smallest_histogram, int64. Raises FormatError."""
    stream = Reader(data)
    bits, some = stream.uint(max(_BITS)), stream.uint(min(_MOST, count))
    values = np.cumsum(decode_ints(stream.section(), some, np.int64))
    counts = decode_ints(stream.section(), some, np.int64)
    impossible = some == 0 or counts.min() < 1 or counts.max() > count or counts.sum() != count
    if impossible or (np.diff(values) < 1).any():
        raise FormatError("a histogram is impossible: the file is damaged")
    coder = decoder_of(stream.rest())
    q = values[coder.decode(_categorical(counts), count)] if some > 1 else np.repeat(values, count)
    low = _bins(q, bits)[1]
    if low.max() > _UNIFORM_BITS:
        raise FormatError("a histogram is impossible: the file is damaged")
    for width in range(1, int(low.max()) + 1):
        here = np.flatnonzero(low == width)
        if len(here):
            q[here] += np.sign(q[here]) * coder.decode(Uniform(1 << width), len(here))
    return q
