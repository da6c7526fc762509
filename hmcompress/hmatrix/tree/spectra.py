"""Leading singular triplets of many blocks at once, exact for small blocks and sketched for large ones."""

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch

from hmcompress.hmatrix.basics.eigen import eigenvalues, eigenvectors

Array = np.ndarray
_EXACT = 256  # the smaller side up to which the Gram matrix is decomposed
_SKETCH = 64
_OVERSAMPLING = 8
_LEADING, _DEPENDENT = 6, 1e-12
_FLAT = 1e4  # mean square up to which values in float32 are right to well below a step
_NEGLIGIBLE = 0.3  # singular values below this times the norm of a column of steps cannot pay


@dataclass(frozen=True)
class Spectrum:
    """values (b, r) in descending order, left (b, m, r), right (b, n, r)."""

    values: Array
    left: Array
    right: Array

    def take(self, rank: int) -> "Spectrum":
        """The leading `rank` triplets."""
        return Spectrum(self.values[:, :rank], self.left[..., :rank], self.right[..., :rank])

    def times(self, factor: float) -> "Spectrum":
        """The spectrum of `factor` times the blocks, factor > 0."""
        return Spectrum(self.values * factor, self.left, self.right)


def spectra(stack: Array, rough: bool = False, rank: int = 0) -> Spectrum:
    """Leading triplets of every block of a stack (b, m, n), in steps; as many as can matter at this step.

    rough: right to well below a step only, which is enough for prices and takes less time. rank: how many of large
    blocks may be asked for.
    """
    _, m, n = stack.shape
    if m < n:
        s = spectra(np.ascontiguousarray(np.swapaxes(stack, 1, 2)), rough, rank)
        return Spectrum(s.values, s.right, s.left)
    a = _rough(stack) if rough else torch.from_numpy(np.ascontiguousarray(stack)).double()
    basis = _gram_basis(a) if n <= _EXACT else _sketch_basis(a, max(_SKETCH, rank))
    return _triplets(a, basis, m)


def singular_values(stack: Array, rank: int = 0) -> Array:
    """About the leading singular values of every block of a stack (b, m, n), descending, as many as triplets.

    rank: see spectra.
    """
    a = _rough(stack)
    a = a.mT if a.shape[1] < a.shape[2] else a
    if a.shape[2] <= _EXACT:
        squares, count = eigenvalues(a.mT @ a), max(1, a.shape[2] // 2)
    else:
        count = max(_SKETCH, rank)
        small = a @ _sketch_basis(a, count)
        squares = eigenvalues(small.mT @ small)
    return squares.flip(-1)[:, :count].clamp_min(0).sqrt().double().numpy()


def leading_values(stack: Array) -> Array:
    """The few largest singular values of every block of a stack (b, m, n), descending, a few per cent too small.

    By subspace iteration: in a fraction of the time that all values take.
    """
    a = _rough(stack)
    count = min(_LEADING, *a.shape[1:])
    x = torch.from_numpy(_directions(a.shape[2], count)).to(a.dtype).expand(len(a), -1, -1)
    x = a.mT @ (a @ (a.mT @ (a @ x)))  # where a large one outgrows the others, it alone tells enough
    wide = x.double()
    squares, vectors = torch.linalg.eigh(wide.mT @ wide)
    scales = squares.clamp_min(_DEPENDENT * squares[:, -1:].clamp_min(_DEPENDENT)).rsqrt()
    x = (wide @ (vectors * scales[:, None])).to(a.dtype)
    image = a @ x
    return eigenvalues((image.mT @ image).double()).flip(-1).clamp_min(0).sqrt().numpy()


@cache
def _directions(n: int, count: int) -> Array:
    """Fixed quasi-random directions (n, count)."""
    slopes = np.modf(np.sqrt(np.array([2.0, 3.0, 5.0, 7.0, 11.0, 13.0, 17.0, 19.0])))[0]
    return np.modf(np.outer(np.arange(n) + 1, slopes[:count]))[0] - 0.5


def _rough(stack: Array) -> torch.Tensor:
    """In float32 where that is enough."""
    a = torch.from_numpy(np.ascontiguousarray(stack))
    return (
        a.float() if float(torch.linalg.vector_norm(a, dim=(1, 2)).amax()) ** 2 < _FLAT * a[0].numel() else a.double()
    )


def leading_triplets(a: torch.Tensor, rank: int) -> Spectrum:
    """`rank` leading triplets of one block (m, n), float64, by a sketch; without the batch dimension."""
    wide = a.shape[0] < a.shape[1]
    tall = a.mT if wide else a
    basis = _sketch_basis(tall[None], 4 * rank)[0, :, :rank]
    image = tall @ basis
    values = torch.linalg.vector_norm(image, dim=0)
    left, right = (image / values.clamp_min(1e-30)).numpy(), basis.numpy()
    return Spectrum(values.numpy(), right, left) if wide else Spectrum(values.numpy(), left, right)


def _gram_basis(a: torch.Tensor) -> torch.Tensor:
    """Right singular vectors (b, n, n), descending."""
    return eigenvectors(a.mT @ a).flip(-1)


def _sketch_basis(a: torch.Tensor, sketch: int = _SKETCH) -> torch.Tensor:
    """An orthonormal basis (b, n, k) of nearly the leading right singular space, descending (Halko et al. 2011)."""
    generator = torch.Generator().manual_seed(0)
    width = min(sketch + _OVERSAMPLING, a.shape[2])
    probe = torch.randn(a.shape[2], width, dtype=a.dtype, generator=generator)
    q = torch.linalg.qr(a @ probe)[0]
    q = torch.linalg.qr(a @ (a.mT @ q))[0]
    small = q.mT @ a
    left = eigenvectors(small @ small.mT).flip(-1)[..., : min(sketch, width)]
    return torch.linalg.qr(small.mT @ left)[0]


def _triplets(a: torch.Tensor, basis: torch.Tensor, m: int) -> Spectrum:
    image = a @ basis
    values = torch.linalg.vector_norm(image, dim=1)
    useful = int((values.amax(0) > _NEGLIGIBLE * m**0.5).sum()) if values.numel() else 0
    rank = min(useful, max(1, basis.shape[2] // 2) if basis.shape[1] == basis.shape[2] else basis.shape[2])
    values, image, basis = values[:, :rank], image[..., :rank], basis[..., :rank]
    left = image / values.clamp_min(1e-30)[:, None, :]
    return Spectrum(values.numpy(), left.numpy(), basis.numpy())
