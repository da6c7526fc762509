"""Second moments of the outputs metric: inputs of each layer (C), and sensitivities of the outputs to it (G)."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from scipy.linalg import LinAlgError, cho_factor, cho_solve
from torch import Tensor

from hmcompress.hmatrix.grids.factors import added, mean_diagonal
from hmcompress.network.model.inputs import Points
from hmcompress.network.model.network import DenseLayer, Network, replaced
from hmcompress.network.model.tangents import jets

_PROJECTED_ROWS = 16384  # rows of random projections aimed at
_MOST_PROJECTIONS = 8
_TINY = 1e-14
_MOST_NOISE = 0.99
_CHUNK = 4096
_BLOCK, _BLOCK_NUMBERS = 8192, 1 << 25  # rows that are summed at once, and their numbers
_NO_LIMIT = 1 << 62
_MUCH_WORK = 5e9  # multiplications
WIDEST = 4608  # outputs of a layer with a whole matrix
_MANY, _LEAST_SAMPLES = 17, 64  # outputs of a layer and samples, by which it may be known as one of outputs
_EQUAL, _SAME = 1e-5, 1e-12  # relative differences that rounding makes, of single and double precision

Scale = Callable[[list[Tensor]], list[Tensor]]


def with_column(x: Tensor, layer: DenseLayer, value: bool) -> Tensor:
    """Inputs of a layer as a matrix (rows, d), float64, and the column of its bias: ones, or zeros for derivatives."""
    flat = x.detach().reshape(-1, x.shape[-1]).double()
    return flat if layer.bias is None else torch.cat([flat, flat.new_full((len(flat), 1), float(value))], 1)


def input_moments(
    xs: Sequence[Tensor], zs: Sequence[Tensor], weights: Sequence[float], bias: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Means of y y^T (d, d) and z y^T (m, d), float64, over rows y of a layer's inputs (..., n) and z of its targets.

    The first of xs and zs are values, a one after each row where the layer has a bias; the others are derivatives, with
    a zero, and count by their weights.
    """
    d, m = xs[0].shape[-1] + bias, zs[0].shape[-1]
    own, cross = np.zeros((d, d)), np.zeros((m, d))
    for k, (x, z, weight) in enumerate(zip(xs, zs, [1.0, *weights], strict=True)):
        size = max(min(_BLOCK, _BLOCK_NUMBERS // max(m, d, 1)), 1)
        targets = z.detach().reshape(-1, m).split(size)
        for block, part in zip(_blocks(x, bias, float(k == 0), np.float64, size), targets, strict=True):
            own += weight * (block.T @ block)  # numpy, unlike torch, takes half a product that is symmetric
            cross += weight * (part.double().T @ torch.from_numpy(block)).numpy()
    count = max(xs[0].numel() // xs[0].shape[-1], 1)
    return own / count, cross / count


def _blocks(x: Tensor, bias: bool, value: float, dtype: type, size: int) -> Iterator[np.ndarray]:
    """Rows (k, d) of inputs x (..., n), some at a time: copies in double precision of tens of thousands of them cost
    more than the sums over them. Each block takes the memory of the one before."""
    rows = x.detach().reshape(-1, x.shape[-1])
    held: np.ndarray = np.full((min(size, len(rows)), rows.shape[1] + bias), value, dtype)
    for part in rows.split(size):
        torch.from_numpy(held)[: len(part), : rows.shape[1]].copy_(part)  # numpy knows no bfloat16
        yield held[: len(part)]


def ridge_target(w: np.ndarray, moment: np.ndarray, cross: np.ndarray, ridge: float) -> np.ndarray:
    """The matrix (m, d) nearest to w that best restores pre-activations z from inputs x.

    W + (E[z x^T] - W E[x x^T]) (E[x x^T] + ridge * mean diagonal * I)^-1, in float64.
    """
    left = cross - w @ moment
    for attempt in range(8):  # a singular moment needs a larger ridge
        try:
            factor = cho_factor(regularised(moment, max(ridge, _TINY) * 10.0**attempt))
            return w + cho_solve(factor, left.T).T
        except LinAlgError:
            continue
    return w


def regularised(moment: np.ndarray, share: float) -> np.ndarray:
    """The moment (n, n) or (n,) with a share of its mean diagonal added to the diagonal."""
    mean = mean_diagonal(moment)
    more = share * (mean if mean > 0 else 1.0)
    return moment + (more if moment.ndim == 1 else more * np.eye(len(moment)))


def sampling_noise(x: Tensor, bias: bool, moment: np.ndarray) -> float:
    """Share of its mean diagonal that brings the moment (d, d) of inputs x (samples, ..., n) nearest to that of further
    samples.

    The intensity of Ledoit & Wolf (2004, "A well-conditioned estimator for large-dimensional covariance matrices")
    towards a multiple of the identity, over one minus it. Rows of one sample depend on each other.
    """
    count = len(x)
    each = x[0].numel() // x.shape[-1]
    dtype = np.float32 if each > 1 else np.float64
    own = (g @ g.T if len(g) < g.shape[1] else g.T @ g for g in _blocks(x, bias, 1.0, dtype, each))  # of the same norms
    fourth = sum(float(np.square(g).sum(dtype=np.float64)) for g in own) / count / each**2
    size = float(np.square(moment).sum())
    noise = (fourth - size) / max(count - 1, 1)
    signal = size - float(np.trace(moment)) ** 2 / len(moment)
    share = min(max(noise / max(signal, _TINY * size, 1e-300), 0.0), _MOST_NOISE)
    return share / (1 - share)


def sensitivities(
    network: Network, points: Points, scale: Scale, order: int, seed: int, at_once: int = _CHUNK, most: int = _NO_LIMIT
) -> dict[str, np.ndarray]:
    """G of every layer: sum over rows of E[g g^T], g the gradient of a random projection of the scaled outputs.

    `scale` turns the outputs and their derivatives into blocks whose squared norms add up to the squared error that
    is bounded. at_once: samples whose activations are held together; most: gradients of samples, all projections
    together. Returns moments (m, m), float64, by the name of the weight, or (m,) of outputs and of very many rows; none
    where the module gives no gradients.
    """
    moments: dict[str, np.ndarray] = {}
    if not network.layers:
        return moments
    generator = torch.Generator().manual_seed(seed)
    step, count = min(at_once, _CHUNK), min(_MOST_PROJECTIONS, _PROJECTED_ROWS // len(points), most // len(points))
    for begin in range(0, len(points), step):
        part = points.take(slice(begin, begin + step))
        for name, g in _gradients(network, part, scale, order, generator, max(count, 1)):
            found = _moment(g)
            moments[name] = added(moments[name], found) if name in moments else found
    return moments


def _moment(g: Tensor) -> np.ndarray:
    """g^T g, of gradients g (k, m): float64 (m, m), or (m,) of what is known or taken to be diagonal."""
    if _are_outputs(g):
        return len(g) * g[0].double().square().numpy()  # without what other outputs add by chance
    if g.shape[1] > WIDEST:
        return torch.linalg.vector_norm(g, dim=0, dtype=torch.float64).square().numpy()
    return _product(g)


def _are_outputs(g: Tensor) -> bool:
    """Whether each number of a layer is one of many outputs, but for a factor that all samples share: signs that are
    drawn for each output then make gradients (samples, m) of one size, unlike in any two of them."""
    if len(g) < _LEAST_SAMPLES or g.shape[1] < _MANY:
        return False
    most, weights = _EQUAL * float(g.abs().max()), torch.randn(len(g), generator=torch.Generator().manual_seed(0))
    marks = []
    for some in g.split(_CHUNK, dim=1):
        if float((some.abs() - some[0].abs()).abs().max()) > most:
            return False
        marks.append((weights.double() @ some.sign().double()).abs())
    ordered = torch.cat(marks).sort().values
    return bool(ordered[0] > 0 and (ordered.diff() > _SAME * ordered[-1]).all())


def _product(g: Tensor) -> np.ndarray:
    """(m, m) in single precision where that is much work, of which regularisers hide the rest."""
    if g.shape[0] * g.shape[1] ** 2 < _MUCH_WORK:
        g = g.double()
        return (g.T @ g).numpy()
    size = float(g.abs().max()) or 1.0
    single = (g / size).float().numpy()
    return (single.T @ single).astype(np.float64) * size**2  # numpy computes half of a symmetric product


def _gradients(
    network: Network,
    points: Points,
    scale: Scale,
    order: int,
    generator: torch.Generator,
    count: int,
) -> Iterator[tuple[str, Tensor]]:
    probes: dict[str, Tensor] = {}

    def probe(layer: DenseLayer, x: Tensor, z: Tensor) -> Tensor:
        if layer.weight not in probes:
            probes[layer.weight] = torch.zeros_like(z.detach(), requires_grad=True)
        return z + probes[layer.weight]

    with replaced(network, probe):
        network.run(points.tensors)  # makes the probes: none may be made inside a tangent trace
        with torch.enable_grad():
            blocks = scale(jets(network, points, order))
    single = len(blocks) == 1 and blocks[0].shape[1] == 1
    count = 1 if single else count
    for k in range(count):
        signs = [2.0 * torch.randint(0, 2, b.shape, generator=generator).to(b.dtype) - 1 for b in blocks]
        value = torch.stack([(b * s).sum() for b, s in zip(blocks, signs, strict=True)]).sum()
        if not value.requires_grad:  # the module itself runs without gradients
            return
        grads = torch.autograd.grad(value, list(probes.values()), retain_graph=k + 1 < count, allow_unused=True)
        for (name, p), g in zip(probes.items(), grads, strict=True):
            g = torch.zeros_like(p) if g is None else g
            g = g.reshape(-1, g.shape[-1])
            g = torch.where(g.isfinite().all(1, keepdim=True), g, 0.0)  # a root at zero makes nan
            yield name, (g if g.shape[-1] > WIDEST else g.double()) / count**0.5
