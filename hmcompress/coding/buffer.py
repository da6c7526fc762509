"""A byte writer and a bounds-checked reader for the small fields between the streams."""

import math
import struct

from hmcompress.errors import FormatError


class Writer:
    """Collects variable-length integers and length-prefixed sections."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def uint(self, value: int) -> "Writer":
        """Append an unsigned integer, seven bits a byte, least significant first."""
        if value < 0:
            raise ValueError(f"uint() takes no negative value, got {value}")
        out = bytearray()
        while value >= 128:
            out.append(value & 127 | 128)
            value >>= 7
        out.append(value)
        return self.raw(bytes(out))

    def sint(self, value: int) -> "Writer":
        """Append a signed integer (zigzag)."""
        return self.uint(value * 2 if value >= 0 else -value * 2 - 1)

    def raw(self, data: bytes) -> "Writer":
        """Append bytes as they are."""
        self._parts.append(bytes(data))
        return self

    def step(self, step: float) -> "Writer":
        """Append a step, which must be a float32 value."""
        return self.raw(struct.pack("<f", step))

    def section(self, data: bytes) -> "Writer":
        """Append bytes behind their length."""
        return self.uint(len(data)).raw(data)

    def getvalue(self) -> bytes:
        return b"".join(self._parts)


class Reader:
    """Reads what Writer wrote. Every read past the end raises FormatError."""

    def __init__(self, data: bytes | memoryview) -> None:
        self._data = memoryview(data)
        self._at = 0

    def uint(self, limit: int = 1 << 62) -> int:
        """Read an unsigned integer of at most `limit`."""
        value = shift = 0
        while True:
            byte = self.raw(1)[0]
            value |= (byte & 127) << shift
            if byte < 128:
                break
            shift += 7
            if shift > 63:
                raise FormatError("a stored number is longer than 64 bits: the file is damaged")
        if value > limit:
            raise FormatError(f"a stored number is {value}, at most {limit} is possible: the file is damaged")
        return value

    def sint(self) -> int:
        value = self.uint()
        return value >> 1 if value % 2 == 0 else -(value + 1 >> 1)

    def raw(self, count: int) -> bytes:
        if count > self.left:
            raise FormatError(f"{count} bytes expected, {self.left} left: the file is damaged")
        self._at += count
        return bytes(self._data[self._at - count : self._at])

    def step(self, may_be_zero: bool = False) -> float:
        (step,) = struct.unpack("<f", self.raw(4))
        if not 0 <= step < math.inf or not (step or may_be_zero):
            raise FormatError("a step is impossible: the file is damaged")
        return step

    def section(self) -> bytes:
        return self.raw(self.uint())

    def rest(self) -> bytes:
        return self.raw(self.left)

    def view(self) -> memoryview:
        """All that is left, not copied."""
        return self._data[self._at :]

    @property
    def at(self) -> int:
        """How many bytes have been read."""
        return self._at

    @property
    def left(self) -> int:
        return len(self._data) - self._at
