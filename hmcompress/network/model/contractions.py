"""Sums of products over an axis, as torch.einsum and torch.tensordot write them, read as products with a matrix."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

_Axes = tuple[object, ...]  # what names each axis of a tensor: a letter, or a number
_Operand = tuple[Tensor, _Axes]


@dataclass(frozen=True)
class Contraction:
    """A product of x, with its axes in this order, and W of two axes.

    columns: whether it is x W, not x W^T. axis: of the result, from its end, along which W's other axis then lies.
    """

    x: Tensor
    order: tuple[int, ...]
    w: Tensor
    columns: bool
    axis: int


def contractions(name: str, args: Sequence[Any], named: Mapping[str, Any]) -> Iterator[Contraction]:
    """How a call of this function may be read, with either of its tensors as the matrix."""
    read = {"einsum": _einsum, "tensordot": _tensordot}.get(name)
    found = None if read is None else read(args, named)
    if found is not None:
        one, other, out = found
        yield from _with_matrix(one, other, out)
        yield from _with_matrix(other, one, out)


def _with_matrix(of_x: _Operand, of_w: _Operand, out: _Axes) -> Iterator[Contraction]:
    """Where one axis of W is summed over and the other one is new, and nothing else happens to those of x."""
    (x, outer), (w, inner) = of_x, of_w
    if w.ndim != 2 or any(len(set(axes)) < len(axes) for axes in (outer, inner, out)):
        return
    shared, new = inner if inner[0] in outer else inner[::-1]
    rest = [axis for axis in out if axis != new]
    if new in out and new not in outer and shared in outer and set(rest) == set(outer) - {shared}:
        order = tuple(outer.index(axis) for axis in (*rest, shared))
        yield Contraction(x, order, w, inner[0] == shared, out.index(new) - len(out))


def _einsum(args: Sequence[Any], named: Mapping[str, Any]) -> tuple[_Operand, _Operand, _Axes] | None:
    """Two tensors with letters for their axes, and the result's."""
    equation, *tensors = args
    if not isinstance(equation, str):  # with lists of numbers in place of letters
        return None
    if len(tensors) == 1 and isinstance(tensors[0], list | tuple):
        tensors = list(tensors[0])
    inputs, arrow, out = equation.replace(" ", "").partition("->")
    letters = inputs.split(",")
    if named or len(tensors) != 2 or len(letters) != 2:
        return None
    one, other = (
        (t, _axes(part, t.ndim - len(part.replace("...", "")))) for t, part in zip(tensors, letters, strict=True)
    )
    dots = max(sum(isinstance(axis, int) for axis in axes) for _, axes in (one, other))
    return one, other, _axes(out if arrow else _implied(inputs), dots)


def _implied(inputs: str) -> str:
    """The letters of the result where none are given: those that stand once, in order."""
    counts = Counter(inputs.replace("...", "").replace(",", ""))
    return "..." * ("..." in inputs) + "".join(sorted(letter for letter, count in counts.items() if count == 1))


def _axes(letters: str, dots: int) -> _Axes:
    """One name for each axis; those that dots stand for are numbered from the last."""
    before, given, after = letters.partition("...")
    return (*before, *(range(-dots, 0) if given else ()), *after)


def _tensordot(args: Sequence[Any], named: Mapping[str, Any]) -> tuple[_Operand, _Operand, _Axes] | None:
    """Axes are numbered; those of the second tensor that are summed over have the numbers of the first one's."""
    if (
        len(args) != 2
        or not isinstance(dims := named.get("dims", 2), int | tuple | list)
        or named.get("out") is not None
    ):
        return None
    a, b = args
    pairs = (range(a.ndim - dims, a.ndim), range(dims)) if isinstance(dims, int) else dims
    summed = dict(zip((k % b.ndim for k in pairs[1]), (k % a.ndim for k in pairs[0]), strict=True))
    one, other = tuple(range(a.ndim)), tuple(summed.get(k, a.ndim + k) for k in range(b.ndim))
    return (a, one), (b, other), tuple(axis for axis in (*one, *other) if (axis in one) != (axis in other))
