"""Networks that begin as narrower ones that have learned already. Exact Gauss-Newton steps in double precision, which
few weights allow, lead through valleys in which conjugate gradients in single precision stand still."""

import torch
from torch import Tensor

from hmcompress.network.joint.distil import Origin
from hmcompress.network.joint.form_search import multiplications
from hmcompress.network.joint.least_squares import minimise
from hmcompress.network.joint.origin import fresh
from hmcompress.network.joint.small import Data, Layer, SmallNetwork
from hmcompress.network.joint.stacks import SmallStacks

_HIDDEN = (4, 5, 6, 8, 10, 12, 15, 19, 24)  # neurons of a hidden layer
_WEIGHTS = 400  # of the narrow network, about
_ROWS, _STEPS = (2048, 4096), 60  # samples, and steps on these
_MOST_WORK = 1e12  # multiplications that these may take, about: a quarter of a minute
_GOAL, _GAIN = 0.5, 0.01  # of the tolerance; of a step below which it is about to end
_WHISPER = 0.03  # share of their random weights by which the others are read at first: at zero they hardly learn


def narrow_learned(origin: Origin, data: Data, scale: Tensor, hidden: int, tol: float) -> SmallNetwork | None:
    """A network of some hundred weights, with at most so many neurons in a layer, that has learned what it can. None:
    what has no neurons of its own makes it so large that this takes too long."""
    narrow = max((h for h in _HIDDEN if origin.inner_weights(h) <= _WEIGHTS), default=_HIDDEN[0])
    small, damping = fresh(origin, data, scale, min(narrow, hidden), 0, everything=True), 1.0
    work = sum(multiplications(_STEPS, data.first(rows), small.weights(), small.each) for rows in _ROWS)
    if work > _MOST_WORK:
        return None
    for rows in _ROWS:
        minimise(small, data.first(rows), _STEPS, damping=damping, goal=(_GOAL * tol) ** 2, gain=_GAIN)
        damping = 1e-3
    return small


def widened(narrow: SmallNetwork, wide: SmallNetwork) -> SmallNetwork:
    """A wider network with random weights, changed in place: some of its neurons are those of the narrow one."""
    for layer, own in zip(wide.layers, narrow.layers, strict=True):
        _take_over(layer, own)
    if isinstance(wide, SmallStacks) and wide.product:
        last, own = wide.stacks[0].layers[-1], narrow.layers[len(wide.stacks[0].layers) - 1]
        last.matrix[len(own.matrix) :] *= _WHISPER  # what a further product adds, which nothing reads by a weight
    return wide


def _take_over(wide: Layer, narrow: Layer) -> None:
    """The weights of a narrow layer at its neurons, which hardly read the others."""
    rows = _places(wide.rows, narrow.rows, len(narrow.matrix))
    columns = _places(wide.columns, narrow.columns, narrow.inputs)
    if wide.has_bias:
        columns = torch.cat([columns, torch.tensor([wide.inputs])])
    wide.matrix[rows] *= _WHISPER
    wide.matrix[rows[:, None], columns] = narrow.matrix


def _places(wide: Tensor | None, narrow: Tensor | None, count: int) -> Tensor:
    """Where a narrow layer's neurons stand in a wide one's."""
    return torch.arange(count) if wide is None or narrow is None else torch.searchsorted(wide, narrow)
