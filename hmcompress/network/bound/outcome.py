"""What the report says about the network once its decoded tensors are in it."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from hmcompress.errors import NetworkError
from hmcompress.network.bound.error import Reference, block_errors, evaluate
from hmcompress.network.bound.growth import growth_of_layers
from hmcompress.network.bound.kernel_bound import TangentBound
from hmcompress.network.bound.problem import Problem, reference_error
from hmcompress.network.model.kept import KeptTensor
from hmcompress.network.model.modules import Activation, Stack
from hmcompress.network.model.network import Network
from hmcompress.report.lines import fresh_line
from hmcompress.report.records import NetworkRecord, ReferenceRecord
from hmcompress.report.verdicts import VerifyNetwork
from hmcompress.settings.config import Settings
from hmcompress.settings.problem_settings import InputsCalibration

_FEW = 4  # samples by themselves
_ONE_OF, _MOST_OF_IT = 100, 0.5  # samples, the worst of which carry more than this share of the squared error
_SHARED = 0.05  # of the held-out points that may be calibration points
LUCKY = 1.1  # times the tolerance, which calibration points may show by chance
_TOO_FEW = 1.3  # held-out over calibration error at which more samples are asked for


def measure(problem: Problem, settings: Settings, decoded: Mapping[str, Tensor]) -> NetworkRecord:
    """What the report says about the network with decoded tensors in it; see also `with_changed_inputs`."""
    calibration = problem.errors(problem.calibration, decoded)
    held_out = problem.errors(problem.held_out, decoded)
    record = NetworkRecord(
        tol=settings.tol,
        error=max(held_out),
        calibration_error=max(calibration),
        samples=len(problem.calibration.points),
        seed=problem.settings.seed,
        layers=growth_of_layers(problem, decoded),
    ).with_errors(held_out)
    if settings.ntk_bound is not None:
        record = replace(record, ntk=TangentBound.of(problem, settings.ntk_bound).record(decoded))
    if problem.network.built_in:
        record = replace(record, rate_limit_bytes=problem.rate_limit.nbytes(settings.tol))
    if settings.reference is not None:
        before = reference_error(problem, settings.reference, {})
        after = reference_error(problem, settings.reference, decoded)
        record = replace(record, reference=ReferenceRecord(before, after))
    return record


def with_changed_inputs(
    problem: Problem, record: NetworkRecord, decoded: Mapping[str, Tensor]
) -> tuple[NetworkRecord, list[str]]:
    """The record with errors on inputs that are reported, not bounded, and one line for each that is left blank: there
    the original may leave the domain of a logarithm."""
    (widened, wide_note), (noisy, noise_note) = (
        _changed_inputs(problem, decoded, "domain widened by 10 %", problem.reference_widened),
        _changed_inputs(problem, decoded, "1 % noise on the inputs", problem.reference_noisy),
    )
    return replace(record, widened_error=widened, noisy_error=noisy), [*wide_note, *noise_note]


def _changed_inputs(
    problem: Problem, decoded: Mapping[str, Tensor], what: str, posed: Callable[[], Reference | None]
) -> tuple[float | None, list[str]]:
    try:
        ref = posed()
        return (None if ref is None else problem.errors(ref, decoded)[0]), []
    except NetworkError as broken:
        return None, [f"{what}: not measured, {broken}"]


def too_few_samples(record: NetworkRecord) -> str | None:
    """One line where the calibration points do not stand for the others."""
    if record.error <= _TOO_FEW * record.calibration_error:
        return None
    ratio = record.error / record.calibration_error if record.calibration_error else math.inf
    return (
        f"held-out error {record.error:.3g} is {ratio:.1f} times the calibration "
        f"error: raise calibration samples above {record.samples} for a smaller file"
    )


def lucky_points(record: NetworkRecord) -> str | None:
    """One line where the points that the weights were fitted to show a larger error than the held-out ones may."""
    if record.calibration_error <= LUCKY * record.tol:
        return None
    return (
        f"calibration points show an error of {record.calibration_error:.3g}, above the tolerance: held-out points "
        "miss what is rare, and more of them (held_out) make the bound surer"
    )


def about_the_points(problem: Problem, settings: Settings) -> tuple[str | None, ...]:
    """Lines about what points and outputs the bound is measured on."""
    about = nearly_constant(problem, settings), samples_together(problem, settings)
    return (*about, points_in_both(problem), changing_itself(problem), experts(problem, settings))


def nearly_constant(problem: Problem, settings: Settings) -> str | None:
    """One line where outputs that are the same for all samples would hold the bound."""
    y = problem.held_out.blocks[0]
    error = block_errors(problem.settings.tolerance, [y], [y.mean(0).expand_as(y)])[0]
    if problem.order or settings.ntk_bound is not None or error > settings.tol:
        return None
    return (
        f"the outputs differ from their mean over the samples by {error:.2g} of their size, which the tolerance "
        "allows: give a factory whose module takes off what all samples share, or a smaller tolerance"
    )


def samples_together(problem: Problem, settings: Settings) -> str | None:
    """One line where a sample's outputs depend on the samples that are run beside it."""
    points, y = problem.held_out.points, problem.held_out.blocks[0]
    rows, left = divmod(len(y), len(points))  # of a sample, as of the nodes of a graph
    middle = len(points) // 2  # either end of a sequence may not tell
    if problem.network.built_in or middle < _FEW or left:
        return None
    among = y[middle * rows : (middle + _FEW) * rows]
    try:
        alone = evaluate(problem.network, points.take(slice(middle, middle + _FEW)), 0)[0]
    except NetworkError:  # of so few samples
        return None
    error = block_errors("l2", [among], [alone])[0] if alone.shape == among.shape else 0.0
    if error <= settings.tol:
        return None
    return (
        f"a sample's outputs differ by {error:.2g} with the samples beside it: is the first axis of the inputs that of "
        "the samples (batch_first)? The bound is that of batches as they were run"
    )


def points_in_both(problem: Problem) -> str | None:
    """One line where rows of a file repeat, so that what is learned from is measured on as well."""
    points = problem.held_out.points
    count = points.among(problem.calibration.points) if isinstance(problem.settings, InputsCalibration) else 0
    if count <= _SHARED * len(points):
        return None
    return (
        f"{count} of {len(points)} held-out points are calibration points too, as rows of the inputs repeat: the bound "
        "says less about other inputs; give each row once to bound those"
    )


def changing_itself(problem: Problem) -> str | None:
    """One line where outputs depend, by little, on what earlier calls left in the module."""
    network, points = problem.network, problem.held_out.points.take(slice(0, _FEW))
    changing = [t for t in network.kept if isinstance(t, KeptTensor)]
    if not changing:
        return None
    first = evaluate(network, points, 0)
    again = [evaluate(replace(network, kept=()), points, 0) for _ in range(2)][-1]
    if all(torch.equal(a, b) for a, b in zip(first, again, strict=True)):
        return None
    others = " and others" if len(changing) > 1 else ""
    return (
        f"the network changes its own {changing[0].place}{others} with each call: the bound is that of a first call, "
        "from what the checkpoint holds"
    )


def experts(problem: Problem, settings: Settings) -> str | None:
    """One line where a sample that other weights send to another expert would be a larger error than is allowed, and so
    rare that points need not show it."""
    seen, count = problem.network.routed, len(problem.held_out.points)
    one = 1 / count**0.5
    if not seen or one <= settings.tol:
        return None
    see = "1 layer sees" if len(seen) == 1 else f"{len(seen)} layers see"
    return (
        f"{see} some samples only, as experts do: one of {count} samples that goes to others is an "
        f"error of up to about {one:.2g}, and rarer ones no held-out point shows; more of these (held_out) make "
        "the bound surer"
    )


def few_carry_the_error(problem: Problem, decoded: Mapping[str, Tensor]) -> str | None:
    """One line where the error on the held-out points is that of a few of them: others may show a larger one."""
    share, few = _share_of_few(problem, problem.held_out, decoded)
    if share <= _MOST_OF_IT:
        return None
    return (
        f"{share:.0%} of the squared error lies on {few} of {len(problem.held_out.points)} held-out points: others "
        "like these may show a larger one, and more held_out points make the bound surer"
    )


def outputs_that_jump(problem: Problem, record: NetworkRecord, decoded: Mapping[str, Tensor]) -> str | None:
    """One line where noise shows, on a few points, an error that held-out points hide: outputs that are rounded, or
    chosen, jump on the way from one to the next, which is as rare as it is large."""
    if record.noisy_error is None or record.noisy_error <= LUCKY * record.tol:
        return None
    noisy = problem.reference_noisy()
    assert noisy is not None
    share, few = _share_of_few(problem, noisy, decoded)
    if share <= _MOST_OF_IT:
        return None
    return (
        f"1 % noise on the inputs gives an error of {record.noisy_error:.2g}, {share:.0%} of its square on {few} of "
        f"{len(noisy.points)} points: outputs that jump there may do so on other points without noise, and more "
        "held_out points make the bound surer"
    )


def _share_of_few(problem: Problem, ref: Reference, decoded: Mapping[str, Tensor]) -> tuple[float, int]:
    """Of the squared error the share that a hundredth of the points carries, and how many these are; 0 where few."""
    points, y = ref.points, ref.blocks[0]
    few = len(points) // _ONE_OF
    if problem.settings.tolerance != "l2" or few < 1 or len(y) % len(points):
        return 0.0, few
    off = evaluate(problem.network, points, 0, decoded)[0] - y
    squares = off.reshape(len(points), -1).square().sum(1)
    return float(squares.topk(few).values.sum() / squares.sum().clamp_min(1e-300)), few


def fresh_points(problem: Problem, record: NetworkRecord, decoded: Mapping[str, Tensor]) -> str | None:
    """One line where fresh points show a larger error."""
    try:
        error = problem.fresh_error(decoded)
    except NetworkError as broken:  # the bound holds all the same
        return f"not measured on fresh points: {broken}"
    points = len(problem.held_out.points)
    return fresh_line(VerifyNetwork(record.tol, record.error, fresh_error=error, held_out=points))


def slim_sizes(network: Network, record: NetworkRecord) -> str | None:
    """One line: neurons of each layer and multiplications per sample, before and after; None without known stacks."""
    dead = {layer.name: layer.dead_rows for layer in record.layers}
    before = [(network.shape(s[0])[1], *(network.shape(layer)[0] for layer in s)) for s in network.stacks if s]
    after = [(network.shape(s[0])[1], *(network.shape(x)[0] - dead[x.weight] for x in s)) for s in network.stacks if s]
    if not before:
        return None
    shown = [", ".join("-".join(map(str, sizes)) for sizes in stacks) for stacks in (before, after)]
    counts = [sum(m * n for sizes in stacks for n, m in pairwise(sizes)) for stacks in (before, after)]
    return f"slim: {shown[0]} -> {shown[1]}, {counts[0]:,} -> {counts[1]:,} multiplications per sample"


def read_as(network: Network, settings: Settings) -> str | None:
    """One line: as which function a checkpoint's weights were read, where nothing checks it."""
    stacks = [part for part in network.module.modules() if isinstance(part, Stack)]
    if settings.reference is not None or network.kind not in ("mlp", "deeponet"):
        return None
    parts = [_shown(stack) for stack in stacks]
    shown = parts[0] if network.kind == "mlp" else f"branch {parts[0]} times trunk {parts[1]}"
    return (
        f"network read as {shown}; factors that are no weights (2 pi, w0, output transforms) are not in it: give "
        "reference: to check it"
    )


def _shown(stack: Stack) -> str:
    """`2-64-64-1, tanh after each layer but the last`, and what comes before the first."""
    layers = [cast(nn.Linear, layer) for layer in stack.layers]
    sizes = "-".join(map(str, (layers[0].in_features, *(layer.out_features for layer in layers))))
    features = stack.features
    before = "(x - mean) / std, " if features.mean is not None or features.std is not None else ""
    before += "[sin(x B), cos(x B)], " if features.frequencies is not None else ""
    if not stack.activations:
        return before + sizes
    last = "" if stack.last else " but the last"
    return f"{before}{sizes}, {cast(Activation, stack.activations[0]).name} after each layer{last}"
