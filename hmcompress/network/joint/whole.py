"""All numbers of a network of the user's own as one vector, in float64: its outputs, and their Gauss-Newton matrix."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hmcompress.errors import NetworkError
from hmcompress.hmatrix.grids import compact
from hmcompress.hmatrix.grids.grid import Grid
from hmcompress.layers import from_matrices, to_matrices
from hmcompress.network.bound.error import evaluate, scaled
from hmcompress.network.bound.problem import Problem
from hmcompress.network.layerwise.coded import Coded, Compact, Slices, lossless
from hmcompress.network.layerwise.original import Original
from hmcompress.network.layerwise.propagate import Parts, tensors_of, without_dead_rows
from hmcompress.network.model.formulas import Formulas
from hmcompress.network.model.network import in_double

CHUNK, _SAMPLES = 64, 20  # rows of a Jacobian at once, and samples: each row is found for all of them
_PRODUCTS = 2_000_000  # numbers times samples squared: of few numbers, more samples take hardly longer than these
_WRITTEN = 5e6  # numbers that all rows of a chunk write for all of its samples
_GATHERED = 2048  # that are multiplied at once


@dataclass(frozen=True)
class Section:
    """One matrix among the numbers: a dense layer with its bias, or a slice of another weight; a vector is a column."""

    name: str
    shape: tuple[int, int]
    places: np.ndarray  # (m n,) in the vector of all numbers

    @property
    def is_vector(self) -> bool:
        return min(self.shape) == 1


class Whole:
    """The numbers of all weights that are to be coded, and the network as a function of them.

    Raises NetworkError where the network cannot be copied or does not run in float64.
    """

    def __init__(self, problem: Problem, data: Original) -> None:
        self.network, kind = in_double(problem.network), problem.settings.tolerance
        self._unread = {name: w for name, w in data.others.items() if not data.other_sensitivities[name]}
        self._standing = data.standing
        self._others = {name: w for name, w in data.others.items() if name not in self._unread}
        matrices = [(layer.weight, self.network.matrix(layer)) for layer in self.network.layers]
        others = [(name, w) for name in self._others for w in to_matrices(data.others[name]).double()]
        self.sections = _sections([*others, *matrices])
        self.start = torch.cat([w.reshape(-1) for _, w in [*others, *matrices]])
        self.points = problem.calibration.points.to(torch.float64)
        outputs = evaluate(self.network, self.points, 0)
        self._scale = lambda y: scaled(kind, outputs, [y])[0]
        self.outputs = self._scale(outputs[0]).detach()  # of some modules that take gradients themselves

    def tensors(self, theta: Tensor) -> dict[str, Tensor]:
        """Of the network, by their names."""
        parts = theta.split([len(section.places) for section in self.sections])
        matrices = [part.reshape(section.shape) for section, part in zip(self.sections, parts, strict=True)]
        whole = {section.name: matrix for section, matrix in zip(self.sections, matrices, strict=True)}
        for name, w in self._others.items():
            slices = [m for section, m in zip(self.sections, matrices, strict=True) if section.name == name]
            whole[name] = from_matrices(torch.stack(slices), w.shape, torch.complex128 if w.is_complex() else w.dtype)
        return {**self._standing, **tensors_of(self.network, whole)}

    def error(self, theta: Tensor) -> float:
        """Squared relative error on all calibration points; inf where something is not finite."""
        try:
            (y,) = evaluate(self.network, self.points, 0, self.tensors(theta))
        except NetworkError:
            return math.inf
        error = float((self._scale(y).detach() - self.outputs).square().sum())
        return error if math.isfinite(error) else math.inf

    def normal(self, theta: Tensor, live: Tensor, rows: int, coarse: bool = False) -> tuple[Tensor, Tensor]:
        """J^T J (`coarse`: in single precision) and J^T r of the numbers that `live` says, from about so many rows: of
        outputs, or of random projections of each sample's where that leaves more samples."""
        samples, outputs = self.outputs.shape
        each = min(max(rows // samples, 1), outputs)
        samples, count = min(max(rows // each, 1), samples), int(live.sum())
        found, gathered = torch.zeros(count, count, dtype=torch.float32 if coarse else torch.float64), list[Tensor]()
        gradient = torch.zeros(count).double()
        at_once = samples_at_once(count, self.network.written)
        generator, step = torch.Generator().manual_seed(0), max(min(CHUNK // each, at_once), 1)
        for begin in range(0, samples, step):
            part = slice(begin, min(begin + step, samples))
            signs = torch.randint(0, 2, (part.stop - begin, each, outputs), generator=generator).double() * 2 - 1
            signs = torch.eye(outputs).double().expand(len(signs), -1, -1) if each == outputs else signs / each**0.5
            residual, jacobian = self._jacobian(theta, part, signs)
            jacobian = jacobian[:, live]
            gradient.addmv_(jacobian.T, residual)
            gathered.append(jacobian.to(found.dtype))
            if sum(map(len, gathered)) >= _GATHERED or part.stop == samples:
                block = torch.cat(gathered)
                found.addmm_(block.T, block)
                gathered = []
        if not torch.isfinite(gradient).all() or not torch.isfinite(found.diagonal()).all():
            raise NetworkError("half compressed, the network gives nan or inf")
        share = len(self.points) / samples
        return share * found.double(), share * gradient

    def _jacobian(self, theta: Tensor, part: slice, signs: Tensor) -> tuple[Tensor, Tensor]:
        """What is missing in signs (n, q, k) times some samples' outputs (n, k), and their derivatives (n q, P)."""
        theta = theta.clone().requires_grad_()
        with torch.enable_grad(), Formulas(0):
            y = (signs @ self._run(theta, part)[:, :, None]).reshape(-1)
            try:
                (found,) = torch.autograd.grad(y, theta, torch.eye(len(y), dtype=y.dtype), is_grads_batched=True)
            except RuntimeError as error:  # on its way back it takes gradients itself
                raise NetworkError("the network's gradients are found one by one alone") from error
        return (signs @ self.outputs[part][:, :, None]).reshape(-1) - y.detach(), found

    def _run(self, theta: Tensor, part: slice) -> Tensor:
        """Scaled outputs of some samples, with gradients."""
        y = self._scale(self.network.call(self.points.take(part).tensors, self.tensors(theta)))
        if not y.requires_grad:
            raise NetworkError("the network runs without gradients")
        return y

    def work(self) -> int:
        """Operations of one sample on the way back: of networks that call their layers often, there are many."""
        with torch.enable_grad(), Formulas(0):
            y = self._run(self.start.clone().requires_grad_(), slice(0, 1))
        seen, left = set[object](), [y.grad_fn]
        while left:
            node = left.pop()
            if node is not None and node not in seen:
                seen.add(node)
                left += [before for before, _ in node.next_functions]
        return len(seen)

    def parts(self, grids: Sequence[Grid]) -> Parts:
        """The coded weights that a grid for each section stands for."""
        coded: dict[str, list[Coded]] = {}
        for section, grid in zip(self.sections, grids, strict=True):
            coded.setdefault(section.name, []).append(Compact(compact.canonical(grid)))
        parts: Parts = {name: found[0] for name, found in coded.items()}
        for name, w in self._others.items():
            parts[name] = Slices(tuple(coded[name]), tuple(w.shape), w.dtype)
        kept: Parts = {name: lossless(w) for name, w in self._unread.items()}
        return without_dead_rows(self.network, parts | kept)


def samples_at_once(numbers: int, written: float) -> int:
    """Of which rows of a Jacobian are found together, where a sample's forward pass writes so many numbers."""
    return max(_SAMPLES, math.isqrt(min(_PRODUCTS // max(numbers, 1), int(_WRITTEN / max(written, 1.0)))))


def numbers(problem: Problem, data: Original) -> int:
    """How many numbers the weights that are to be coded hold."""
    own = sum(problem.network.matrix(layer).numel() for layer in problem.network.layers)
    return own + sum(w.numel() * (2 if w.is_complex() else 1) for w in data.others.values())


def _sections(matrices: Sequence[tuple[str, Tensor]]) -> list[Section]:
    sections, begin = list[Section](), 0
    for name, w in matrices:
        sections.append(Section(name, (w.shape[0], w.shape[1]), np.arange(begin, begin + w.numel())))
        begin += w.numel()
    return sections
