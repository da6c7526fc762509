"""Bounds on what a source may ask for, all far above what honest files need."""

from collections.abc import Iterable

from hmcompress.errors import SourceError

MAX_DEPTH = 100  # levels of nesting of dicts and lists
MAX_NAME = 512  # characters of a tensor's name
MAX_TENSORS = 1_000_000
MAX_INLINE_BYTES = 1 << 20  # of one bytes object among the plain values
_FLOOR = 1 << 24
_EXPANSION = 8


class Budget:
    """Counts down what a walk over an unpickled object may visit, or what constructors in a pickle may copy.

    Without sharing, every visited value costs a byte of the pickle at least; a pickle whose parts are shared again and
    again would unfold to exponential size.
    """

    def __init__(self, pickle_bytes: int) -> None:
        self._nodes = 10_000 + pickle_bytes
        self._characters = (1 << 20) + 16 * pickle_bytes

    def spend(self, name_characters: int = 0) -> None:
        """One visit, with a name of that length. Raises SourceError where the budget is exhausted."""
        self._nodes -= 1
        self._characters -= name_characters
        if self._nodes < 0 or self._characters < 0:
            raise SourceError("its objects refer to each other so often that they unfold to an absurd size")


def check_expansion(sizes: Iterable[int], source_bytes: int) -> None:
    """Refuse tensors far larger than their source (stride 0, overlaps, compression). Raises SourceError."""
    total = sum(sizes)
    if total > _FLOOR + _EXPANSION * source_bytes:
        raise SourceError(
            f"its contents unfold to {total / 1e6:.0f} MB from a file of {source_bytes / 1e6:.3g} MB; "
            "save them as contiguous tensors, uncompressed"
        )
