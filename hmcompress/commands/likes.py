"""Layers that are like others of their shape, told by few numbers of each.

Copies of one layer that trained apart, as torch makes them for a TransformerEncoder, experts that began as one dense
layer, averages of weights, targets of a reinforcement learner.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from hmcompress.checkpoint import TensorEntry
from hmcompress.errors import SourceError
from hmcompress.hmatrix.basics.surroundings import in_one_thread
from hmcompress.layers import FLOATS, real_layout
from hmcompress.settings.config import LayerRule

Array = np.ndarray
_LEAST, _SOME = 1 << 12, 1 << 12  # weights of a layer that may stand on another one, and how many are looked at
_LIKE = 0.4  # the cosine of the angle between two layers from which one saves an eighth of a bit a weight of the other
_MOST = 512  # layers of one shape that are compared with each other
_LARGEST = 1 << 26  # weights of a layer: one that stands on another takes several times its memory


def find_bases(entries: Mapping[str, TensorEntry], rules: Mapping[str, LayerRule]) -> dict[str, str]:
    """For layers that are like another one, that one's name. Those are like none themselves."""
    groups = defaultdict[tuple, list[TensorEntry]](list)
    for name, rule in rules.items():
        entry = entries[name]
        possible = entry.dtype in FLOATS and len(entry.shape) > 1
        if possible and _LEAST <= entry.nbytes // entry.dtype.itemsize <= _LARGEST:
            groups[entry.shape, entry.dtype, rule.tol, rule.norm].append(entry)
    single = (group for (shape, dtype, *_), group in groups.items() if real_layout(shape, dtype).count == 1)
    return dict(pair for group in single for i in range(0, len(group), _MOST) for pair in _pairs(group[i : i + _MOST]))


def _pairs(group: Sequence[TensorEntry]) -> Iterator[tuple[str, str]]:
    """Names of layers of one shape, each with that of the one it stands on."""
    looks = {entry.name: _look(entry) for entry in group} if len(group) > 1 else {}
    seen = {name: some for name, some in looks.items() if some is not None}
    if len(seen) > 1:
        names, some = list(seen), torch.stack(list(seen.values())).double().numpy()
        yield from ((names[i], names[base]) for i, base in enumerate(choose(saved_bits(some))) if base >= 0)


def _look(entry: TensorEntry) -> Tensor | None:
    """Weights from the middle, which takes reading all of them where they lie transposed or in a compressed archive."""
    some = entry.glance(_SOME)
    if some is not None:
        return some
    try:
        whole = entry.load().reshape(-1)
    except SourceError:  # said where it is coded
        return None
    return whole[_begin(len(whole)) :][:_SOME].clone()  # not the memory of all


def _begin(count: int) -> int:
    return (count - _SOME) // 2


def similar(matrices: Tensor) -> list[int]:
    """Of each slice of a stack (count, m, n) the one that it may stand on, -1 for those that stand by themselves."""
    flat = matrices.reshape(len(matrices), -1)
    alone = [-1] * len(flat)
    if len(flat) < 2 or not _LEAST <= flat.shape[1] <= _LARGEST:
        return alone
    begin = _begin(flat.shape[1])
    some = flat[:_MOST, begin : begin + _SOME].double().numpy()
    return [*choose(saved_bits(some)).tolist(), *alone[_MOST:]]


@in_one_thread
def saved_bits(some: Array) -> Array:
    """Bits a weight that each layer saves by each other one, (k, k), for some weights of each, (k, n)."""
    x = np.nan_to_num(some, nan=0.0, posinf=0.0, neginf=0.0)
    x = x / np.maximum(np.abs(x).max(1, keepdims=True), np.finfo(float).tiny)
    x /= np.maximum(np.sqrt(np.square(x).sum(1, keepdims=True)), 1.0)
    cosines = np.minimum(np.abs(x @ x.T), 1.0)
    np.fill_diagonal(cosines, 0)
    return np.where(cosines < _LIKE, 0.0, -0.5 * np.log2(np.maximum(1 - np.square(cosines), 2.0**-50)))


def choose(saved: Array) -> Array:
    """Which layer each one stands on, (k,), -1 for those that stand by themselves, for bits saved (k, k).

    One after the other the layer is taken by which the others save most, less what it would save itself.
    """
    bases, best = np.full(len(saved), -1), np.zeros(len(saved))
    alone = np.zeros(len(saved), np.bool_)
    while True:
        gains = np.maximum(saved - best[:, None], 0)
        gains[alone] = 0
        total = np.where(alone, 0.0, gains.sum(0) - best)
        found = int(np.argmax(total))
        if total[found] <= 0:
            return bases
        mine = gains[:, found] > 0
        bases[mine], best[mine] = found, saved[mine, found]
        bases[found], best[found], alone[found] = -1, 0.0, True
