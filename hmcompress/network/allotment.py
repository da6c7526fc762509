"""How large an error each weight may have, where each is coded by itself, and the bytes that this promises."""

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hmcompress.layers import is_dense, to_matrices
from hmcompress.network.layerwise.original import perturbed_samples
from hmcompress.network.layerwise.others import perturbed_errors
from hmcompress.network.layerwise.subject import Subject

_LOOSEST, _TIGHTEST = 0.7, 1e-7  # relative errors
_NOISE, _LEAST = 0.25, 0.02  # bits of a number: of noise beyond the logarithm of one over its relative error; at least
_EXACT = 3.6  # bits of a number's sign and exponent, where nothing of it is lost
_LARGE = 1 << 12  # numbers of a weight in which structure is looked for
_BESIDE_ANOTHER = 0.1  # share of its bytes that a layer may take that is like another one
_FINER = 0.1  # than that of dense weights
_OCTAVES = 24  # below the loosest, in which levels are looked for


@dataclass(frozen=True)
class Allotment:
    """Relative Frobenius errors of weights at level 1; they grow with the level.

    weights: all that a network has, by name, in the order of the checkpoint; those without a size are kept as they are.
    """

    weights: Mapping[str, Tensor]
    sizes: Mapping[str, float]
    bytes_of_noise: Mapping[str, float]  # share of what noise takes for each

    @classmethod
    def even(cls, subject: Subject, alike: Mapping[str, str]) -> "Allotment":
        """The same for all dense weights, and a finer one for the small and the vectors, which take little."""
        weights = weights_of(subject)
        sizes = {name: 1.0 if is_dense(w.shape, w.dtype) else _FINER for name, w in weights.items()}
        shares = {name: _share(subject, name, w, name in alike) for name, w in weights.items()}
        return cls(weights, sizes, shares)

    @property
    def left_out(self) -> int:
        """Bytes of what is kept as it is."""
        return sum(w.nbytes for name, w in self.weights.items() if name not in self.sizes)

    def at(self, level: float) -> "Allotment":
        """The same, whose level 1 is this one."""
        return replace(self, sizes={name: size * level for name, size in self.sizes.items()})

    def tolerances(self, level: float) -> dict[str, float]:
        """Of each weight."""
        return {name: min(max(size * level, _TIGHTEST), _LOOSEST) for name, size in self.sizes.items()}

    def promise(self, level: float) -> float:
        """Bytes, about."""
        bits = 0.0
        for name, tol in self.tolerances(level).items():
            w = self.weights[name]
            each = min(max(math.log2(1 / tol) + _NOISE, _LEAST), math.log2(1 / torch.finfo(w.dtype).eps) + _EXACT)
            bits += w.numel() * each * self.bytes_of_noise[name]
        return bits / 8 + self.left_out

    def level_of(self, nbytes: float) -> float | None:
        """The level that promises so many bytes; None where each promises fewer, or the loosest does not."""
        low, high = _LOOSEST * 2.0**-_OCTAVES, _LOOSEST
        if not self.promise(low) > nbytes > self.promise(high):
            return low if self.promise(low) <= nbytes else None
        for _ in range(20):
            middle = math.sqrt(low * high)
            low, high = (middle, high) if self.promise(middle) > nbytes else (low, middle)
        return high


def allotments(subject: Subject, alike: Mapping[str, str]) -> list[Allotment]:
    """One where each number of a weight adds as much to the outputs' squared error as any other, and one where dense
    weights have the same relative error. The outputs' is about the tolerance."""
    even, problem, data = Allotment.even(subject, alike), subject.problem, subject.data
    names, kind = even.weights.keys(), problem.settings.tolerance
    most = perturbed_samples(data.size, len(names))
    errors = perturbed_errors(problem.network, problem.calibration.points, subject.tensors, names, kind, most)
    used = {name: error for name, error in errors.items() if error > 0}
    count = sum(even.weights[name].numel() for name in used)
    share = {name: math.sqrt(even.weights[name].numel() / count) for name in used}
    each = {name: subject.guard.tol * share[name] / error for name, error in used.items()}
    dense = [name for name in used if is_dense(even.weights[name].shape, even.weights[name].dtype)]
    total = math.sqrt(sum(used[name] ** 2 for name in dense))
    same = {name: subject.guard.tol * math.sqrt(sum(share[n] ** 2 for n in dense)) / total for name in dense}
    return [replace(even, sizes=_alike(each, alike)), *([replace(even, sizes=each | same)] if dense else [])]


def like_noise(allotment: Allotment, level: float) -> dict[str, Tensor]:
    """All weights, those that are to be coded with noise of the sizes that they may be off."""
    generator, weights = torch.Generator().manual_seed(0), allotment.weights
    return {**weights, **{n: _moved(weights[n], tol, generator) for n, tol in allotment.tolerances(level).items()}}


def _moved(w: Tensor, tol: float, generator: torch.Generator) -> Tensor:
    """In single precision at least, which is enough to tell how large an error is."""
    w = w.to(torch.promote_types(w.dtype, torch.float32))
    noise = torch.randn(w.shape, generator=generator, dtype=w.dtype)
    return noise.mul_(tol * float(w.norm()) / math.sqrt(max(w.numel(), 1))).add_(w)


def weights_of(subject: Subject) -> dict[str, Tensor]:
    """All of a network's, by name, in the order of the checkpoint."""
    network = subject.problem.network
    own = {name for layer in network.layers for name in (layer.weight, layer.bias)} | {*network.others}
    return {name: t for name, t in subject.tensors.items() if name in own}


def _share(subject: Subject, name: str, w: Tensor, like_another: bool) -> float:
    """Of the bytes of noise that the engine takes for a weight, about."""
    if like_another:
        return _BESIDE_ANOTHER
    matrix = to_matrices(w)[0]
    large = w.numel() >= _LARGE and min(matrix.shape) > 1
    return min(subject.data.engine.share_of_noise(name, matrix), 1.0) if large else 1.0


def _alike(sizes: Mapping[str, float], alike: Mapping[str, str]) -> dict[str, float]:
    """With one size, the geometric mean, for all that may stand on the same."""
    groups = defaultdict[str, list[str]](list)
    for name in sizes:
        groups[alike.get(name, name)].append(name)
    means = {base: math.exp(sum(math.log(sizes[n]) for n in names) / len(names)) for base, names in groups.items()}
    return {name: means[alike.get(name, name)] for name in sizes}
