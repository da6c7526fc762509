"""Where a network's inputs come from: boxes, Gaussians, files; calibration and held-out points are disjoint."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hmcompress.errors import NetworkError
from hmcompress.network.model.arguments import UNNAMED, Arguments, inputs_of
from hmcompress.network.model.arrays import read_arrays
from hmcompress.network.model.network import Inputs
from hmcompress.settings.problem_settings import (
    CalibrationSettings,
    DomainCalibration,
    Gaussian,
    GaussianCalibration,
    InputsCalibration,
)

_WIDER = 0.1
_NOISE = 0.01
_FRESH = 7919  # added to the seed for points that neither the search nor the report has seen
_GUARD = 4  # the fold that the search chooses nothing by


@dataclass(frozen=True)
class Points:
    """Inputs of a network, one tensor each; `joint`: they share their first axis, sample by sample."""

    tensors: Inputs
    joint: bool = True

    def __len__(self) -> int:
        return len(self.tensors[0])

    def take(self, rows: Tensor | slice) -> "Points":
        """Some of the samples; where inputs are not joint, those of the first."""
        if self.joint:
            return Points(tuple(t[rows] for t in self.tensors), True)
        return Points((self.tensors[0][rows], *self.tensors[1:]), False)

    def pairs(self, count: int) -> "Points":
        """`count` samples with one row of each input: where inputs are not joint, they are combined at random, each
        sample of the first once where there are as many."""
        if self.joint:
            return self.take(slice(0, count))
        generator = torch.Generator().manual_seed(0)
        rows = [torch.randint(len(t), (count,), generator=generator) for t in self.tensors]
        rows[0] = torch.arange(count) if count <= len(self) else rows[0]
        return Points(tuple(t[r] for t, r in zip(self.tensors, rows, strict=True)), True)

    def among(self, others: "Points") -> int:
        """How many samples are samples of the others too, number for number."""
        known = set(others._as_bytes())
        return sum(sample in known for sample in self._as_bytes())

    def _as_bytes(self) -> Iterator[bytes]:
        """Each sample; where inputs are not joint, of the first."""
        kept = self.tensors if self.joint else self.tensors[:1]
        parts = [t.reshape(len(t), -1).contiguous().view(torch.uint8).numpy() for t in kept]
        return (b"".join(part[k].tobytes() for part in parts) for k in range(len(self)))

    def to(self, dtype: torch.dtype) -> "Points":
        return Points(tuple(_in_precision(t, dtype) for t in self.tensors), self.joint)

    def noisy(self, seed: int) -> "Points":
        """The same with Gaussian noise of 1 % of each input's standard deviation."""
        generator = torch.Generator().manual_seed(seed)

        def add(t: Tensor) -> Tensor:
            if not t.is_floating_point() or len(t) < 2:
                return t
            return t + _NOISE * t.std(0, keepdim=True) * torch.randn(t.shape, generator=generator, dtype=t.dtype)

        return Points(tuple(add(t) for t in self.tensors), self.joint)


def _in_precision(t: Tensor, dtype: torch.dtype) -> Tensor:
    """Real and complex numbers in the network's precision; whole numbers as they are."""
    if t.is_complex():
        return t.to(torch.complex128 if dtype == torch.float64 else torch.complex64)
    return t.to(dtype) if t.is_floating_point() else t


class Source:
    """A supply of points: disjoint folds for calibration, held-out error, the search's last check and fresh ones."""

    def __init__(
        self, settings: CalibrationSettings, cartesian: bool, dtype: torch.dtype, arguments: Arguments = UNNAMED
    ) -> None:
        self.settings = settings
        self._dtype = dtype
        self._joint = not cartesian
        self.names: list[str] = []  # of a file's arrays, in the order in which a network takes them
        self._data = None if isinstance(settings, DomainCalibration) else self._arrays(settings, arguments)

    def calibration(self) -> Points:
        return self._fold(0, self.settings.samples)

    def held_out(self) -> Points:
        return self._fold(1, self.settings.held_out)

    def fresh(self) -> Points:
        return self._fold(2, self.settings.held_out)

    def guard(self) -> Points:
        """What the search may look at, but chooses nothing by."""
        return self._fold(_GUARD, self.settings.held_out)

    def more(self, count: int) -> Points | None:
        """Further points to learn from, which no other fold has. None for files, which end."""
        return None if isinstance(self.settings, InputsCalibration) else self._fold(3, count)

    def widened(self) -> Points | None:
        """Held-out points on a domain 10 % wider; a Gaussian gets a wider deviation. None for files."""
        if isinstance(self.settings, DomainCalibration | GaussianCalibration):
            return self._fold(1, self.settings.held_out, 1 + _WIDER)
        return None

    def _fold(self, fold: int, count: int, wider: float = 1.0) -> Points:
        if isinstance(self.settings, DomainCalibration):
            return self._points([_box(self.settings, fold, count, wider)])
        assert self._data is not None
        if isinstance(self.settings, GaussianCalibration):
            return self._points(_random(self._data, self.settings, fold, count, wider, self._joint))
        return self._points(_rows(self._data, self.settings, fold, count, self._joint))

    def _arrays(self, settings: CalibrationSettings, arguments: Arguments) -> list[np.ndarray]:
        if isinstance(settings, GaussianCalibration):
            return _moments(settings.gaussian, read_arrays(settings.gaussian.file, "calibration: gaussian: "))
        assert isinstance(settings, InputsCalibration)
        found = inputs_of(read_arrays(settings.inputs, "calibration: inputs: "), arguments, settings.inputs)
        self.names = list(found)
        return list(found.values())

    def _points(self, arrays: Iterable[np.ndarray]) -> Points:
        tensors = tuple(torch.as_tensor(a) for a in arrays)
        return Points(tensors, self._joint or len(tensors) == 1).to(self._dtype)


def _box(settings: DomainCalibration, fold: int, count: int, wider: float) -> np.ndarray:
    """Scrambled Sobol points; folds are different stretches of one sequence, so they share no point."""
    from scipy.stats import qmc  # here: it takes longer to import than all the rest

    low, high = np.array(list(settings.domain.values()), np.float64).T
    sobol = qmc.Sobol(len(low), seed=settings.seed + _FRESH * max(fold - 1, 0))
    skipped = settings.samples if fold else 0
    unit = sobol.random_base2(int(np.ceil(np.log2(skipped + count))))[skipped : skipped + count]
    middle, half = (low + high) / 2, wider * (high - low) / 2
    return middle + half * (2 * unit - 1)


def _random(
    arrays: list[np.ndarray], settings: GaussianCalibration, fold: int, count: int, wider: float, joint: bool
) -> list[np.ndarray]:
    """Draws from the Gaussian, and rows of the further inputs, one a draw unless every draw meets all of them."""
    mean, root, *further = arrays
    random = np.random.default_rng(settings.seed + _FRESH * fold)
    drawn = mean + wider * random.standard_normal((count, root.shape[1])) @ root.T
    rows = [points[random.integers(len(points), size=count)] if joint else points for points in further]
    return [drawn.reshape(count, *(settings.gaussian.shape or mean.shape)), *rows]


def _rows(
    arrays: list[np.ndarray], settings: CalibrationSettings, fold: int, count: int, joint: bool
) -> list[np.ndarray]:
    """Disjoint rows of every array, shuffled by the seed: at most half are not learned from."""
    lengths = {len(a) for a in arrays}
    if joint and len(lengths) > 1:
        shown = " and ".join(map(str, sorted(lengths)))
        raise NetworkError(f"calibration: the inputs have {shown} samples, one row of each makes a sample")
    return [_part(a, settings, fold, count) if joint or k == 0 else a for k, a in enumerate(arrays)]


def _part(array: np.ndarray, settings: CalibrationSettings, fold: int, count: int) -> np.ndarray:
    order = np.random.default_rng(settings.seed).permutation(len(array))
    held, other = min(settings.held_out, len(array) // 4), min(settings.held_out, len(array) // 8)
    ends = np.cumsum([0, held, other, other])
    places = {1: slice(0, held), _GUARD: slice(*ends[1:3]), 2: slice(*ends[2:4]), 0: slice(ends[3], None)}
    chosen = order[places[fold]]
    if not len(chosen):
        raise NetworkError(f"calibration: the file has {len(array)} rows, at least 8 are needed for disjoint folds")
    return array[chosen[:count]]


def is_there(settings: CalibrationSettings) -> bool:
    """Whether the file that points come from, if any, can be found."""
    file = file_of(settings)
    return file is None or Path(file).is_file()


def file_of(settings: CalibrationSettings | None) -> str | None:
    """The file that points come from, if any."""
    if settings is None or isinstance(settings, DomainCalibration):
        return None
    return settings.gaussian.file if isinstance(settings, GaussianCalibration) else settings.inputs


def _moments(given: Gaussian, arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Mean (d,), a square root of the covariance (d, r), then the further inputs."""
    mean = _named(arrays, given.mean, given.file).astype(np.float64).reshape(-1)
    if given.shape and math.prod(given.shape) != mean.size:
        raise NetworkError(f"{given.file}: mean has {mean.size} entries, shape {list(given.shape)} does not hold them")
    spread = _named(arrays, given.factor or given.cov, given.file).astype(np.float64)
    root = _factor(spread, mean.size, given) if given.factor else _root(spread, mean.size, given.file)
    return [mean, root, *(_named(arrays, name, given.file) for name in given.points)]


def _named(arrays: dict[str, np.ndarray], name: str, file: str) -> np.ndarray:
    if name not in arrays:
        raise NetworkError(f"{file} has no {name}, it has {', '.join(list(arrays)[:6])}")
    return arrays[name]


def _factor(factor: np.ndarray, size: int, given: Gaussian) -> np.ndarray:
    if factor.ndim != 2 or len(factor) != size:
        raise NetworkError(
            f"{given.file}: mean has {size} entries, so {given.factor} must be {size} x r, got {factor.shape}"
        )
    return factor


def _root(cov: np.ndarray, size: int, file: str) -> np.ndarray:
    """A square root of a covariance, which may be singular."""
    if cov.shape != (size, size):
        raise NetworkError(f"{file}: mean has {size} entries, so cov must be {size} x {size}, got {cov.shape}")
    values, vectors = np.linalg.eigh((cov + cov.T) / 2)
    if values[0] < -1e-6 * max(values[-1], 0):
        raise NetworkError(f"{file}: cov is no covariance, its smallest eigenvalue is {values[0]:.3g}")
    return vectors * np.sqrt(np.maximum(values, 0))
