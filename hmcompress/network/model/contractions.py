"""Sums of products over an axis, as torch.einsum and torch.tensordot write them, read as products with a matrix."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

_Axes = tuple[object, ...]  # what names each axis of a tensor: a letter, or a number
_Operand = tuple[Tensor, _Axes]


@dataclass(frozen=True)
class Contraction:
    """Products of inputs (..., n) with a matrix or, each of its own, with several that lie side by side.

    tensor: which holds the matrices; w: these, (n, m) where columns, else (m, n), or with a further first axis. order:
    of the axes of each result, those of its neurons last and of these sizes. axis: of the result, from its end, where
    neurons lie along a single one. along: of the result, from its end, where the results of several stand.
    """

    inputs: tuple[Tensor, ...]
    tensor: Tensor
    w: Tensor
    columns: bool
    sizes: tuple[int, ...]
    order: tuple[int, ...]
    axis: int | None
    along: int | None


def contractions(name: str, args: Sequence[Any], named: Mapping[str, Any]) -> Iterator[Contraction]:
    """How a call of this function may be read, with either of its tensors as the matrix."""
    read = {"einsum": _einsum, "tensordot": _tensordot}.get(name)
    found = None if read is None else read(args, named)
    if found is not None:
        one, other, out = found
        yield from _with_matrix(one, other, out)
        yield from _with_matrix(other, one, out)


def _with_matrix(of_x: _Operand, of_w: _Operand, out: _Axes) -> Iterator[Contraction]:
    """Where axes of W are summed over, the others are new but for a first one, and nothing else happens to those of
    x."""
    outer, (w, inner) = of_x[1], of_w
    if any(len(set(axes)) < len(axes) for axes in (outer, inner, out)):
        return
    for side in range(min(2, w.ndim)):
        along, own = inner[:side], inner[side:]
        summed = [axis in outer and axis not in out for axis in own]
        cut = summed.index(not summed[0]) if len(set(summed)) == 2 else 0
        shared, new = (own[:cut], own[cut:]) if summed[0] else (own[cut:], own[:cut])
        rest = tuple(axis for axis in out if axis not in (*new, *along))
        if not cut or len(set(summed[cut:])) > 1 or any(axis in outer or axis not in out for axis in new):
            continue
        if set(along) <= set(out) and set(rest) == set(outer) - {*shared, *along}:
            yield from _read(of_x, of_w, out, (along, shared, rest, new), summed[0])
            return


def _read(of_x: _Operand, of_w: _Operand, out: _Axes, parts: Sequence[_Axes], columns: bool) -> Iterator[Contraction]:
    (x, outer), (w, inner), (along, shared, rest, new) = of_x, of_w, parts
    sizes = dict(zip(inner, w.shape, strict=True))
    if any(x.shape[k] != sizes.get(axis, x.shape[k]) for k, axis in enumerate(outer)):
        return
    m, n = (math.prod(sizes[axis] for axis in axes) for axes in (new, shared))
    left = tuple(axis for axis in out if axis not in along)
    several = range(sizes[along[0]]) if along else None
    each = [x] if several is None or along[0] not in outer else [x.select(outer.index(along[0]), k) for k in several]
    own = tuple(axis for axis in outer if axis not in along)
    order = [own.index(axis) for axis in (*rest, *shared)]
    inputs = [t.permute(order).reshape(*t.permute(order).shape[: len(rest)], n) for t in each]
    yield Contraction(
        tuple(inputs * len(several) if several is not None and len(inputs) == 1 else inputs),
        w,
        w.reshape(*w.shape[: len(along)], *((n, m) if columns else (m, n))),
        columns,
        tuple(sizes[axis] for axis in new),
        tuple((*rest, *new).index(axis) for axis in left),
        left.index(new[0]) - len(left) if len(new) == 1 else None,
        out.index(along[0]) - len(out) if along else None,
    )


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
