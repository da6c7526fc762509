"""An arithmetic coder on whole numbers of any length: slow, and without a byte to spare, for streams of some hundreds.

The encoder keeps its interval exactly, so that its end is the shortest string of bytes within it.
"""

import numpy as np

from hmcompress.coding.symbols import Coder
from hmcompress.errors import FormatError

_LEAST = 48  # bits of the interval's width below which a byte is shifted out
_UNIT = 1 << 10  # of frequencies that are not whole


class ArithmeticEncoder(Coder):
    def __init__(self) -> None:
        self._low, self._width, self._bits = 0, 1 << _LEAST + 8, _LEAST + 8

    def categorical(self, values: np.ndarray | None, probabilities: np.ndarray) -> np.ndarray:
        assert values is not None
        frequencies, chosen = _whole(probabilities), (np.arange(len(values)), values)
        sums, own = frequencies.cumsum(1), frequencies[chosen]
        below = (sums[chosen] - own).tolist()
        for one in zip(below, own.tolist(), sums[:, -1].tolist(), strict=True):
            self._narrow(*one)
        return values

    def uniform(self, values: np.ndarray | None, sizes: np.ndarray) -> np.ndarray:
        assert values is not None
        for value, size in zip(values.tolist(), sizes.tolist(), strict=True):
            self._narrow(value, 1, size)
        return values

    def _narrow(self, below: int, own: int, total: int) -> None:
        unit = self._width // total
        self._low += unit * below
        self._width = unit * own
        while self._width < 1 << _LEAST:
            self._low, self._width, self._bits = self._low << 8, self._width << 8, self._bits + 8

    def getvalue(self) -> bytes:
        """The shortest string within the interval; the decoder supplies zero bytes at its end."""
        for kept in range(0, self._bits + 8, 8):
            unit = 1 << self._bits - kept
            value = -(-self._low // unit) * unit
            if value < self._low + self._width:
                return (value >> self._bits - kept).to_bytes(kept // 8, "big").rstrip(b"\0")
        raise AssertionError("the interval holds its own lower end")


class ArithmeticDecoder(Coder):
    def __init__(self, data: bytes) -> None:
        self._data, self._place = data, _LEAST // 8 + 1
        self._value = int.from_bytes(data[: self._place].ljust(self._place, b"\0"), "big")
        self._width = 1 << _LEAST + 8

    def categorical(self, values: np.ndarray | None, probabilities: np.ndarray) -> np.ndarray:
        return np.array([self._symbol(row) for row in probabilities], np.int32)

    def uniform(self, values: np.ndarray | None, sizes: np.ndarray) -> np.ndarray:
        return np.array([self._number(size) for size in sizes.tolist()], np.int32)

    def _symbol(self, row: np.ndarray) -> int:
        frequencies = _whole(row)
        sums = np.cumsum(frequencies)
        unit = self._width // int(sums[-1])
        symbol = int(np.searchsorted(sums, min(self._value // unit, int(sums[-1]) - 1), side="right"))
        self._narrow(unit, int(sums[symbol] - frequencies[symbol]), int(frequencies[symbol]))
        return symbol

    def _number(self, size: int) -> int:
        unit = self._width // size
        value = min(self._value // unit, size - 1)
        self._narrow(unit, value, 1)
        return value

    def _narrow(self, unit: int, below: int, own: int) -> None:
        self._value, self._width = self._value - unit * below, unit * own
        if not 0 <= self._value < self._width:  # it would grow without end
            raise FormatError("an arithmetic-coded stream does not decode: the file is damaged")
        while self._width < 1 << _LEAST:
            byte = self._data[self._place] if self._place < len(self._data) else 0
            self._value, self._width, self._place = self._value << 8 | byte, self._width << 8, self._place + 1


def _whole(probabilities: np.ndarray) -> np.ndarray:
    """Frequencies as whole numbers, none of them zero."""
    return np.maximum(np.rint(probabilities.astype(np.float64) * _UNIT), 1).astype(np.int64)
