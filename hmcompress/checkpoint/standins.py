"""What stands for foreign classes and functions: names with contents, which never call anything."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hmcompress.checkpoint.lazy import LazyTensor


@dataclass(frozen=True, eq=False)
class Global:
    """A class or function that a pickle names; it is not imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(frozen=True, eq=False)
class Constructor:
    """A known, harmless class or function: `build` is ours and checks its arguments."""

    name: str
    build: Callable[..., Any]

    @property
    def holds_tensors(self) -> bool:
        """Whether a fault in its arguments means that the file is damaged."""
        return self.name.startswith(("torch.", "numpy."))

    def __str__(self) -> str:
        return self.name


_MAKERS = ("copyreg._reconstructor", "copy_reg._reconstructor", "copyreg.__newobj__", "copyreg.__newobj_ex__")


class StandIn:
    """An object of a foreign class: how it was made, and what was put into it."""

    __slots__ = ("_merged", "_root", "arguments", "entries", "items", "maker", "states")

    def __init__(self, maker: object, arguments: tuple) -> None:
        self.maker = maker
        self._root: StandIn = maker._root if isinstance(maker, StandIn) else self  # of foreign calls, one on another
        self.arguments = arguments
        self.items: list[Any] = []  # of list-like objects
        self.entries: dict[Any, Any] = {}  # of dict-like objects
        self.states: list[Any] = []
        self._merged: tuple[int, dict[Any, Any] | None] | None = None

    @property
    def class_name(self) -> str:
        """The dotted name of the foreign class or function."""
        made = self._root
        if str(made.maker) in _MAKERS and made.arguments and isinstance(made.arguments[0], (Global, Constructor)):
            return str(made.arguments[0])
        return str(made.maker) + ("(...)" if made is not self else "")

    def attributes(self) -> dict[Any, Any] | None:
        """The instance's attributes where its state has the usual form, else None; of the states so far, for good."""
        if self._merged is None or self._merged[0] != len(self.states):
            self._merged = len(self.states), self._joined()
        return self._merged[1]

    def _joined(self) -> dict[Any, Any] | None:
        merged: dict[Any, Any] = {}
        for state in self.states:
            parts = state if isinstance(state, tuple) and len(state) == 2 else (state,)
            for part in parts:
                if isinstance(part, dict):
                    merged.update(part)
                elif part is not None:
                    return None
        return merged


@dataclass(frozen=True, eq=False)
class Converted:
    """A value carried in another form; `why` says what it was."""

    value: Any
    why: str


@dataclass(frozen=True, eq=False)
class LeftBehind:
    """Something that cannot be carried at all; `why` says what it was."""

    why: str


@dataclass(frozen=True, eq=False)
class NumpyArray:
    """A numpy array as the tensor of its values."""

    tensor: LazyTensor


@dataclass(frozen=True, eq=False)
class QuantizedTensor:
    """A quantized tensor as its integers and what they mean.

    `parts` are the integers, and with a step for each channel also the scales and the zero points; `values` are the
    scale and the zero point, or the axis of the channels.
    """

    scheme: str
    parts: dict[str, LazyTensor]
    values: tuple[float | int, ...]


@dataclass(frozen=True, eq=False)
class SparseTensor:
    """A sparse tensor as the dense tensors it is made of: indices and values, or compressed, plain and values."""

    layout: str
    parts: dict[str, LazyTensor]
    size: tuple[int, ...]
    coalesced: bool | None = None
