"""Sentences about a report that terminal and HTML share."""

import math

from hmcompress.report.format import (
    format_bytes,
    format_error,
    format_ratio,
    format_seconds,
    format_tolerance,
    one_line,
)
from hmcompress.report.records import LayerRecord, Leaves, NetworkRecord, Report
from hmcompress.report.verdicts import VerifyLayer, VerifyNetwork, VerifyReport

FEW_POINTS = 1000  # held-out points below which others may differ
DIFFER = 1.1  # fresh over held-out error from which they do
SHOWN = 10

_NORMS = {"fro": "relative Frobenius norm", "spectral": "relative spectral norm", "max": "relative maximum norm"}


LEAF_LETTERS = (("zero", "z"), ("low_rank", "l"), ("quantized", "q"), ("hybrid", "h"))


def leaves_line(leaves: Leaves) -> str:
    """3z 1l 12q: how many leaves there are of each kind, without those that there are none of."""
    return " ".join(f"{getattr(leaves, kind)}{letter}" for kind, letter in LEAF_LETTERS if getattr(leaves, kind))


def headline(report: Report) -> str:
    return f"{format_bytes(report.source_bytes)} -> {format_bytes(report.output_bytes)}, {format_ratio(report.ratio)}"


def settings_line(report: Report) -> str:
    if report.metric == "outputs":
        return f"tolerance {format_tolerance(report.tol)} on the outputs of the network"
    return f"tolerance {format_tolerance(report.tol)} on each layer, {_NORMS.get(report.norm, report.norm)}"


def bound_line(report: Report) -> str:
    """Whether the bounds of the layers hold, and how near the nearest one is."""
    if report.network is not None:
        return _network_bound_line(report.network)
    bounded = [layer for layer in report.layers if layer.tol]
    if not bounded:
        return "No layer has a bound of its own."
    broken = [layer for layer in bounded if _share(layer) > 1]
    if broken:
        return f"{len(broken)} of {len(bounded)} bounds are VIOLATED: {names_line([layer.name for layer in broken])}."
    lossless = sum(layer.error == 0 for layer in bounded)
    if lossless == len(bounded):
        return f"All {len(bounded)} layers are lossless." if len(bounded) > 1 else "The layer is lossless."
    worst = max(bounded, key=_share)
    nearest = f"largest error {math.floor(_share(worst) * 1000) / 1000:.3f} of its tolerance, in {one_line(worst.name)}"
    holds = f"All {len(bounded)} bounds hold" if len(bounded) > 1 else "The bound holds"
    return f"{holds}; {nearest}."


def _network_bound_line(network: NetworkRecord) -> str:
    if not network.passed:
        broken = [what for what, error, tol in _bounds(network) if not error <= tol]
        return f"Bounds on the network are VIOLATED: {', '.join(broken)}."
    shares = ((what, error / tol if tol else 0.0) for what, error, tol in _bounds(network))
    worst, share = max(shares, key=lambda bound: bound[1])
    holds = "All bounds on the network hold" if len(_bounds(network)) > 1 else "The bound on the network holds"
    return f"{holds}; largest error {math.floor(share * 1000) / 1000:.3f} of its tolerance, in {worst}."


def _bounds(network: NetworkRecord) -> list[tuple[str, float, float]]:
    """Rows (what, error, tolerance) of what is bounded."""
    rows = [("outputs on held-out points", network.error, network.tol)]
    rows += [(f"derivative {i}", error, network.tol) for i, error in enumerate(network.derivative_errors, 1)]
    ntk = network.ntk
    return rows + ([("the tangent kernel", ntk.error, ntk.tol)] if ntk is not None and ntk.tol is not None else [])


def overhead_label(report: Report) -> str:
    """What is neither layers nor other tensors."""
    if report.source_overhead < 0:
        return "headers, index, less what is packed"
    dropped = any(line.endswith("dropped on request") for line in report.left_behind)
    return "headers, index, what was dropped" if dropped else "headers, index, plain values"


def _share(layer: LayerRecord) -> float:
    return layer.error / layer.tol if layer.tol else 0.0


def names_line(names: list[str]) -> str:
    """A few names and how many more there are."""
    shown = ", ".join(one_line(name) for name in names[:SHOWN])
    return shown if len(names) <= SHOWN else f"{shown} and {len(names) - SHOWN} more"


def cost_line(report: Report) -> str:
    """Seconds and memory; empty for a report read from a file that does not say."""
    parts = [format_seconds(report.seconds)] if report.seconds else []
    parts += [f"peak memory {format_bytes(report.peak_rss_bytes)}"] if report.peak_rss_bytes else []
    return ", ".join(parts)


def left_behind_lines(report: Report) -> list[str]:
    title = f"Left behind, or kept in another form where it says so ({len(report.left_behind)}):"
    return _listed(title, report.left_behind)


def note_lines(report: Report) -> list[str]:
    return _listed("Note:", report.notes)


def _listed(title: str, items: tuple[str, ...]) -> list[str]:
    if not items:
        return []
    more = len(items) - SHOWN
    lines = [title, *(f"  {one_line(item)}" for item in items[:SHOWN])]
    return lines + ([f"  and {more} more; --json lists all"] if more > 0 else [])


def network_figures(network: NetworkRecord) -> list[tuple[str, str, str]]:
    """Rows (what, error, tolerance) of the network's section."""
    tol = format_tolerance(network.tol)
    alone = network.function_error
    rows = [
        ("held-out points", format_error(network.error), tol),
        *([] if alone is None else [("  the function alone", format_error(alone), "")]),
        (f"calibration points ({network.samples}, seed {network.seed})", format_error(network.calibration_error), ""),
    ]
    extra = (("domain widened by 10 %", network.widened_error), ("1 % noise on the inputs", network.noisy_error))
    rows += [(label, format_error(value), "") for label, value in extra if value is not None]
    rows += [(f"derivative {i}", format_error(e), tol) for i, e in enumerate(network.derivative_errors, 1)]
    if network.reference is not None:
        rows.append(("exact solutions, original network", format_error(network.reference.before), ""))
        rows.append(("exact solutions, compressed network", format_error(network.reference.after), ""))
    return rows + _ntk_figures(network)


def _ntk_figures(network: NetworkRecord) -> list[tuple[str, str, str]]:
    ntk = network.ntk
    if ntk is None:
        return []
    return [
        (f"tangent kernel ({ntk.samples} points)", format_error(ntk.error), format_tolerance(ntk.tol)),
        ("  alignment", f"{ntk.alignment:.4f}", ""),
        ("  trace over the original's", f"{ntk.trace_ratio:.4g}", ""),
        ("  smallest eigenvalue over the largest", f"{ntk.min_eigenvalue:.1e}", ""),
    ]


def rate_limit_line(network: NetworkRecord, layer_bytes: int) -> str:
    """The rate limit beside our bytes; empty where none is known."""
    if network.rate_limit_bytes is None or not math.isfinite(network.rate_limit_bytes):
        return ""
    limit = format_bytes(round(network.rate_limit_bytes))
    return f"Rate limit of the function {limit}; the layers take {format_bytes(layer_bytes)}."


def fresh_line(network: VerifyNetwork) -> str | None:
    """One line where points that nobody has seen show more than the held-out ones; None where they do not."""
    fresh, points = network.fresh_error, network.held_out
    if fresh is None or points is None:
        return None
    few = points < FEW_POINTS and fresh > DIFFER * network.error
    if not few and fresh <= network.tol:
        return None
    only = " only" if points < FEW_POINTS else ""
    above = ", above the tolerance" if fresh > network.tol else ""
    return f"the bound was measured on {points:,} held-out points{only}: fresh points gave {format_error(fresh)}{above}"


def violation(layer: VerifyLayer) -> str:
    """What is wrong with a layer that fails; an infinite error means that there is nothing to compare with."""
    if math.isinf(layer.error):
        return "differs from the source: not there, or of another shape, dtype or content"
    return beyond(layer.error, layer.tol)


def beyond(error: float, tol: float | None) -> str:
    return f"error {format_error(error)} is above the tolerance {format_tolerance(tol)}"


def verify_line(report: VerifyReport, file: str) -> str:
    """One sentence: what was checked and what failed."""
    if report.passed:
        parts = [f"{len(report.layers)} layers"] if report.layers else []
        parts += ["the network's outputs"] if report.network is not None else []
        return f"{one_line(file)}: passed ({', '.join(parts) or 'no bounds stored'})"
    failed = [layer for layer in report.layers if not layer.passed]
    differing = [layer.name for layer in failed if math.isinf(layer.error)]
    beyond = [layer.name for layer in failed if not math.isinf(layer.error)]
    parts = [f"{len(beyond)} of {len(report.layers)} layers above tolerance: {names_line(beyond)}"] if beyond else []
    differ = f"{len(differing)} tensors differ" if len(differing) > 1 else "1 tensor differs"
    parts += [f"{differ} from the source: {names_line(differing)}"] if differing else []
    network = report.network
    if network is not None and not network.passed:
        growth = f", largest growth in {one_line(network.largest_growth)}" if network.largest_growth else ""
        parts.append(f"network outputs above tolerance{growth}")
    return f"{one_line(file)}: FAILED ({'; '.join(parts)})"
