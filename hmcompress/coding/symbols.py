"""A range coder of symbols: Encoder and Decoder answer the same calls, so that one function describes both directions.

Every call takes the values to encode and returns the values; a Decoder ignores what it is given.
"""

from abc import ABC, abstractmethod

import constriction
import numpy as np

from hmcompress.errors import FormatError

_queue = constriction.stream.queue
_model = constriction.stream.model
_FAMILY = _model.Categorical(perfect=False)
_SIZES = _model.Uniform()
_WORD = 4
_PRIOR = 0.5  # times that each symbol counts as seen


class Coder(ABC):
    """One direction of a range coder."""

    @abstractmethod
    def categorical(self, values: np.ndarray | None, probabilities: np.ndarray) -> np.ndarray:
        """Symbols (k,) int32, symbol i distributed after probabilities[i] of (k, symbols) float32."""

    @abstractmethod
    def uniform(self, values: np.ndarray | None, sizes: np.ndarray) -> np.ndarray:
        """Symbols (k,) int32, symbol i uniform in [0, sizes[i]); every size is in [2, 2^24)."""

    def number(self, value: int | None, size: int) -> int:
        """One number in [0, size)."""
        if size < 2:
            return 0
        values = None if value is None else np.array([value], np.int32)
        return int(self.uniform(values, np.array([size], np.int32))[0])


class Encoder(Coder):
    def __init__(self) -> None:
        self._stream = _queue.RangeEncoder()

    def categorical(self, values: np.ndarray | None, probabilities: np.ndarray) -> np.ndarray:
        assert values is not None
        self._stream.encode(values.astype(np.int32), _FAMILY, probabilities)
        return values

    def uniform(self, values: np.ndarray | None, sizes: np.ndarray) -> np.ndarray:
        assert values is not None
        self._stream.encode(values.astype(np.int32), _SIZES, sizes.astype(np.int32))
        return values

    def getvalue(self) -> bytes:
        """The stream; zero bytes at its end are left out, the decoder supplies them."""
        return self._stream.get_compressed().astype("<u4").tobytes().rstrip(b"\0")


class Decoder(Coder):
    def __init__(self, data: bytes) -> None:
        padded = data + bytes(-len(data) % _WORD)
        self._stream = _queue.RangeDecoder(np.frombuffer(padded, "<u4").astype(np.uint32))

    def categorical(self, values: np.ndarray | None, probabilities: np.ndarray) -> np.ndarray:
        try:
            return self._stream.decode(_FAMILY, probabilities)
        except AssertionError as error:
            raise FormatError("a range-coded stream does not decode: the file is damaged") from error

    def uniform(self, values: np.ndarray | None, sizes: np.ndarray) -> np.ndarray:
        try:
            return self._stream.decode(_SIZES, sizes.astype(np.int32))
        except AssertionError as error:
            raise FormatError("a range-coded stream does not decode: the file is damaged") from error


class Adaptive:
    """Counts of the symbols seen so far give the next one's probabilities; neighbours of a symbol gain `spread`."""

    def __init__(self, size: int, prior: float = _PRIOR, spread: float = 0.0, contexts: int = 1) -> None:
        self._counts = np.full((contexts, size), prior)
        self._spread = spread

    def code(self, coder: Coder, value: int | None, context: int = 0) -> int:
        """The next symbol, in [0, size)."""
        counts = self._counts[context]
        if len(counts) < 2:
            return 0
        values = None if value is None else np.array([value], np.int32)
        symbol = int(coder.categorical(values, counts[None].astype(np.float32))[0])
        counts[symbol] += 1.0
        counts[max(symbol - 1, 0)] += self._spread
        counts[min(symbol + 1, len(counts) - 1)] += self._spread
        return symbol

    def code_all(self, coder: Coder, values: np.ndarray | None, count: int) -> np.ndarray:
        """So many symbols one after another, (count,), as by `code`; given ones in a fraction of its time."""
        size = self._counts.shape[1]
        if values is None or size < 2 or count < 1:
            return np.array([self.code(coder, None) for _ in range(count)], np.int64)
        added = np.zeros((count, 3, size))  # in the order in which `code` adds: sums are the same to the last bit
        for k, (places, much) in enumerate(((values, 1.0), (values - 1, self._spread), (values + 1, self._spread))):
            added[np.arange(count), k, np.clip(places, 0, size - 1)] = much
        counts = np.cumsum(np.concatenate([self._counts[:1], added.reshape(-1, size)]), axis=0)
        self._counts[0] = counts[-1]
        return coder.categorical(values, counts[:-1:3].astype(np.float32))


def code_flags(coder: Coder, count: int, flags: np.ndarray | None) -> np.ndarray:
    """Positions of the flags among `count` that are set, each coded behind flags like the one before it."""
    if flags is not None and count:
        coder.categorical(flags.astype(np.int32), _counted(flags).astype(np.float32))
        return np.flatnonzero(flags)
    adaptive = Adaptive(2, contexts=2)
    found, last = np.zeros(count, bool), 1
    for i in range(count):
        last = adaptive.code(coder, None, last)
        found[i] = last
    return np.flatnonzero(found)


def _counted(flags: np.ndarray) -> np.ndarray:
    """(n, 2) what Adaptive has counted when each flag is coded: all at once, in a fraction of the time."""
    seen = np.stack([~flags, flags], 1)
    after = np.append(True, flags[:-1])
    counts = [_PRIOR + np.cumsum(seen & (after == context)[:, None], 0) for context in (False, True)]
    return np.where(after[:, None], counts[1], counts[0]) - seen
