"""Range coding by asymmetric numeral systems: a stack, whose decoder meets first what was coded last."""

from typing import TypeAlias

import constriction
import numpy as np

from hmcompress.errors import FormatError

AnsCoder: TypeAlias = constriction.stream.stack.AnsCoder
Bernoulli: TypeAlias = constriction.stream.model.Bernoulli
Categorical: TypeAlias = constriction.stream.model.Categorical
Uniform: TypeAlias = constriction.stream.model.Uniform


def coded_bytes(coder: AnsCoder) -> bytes:
    """All that was coded."""
    return coder.get_compressed().astype("<u4", copy=False).tobytes()


def decoder_of(data: bytes | memoryview) -> AnsCoder:
    """The coder that holds what coded_bytes returned. Raises FormatError."""
    if len(data) % 4 or data[-4:] == bytes(4):  # the coder refuses a zero word at the end
        raise FormatError("a range-coded stream is cut: the file is damaged")
    return AnsCoder(np.frombuffer(data, "<u4").astype(np.uint32))
