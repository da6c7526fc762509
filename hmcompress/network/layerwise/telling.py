"""Very wide layers whose inputs a few of them tell: sensors on a grid see fields of few modes, channels a spectrum."""

import math
from dataclasses import replace

import numpy as np
from scipy.linalg import lstsq, qr
from torch import Tensor

from hmcompress.errors import NetworkError
from hmcompress.network.layerwise.moments import WIDEST
from hmcompress.network.model.inputs import Points
from hmcompress.network.model.network import DenseLayer, Network, replaced

_MOST = 1024  # columns of a layer that are read as they are; of a wider one, fewer
_ROWS, _CHOSEN_BY = (256, 1024), 0.75  # rows that are looked at, and the share of them, the first, that chooses
_FEWEST, _WORK = 16, 2e10  # samples; multiplications of that choice
_NEGLIGIBLE = 1e-6  # share of the first pivot below which columns follow from those before
_MISSED, _HOPELESS = 0.1, 0.3  # of the tolerance, that the layer's outputs may miss; of their size, at the first look


def with_telling_columns(network: Network, points: Points, tol: float) -> Network:
    """The same network with the columns known by which very wide layers are read, where few tell their outputs."""
    if network.kind == "linear" or not points.joint or not any(_is_wide(network, x) for x in network.layers):
        return network
    telling: dict[str, np.ndarray] = {}

    def note(layer: DenseLayer, x: Tensor, z: Tensor) -> None:
        if _is_wide(network, layer) and layer.weight not in network.routed:
            inputs, outputs = (t.detach().reshape(-1, t.shape[-1])[: _ROWS[-1]] for t in (x, z))
            columns = telling_columns(inputs, outputs, tol)
            telling.update({layer.weight: columns} if columns is not None else {})

    try:
        with replaced(network, note):
            network.run(points.take(slice(0, _ROWS[-1])).tensors)
    except NetworkError:
        return network
    return replace(network, telling=telling)


def telling_columns(x: Tensor, z: Tensor, tol: float) -> np.ndarray | None:
    """Columns of inputs x (N, n), in their order, of which outputs z (N, m) are linear functions up to a share of
    `tol`; None where those that stand for the samples seen do not suffice for others."""
    most = int(math.sqrt(_WORK / x.shape[1]))
    for rows in _ROWS:
        inputs, outputs = (t[: min(rows, most)].double().numpy() for t in (x, z))
        if not inputs.any() or len(inputs) < _FEWEST:
            return None
        columns, missed = _chosen(inputs, outputs)
        if len(columns) and missed <= _MISSED * tol:
            return columns
        if missed > _HOPELESS:
            return None
    return None


def _chosen(inputs: np.ndarray, outputs: np.ndarray) -> tuple[np.ndarray, float]:
    """Columns by pivoted QR, as sensors are placed (Manohar et al. 2018), and what the outputs miss, relative to how
    far they spread, on rows that these were not chosen by."""
    count = int(_CHOSEN_BY * len(inputs))  # of one sample's rows most are on one side
    triangle, order = qr(inputs[:count], mode="r", pivoting=True, check_finite=False)
    pivots = np.abs(np.diag(triangle))
    columns = np.sort(order[: min(int((pivots > _NEGLIGIBLE * pivots[0]).sum()), _MOST)])
    known = np.concatenate([inputs[:, columns], np.ones((len(inputs), 1))], 1)
    weights = lstsq(known[:count], outputs[:count], check_finite=False)[0]
    wanted = outputs[count:]
    missed = float(np.linalg.norm(known[count:] @ weights - wanted))
    return columns, missed / max(float(np.linalg.norm(wanted - wanted.mean(0))), 1e-300)


def _is_wide(network: Network, layer: DenseLayer) -> bool:
    rows, columns = network.shape(layer)
    return rows <= WIDEST and columns > _MOST
