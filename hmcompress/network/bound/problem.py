"""Everything about a network that the search, the report and verify share: points, original outputs, tolerances."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from hmcompress.errors import NetworkError
from hmcompress.network.bound.anew import computing_anew
from hmcompress.network.bound.error import Reference, block_errors, evaluate, network_error, reference
from hmcompress.network.bound.ntk import RateLimit
from hmcompress.network.model.arguments import Arguments, give_by_name, inputs_of, split_columns
from hmcompress.network.model.arrays import read_arrays
from hmcompress.network.model.build import build_network
from hmcompress.network.model.curvature import check_derivatives
from hmcompress.network.model.forward_size import forward_size
from hmcompress.network.model.gradients_known import without_unknown_gradients
from hmcompress.network.model.inputs import Points, Source
from hmcompress.network.model.kept import KeptTensor, before_any_call, changed_states, states
from hmcompress.network.model.network import Network
from hmcompress.network.model.order import in_order_of_computation
from hmcompress.network.model.routed import with_routed
from hmcompress.settings.config import Settings
from hmcompress.settings.problem_settings import CalibrationSettings, DomainCalibration

_LIMIT_ROWS = 1024
_REPEATED, _FEWEST = 64, 8  # samples that are run twice, at most and at least
_WRITTEN = 1e8  # numbers that a network writes meanwhile, about
_COUNTED = 61  # samples whose rows are counted: few outputs are as many
_STEADY = 0.1  # of the tolerance
_WRONG = 0.5  # an original that misses its own reference by more is another network


@dataclass(frozen=True)
class Problem:
    """A network with calibration and held-out points, and its original outputs on both."""

    network: Network
    source: Source
    calibration: Reference
    held_out: Reference
    settings: CalibrationSettings

    @property
    def order(self) -> int:
        return self.settings.derivatives

    @cached_property
    def rate_limit(self) -> RateLimit:
        """On the first calibration points; with attention and many neurons it takes as long as a few passes."""
        return RateLimit.of(self.network, self.calibration.points.pairs(_LIMIT_ROWS))

    def errors(self, ref: Reference, tensors: Mapping[str, Tensor]) -> list[float]:
        """Errors of the outputs and of each derivative on some points with some tensors replaced."""
        return network_error(self.network, ref, self.order, self.settings.tolerance, tensors)

    def fresh_error(self, tensors: Mapping[str, Tensor]) -> float:
        """On points that neither the search nor the bound has seen. NetworkError: the original has no outputs there."""
        return max(self.errors(self.reference(self.source.fresh(), "fresh"), tensors))

    def reference_noisy(self) -> Reference | None:
        """Held-out points under 1 % noise, the original sees the same; None where all inputs are whole numbers."""
        if not any(t.is_floating_point() for t in self.held_out.points.tensors):
            return None
        return self.reference(self.held_out.points.noisy(self.settings.seed), "noisy")

    def reference_widened(self) -> Reference | None:
        """Points on a domain 10 % wider, where there is a domain."""
        points = self.source.widened()
        return None if points is None else self.reference(points, "widened")

    def reference(self, points: Points, what: str) -> Reference:
        """The original's outputs on further points, where nothing is bounded. Raises NetworkError as `reference`."""
        return reference(self.network, points, self.order, what, advice=False)


def pose(settings: Settings, tensors: Mapping[str, Tensor], source: Path | None = None) -> Problem:
    """Build the network and run the original. Raises NetworkError with one clear line.

    source: the checkpoint's file, which a TorchScript archive needs to run itself.
    """
    network = build_network(settings, tensors, source)
    assert settings.calibration is not None
    supply, order = _supply(network, settings.calibration), settings.calibration.derivatives
    points = supply.calibration()
    untouched = None if network.built_in else before_any_call(network.module)
    before = {} if network.built_in else states(network.module)
    network = _checked(network, points, settings.calibration)
    network = replace(network, kept=changed_states(network.module, before))
    calibration = reference(network, points, order, "calibration")
    _check_repeats(network, points, settings)
    if untouched is not None:
        network = computing_anew(network, untouched, points.take(slice(0, _FEWEST)).tensors)
    held_out = reference(network, supply.held_out(), order, "held-out")
    problem = Problem(network, supply, calibration, held_out, settings.calibration)
    if settings.reference is not None:
        reference_error(problem, settings.reference, {})
    return problem


def _supply(network: Network, settings: CalibrationSettings) -> Source:
    """Where points for the network come from; its module takes them as they come."""
    if network.cartesian and isinstance(settings, DomainCalibration):
        raise NetworkError(
            "calibration: a DeepONet needs functions and points: give inputs: FILE with branch and trunk"
        )
    arguments = Arguments.of(network.module)
    supply = Source(settings, network.cartesian, network.dtype, arguments)
    if isinstance(settings, DomainCalibration) and not network.built_in:
        split_columns(network.module, arguments, list(settings.domain))
    give_by_name(network.module, arguments, supply.names)
    return supply


def _checked(network: Network, points: Points, settings: CalibrationSettings) -> Network:
    """The network with its layers in order, if it takes the points and has the derivatives that are asked for."""
    _check_inputs(network, points, settings)
    if settings.derivatives and not points.tensors[-1].is_floating_point():
        raise NetworkError("calibration: derivatives: the last input holds whole numbers, by which there are none")
    network = in_order_of_computation(network, points.take(slice(0, 2)).tensors)
    if not network.built_in:
        network = without_unknown_gradients(network, points.take(slice(0, 2)).tensors)
        # few numbers for each neuron of a built-in one, and counting takes a second
        network = replace(network, written=forward_size(network, points).numbers)
    _check_rows(network, points.take(slice(0, _COUNTED)))
    network = with_routed(network, points.take(slice(0, _COUNTED)).tensors)
    if settings.derivatives:
        check_derivatives(network, points, settings.derivatives)
    return network


def _check_rows(network: Network, points: Points) -> None:
    """Raise NetworkError where the outputs of several samples have become one; a sample may have several rows."""
    shapes, count = network.shapes(points.tensors), len(points)
    if any((shape and shape[0] % count == 0) or count in shape for shape in shapes):
        return
    shown = " and ".join(map(str, shapes))
    raise NetworkError(
        f"the network returns {shown} for {count} samples: no axis has one entry a sample, so what it returns is of "
        "the batch and not of each sample; does it average or sum over the first axis?"
    )


def _repeated(network: Network) -> int:
    """Samples that are run twice, fewer where each takes long."""
    return min(max(int(_WRITTEN / max(network.written, 1.0)), _FEWEST), _REPEATED)


def _check_repeats(network: Network, points: Points, settings: Settings) -> None:
    """Raise NetworkError where the same inputs give other outputs when asked again, after others."""
    remembering, count = replace(network, kept=()), min(_repeated(network), len(points))
    same, others = torch.arange(count), (torch.arange(count) + len(points) // 2) % len(points)
    first, _, second = (evaluate(remembering, points.take(rows), 0) for rows in (same, others, same))
    assert settings.calibration is not None
    error = block_errors(settings.calibration.tolerance, first, second)[0]
    if error > _STEADY * settings.tol:
        why = "does it draw random numbers (dropout in training mode), or keep state between calls?"
        if changed := next((t.place for t in network.kept if isinstance(t, KeptTensor)), None):
            why = f"each call changes its {changed}; have the factory return a module that leaves it as it is"
        raise NetworkError(
            f"the network's outputs differ by {error:.2g} from one call to the next, so no bound can hold: {why}"
        )


def _check_inputs(network: Network, points: Points, settings: CalibrationSettings) -> None:
    expected = network.widths
    if expected is None:
        return
    widths = [t.shape[-1] if t.ndim > 1 else 1 for t in points.tensors]
    if len(widths) != len(expected):
        raise NetworkError(f"calibration gives {len(widths)} inputs but the network takes {len(expected)}")
    what = f" ({', '.join(settings.domain)})" if isinstance(settings, DomainCalibration) else ""
    for given, wanted in zip(widths, expected, strict=True):
        if given != wanted:
            raise NetworkError(f"calibration gives points of {given} coordinates{what}, the network takes {wanted}")


def reference_error(problem: Problem, file: str, tensors: Mapping[str, Tensor]) -> float:
    """Relative L2 error against exact solutions in a file with x (or several inputs) and y.

    Raises NetworkError where the original network itself is far from them.
    """
    arrays = read_arrays(file, "reference: ")
    if "y" not in arrays:
        raise NetworkError(f"reference: {file} has no y, it has {', '.join(list(arrays)[:6])}")
    y = torch.as_tensor(arrays["y"]).double()
    given = {name: a for name, a in arrays.items() if name != "y"}
    arguments, names = Arguments.of(problem.network.module), problem.source.names
    found = inputs_of(given, arguments, file)
    if list(found) != names and arguments.by_name(names):
        raise NetworkError(f"reference: {file} holds {', '.join(found)}, the calibration {', '.join(names)}")
    inputs = tuple(map(torch.as_tensor, found.values()))
    points = Points(inputs, not problem.network.cartesian).to(problem.network.dtype)
    _check_inputs(problem.network, points, problem.settings)
    outputs = evaluate(problem.network, points, 0, tensors)[0]
    if outputs.numel() != y.numel():
        raise NetworkError(f"reference: y has {y.numel()} values, the network gives {outputs.numel()}")
    error = float((outputs.reshape(-1) - y.reshape(-1)).norm() / y.norm())
    if not tensors and not error <= _WRONG:
        raise NetworkError(
            f"the original network is {100 * error:.3g} % off the reference {file}: is its activation right?"
        )
    return error
