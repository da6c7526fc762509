"""Orders in which a shuffled matrix becomes hierarchical again.

Rows that behave alike should stand together. Each row is a point, its coordinates those of the leading singular
subspace; the points are split in halves along their principal direction, and the halves again (a principal direction
tree, as in geometry-oblivious clustering, Yu et al. 1707.00164), each half turned so that it runs on from the other.
"""

import numpy as np
import torch

from hmcompress.hmatrix.tree.spectra import leading_triplets

Array = np.ndarray
_COORDINATES = 24
_SQUARINGS = 5


def cluster_points(a: Array) -> tuple[Array, Array]:
    """The rows and the columns of a (m, n) as points, (m, k) and (n, k); like ones are near each other."""
    rank = min(_COORDINATES, *a.shape)
    s = leading_triplets(torch.from_numpy(np.ascontiguousarray(a, np.float64)), rank)
    rows, columns = (_directions(side * s.values) for side in (s.left, s.right))
    return rows, rows if a.shape[0] == a.shape[1] and np.allclose(a, a.T) else columns


def _directions(points: Array) -> Array:
    return points / np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-300)


def principal_order(points: Array, smallest: int) -> Array:
    """An order of points (n, k) in which neighbours are near each other; halves of `smallest` are not ordered."""
    return _split(points, np.arange(len(points)), np.zeros(points.shape[1]), smallest)


def _split(points: Array, index: Array, direction: Array, smallest: int) -> Array:
    """Order the points `index`; `direction` is the way the order should run."""
    own = points[index] - points[index].mean(0)
    principal = _leading_direction(own.T @ own)
    if principal @ direction < 0:
        principal = -principal
    order = index[np.argsort(own @ principal, kind="stable")]
    if len(index) < 2 * smallest:
        return order
    low, high = np.split(order, [(len(order) + 1) // 2])
    run = points[high].mean(0) - points[low].mean(0)
    return np.concatenate([_split(points, low, run, smallest), _split(points, high, run, smallest)])


def _leading_direction(gram: Array) -> Array:
    """About the leading eigenvector of a positive semi-definite (k, k), of any length: its powers tend to it."""
    for _ in range(_SQUARINGS):
        gram = gram / max(float(np.trace(gram)), 1e-300)
        gram = gram @ gram
    return gram[:, int(np.argmax(np.diag(gram)))]
