"""The bound on the tangent kernel: the original's kernel once, each candidate's error against it."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from hmcompress.errors import NetworkError
from hmcompress.network.bound.ntk import Kernel, tangent_kernel, training_curves
from hmcompress.network.bound.problem import Problem
from hmcompress.network.model.inputs import Points
from hmcompress.network.model.network import Network
from hmcompress.report.records import Curves, NtkRecord
from hmcompress.settings.problem_settings import Ntk

_DIGITS = 6
_ALIKE = 0.05  # of the original's loss


@dataclass(frozen=True)
class TangentBound:
    """A tolerance on the relative Frobenius error of the kernel on held-out points."""

    tol: float
    settings: Ntk
    network: Network
    points: Points
    original: Kernel

    @classmethod
    def of(cls, problem: Problem, settings: Ntk) -> "TangentBound":
        network = problem.network.with_all_layers()
        if not network.layers:
            raise NetworkError("ntk: the network has no dense layer whose gradients are known; write ntk: off")
        points = problem.held_out.points.pairs(settings.samples)
        return cls(settings.tol, settings, network, points, tangent_kernel(network, points))

    def error(self, tensors: Mapping[str, Tensor]) -> float:
        """Relative Frobenius error of the kernel with some tensors replaced."""
        return self.original.error(tangent_kernel(self.network, self.points, tensors))

    def trains_alike(self, tensors: Mapping[str, Tensor]) -> bool:
        """Whether losses stay within some per cent of the original's, or none are asked for."""
        curves = self._curves(tensors)
        return curves is None or all(abs(b - a) <= _ALIKE * a for a, b in zip(*curves, strict=True))

    def _curves(self, tensors: Mapping[str, Tensor]) -> tuple[list[float], list[float]] | None:
        if not self.settings.training:
            return None
        return training_curves(self.network, self.points, self.settings.training, tensors, self.original)

    def record(self, tensors: Mapping[str, Tensor]) -> NtkRecord:
        """What the report says about the kernel."""
        kernel = tangent_kernel(self.network, self.points, tensors)
        before, after = self.original.spectrum(), kernel.spectrum()
        curves = self._curves(tensors)
        return NtkRecord(
            tol=self.tol,
            samples=len(self.points),
            error=self.original.error(kernel),
            alignment=self.original.alignment(kernel),
            min_eigenvalue=float(after[-1] / after[0].clamp_min(1e-300)),
            trace_ratio=self.original.trace_ratio(kernel),
            spectra=Curves(_digits(before.tolist()), _digits(after.tolist())),
            training=None if curves is None else Curves(_digits(curves[0]), _digits(curves[1])),
        )


def _digits(values: list[float]) -> tuple[float, ...]:
    return tuple(float(f"{value:.{_DIGITS}g}") for value in values)
