"""Which Fourier features a small network reads: each costs a column of weights, and a few carry most functions."""

import torch
from scipy.linalg.lapack import dpstrf
from torch import Tensor

from hmcompress.hmatrix.grids.kernels import aimed_cholesky

FEATURES_FOR_EACH = 3  # neuron of a hidden layer
_ROWS = 2048
_FOLLOWS = 1e-4  # share of an input's deviation that others may leave where it follows from them
_HARDLY = 1e-6  # share of the largest deviation up to which an input hardly varies
_TOLD = 16  # samples for each such input, below which little says that they do
_SPENT = 1e-6  # share of a column's square that others must leave for it to be chosen


def leading(x: Tensor, y: Tensor, count: int) -> Tensor:
    """Mask (n,) of `count` columns of x (N, n) from which y (N, k) follows best linearly, found one by one: each
    explains most of what those before left (orthogonal least squares, Chen et al. 1989)."""
    chosen = torch.zeros(x.shape[1], dtype=torch.bool)
    if count >= x.shape[1]:
        return ~chosen
    x, y = x[:_ROWS] - x[:_ROWS].mean(0), y[:_ROWS] - y[:_ROWS].mean(0)
    x = x / x.norm(dim=0).clamp_min(1e-300)
    order, _, rank = aimed_cholesky((x.T @ x).numpy(), (y.T @ x).numpy(), 0.0, _SPENT)
    chosen[order[: min(count, rank)]] = True
    return chosen


def independent(x: Tensor) -> Tensor:
    """Mask (n,) of columns of x (N, n) from which the others follow linearly, as neighbouring values of a smooth
    function do (pivoted Cholesky of their correlations). All of them, where few samples say so: what is
    fitted to these would depend on differences of neighbours.

    Columns that hardly vary beside others come last: the value at a wall, which only rounding moves off zero, may say
    what inner ones do, but no weight could read it.
    """
    everything = torch.ones(x.shape[1], dtype=torch.bool)
    if not x.numel():
        return everything
    x = x[:_ROWS].double() - x[:_ROWS].double().mean(0)
    size = x.norm(dim=0)
    x, chosen = x / size.clamp_min(1e-300), ~everything
    for some in (size > _HARDLY * size.max(), size <= _HARDLY * size.max()):
        left = x[:, some] - _following(x[:, some], x[:, chosen])
        chosen[torch.nonzero(some)[_pivots(left), 0]] = True
    return everything if _TOLD * int(chosen.sum()) > len(torch.unique(x, dim=0)) else chosen


def _pivots(x: Tensor) -> Tensor:
    """Numbers of the columns from which the others follow."""
    if not (x.norm(dim=0) > _FOLLOWS).any():
        return torch.zeros(0, dtype=torch.long)
    _, pivots, rank, _ = dpstrf((x.T @ x).numpy(), tol=_FOLLOWS**2)
    return torch.from_numpy(pivots[:rank] - 1).long()


def _following(x: Tensor, known: Tensor) -> Tensor:
    """The part of columns x (N, n) that follows linearly from known ones (N, m)."""
    return known @ torch.linalg.lstsq(known, x).solution if x.shape[1] and known.shape[1] else torch.zeros_like(x)
