"""compare in the outputs metric: every method at the same error of the network, and at our bytes.

Each peer has one knob over all layers and is given the best of three: the same relative error for every layer, the
same absolute one, and the first with biases kept as they are. A layer's bytes include its bias.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from hmcompress.baselines import PEERS, Matrix, Peer, run_peer
from hmcompress.baselines.knobs import Knob, NetworkErrorOf, NetworkPart
from hmcompress.checkpoint import Checkpoint
from hmcompress.commands.compare import check_tolerances
from hmcompress.commands.encoding import Each
from hmcompress.layers import to_matrices
from hmcompress.network.bound.problem import pose
from hmcompress.network.driver import compress_network
from hmcompress.network.owned import kept, load_tensors, owned
from hmcompress.report.comparisons import METHODS, CompareReport, CompareRow, CompareTotal
from hmcompress.settings.config import Settings
from hmcompress.work.progress import Progress, silent

_FAMILIES = ((True, False), (True, True), (False, False))  # bias joined to the weight, same absolute error


@dataclass(frozen=True)
class Ours:
    """What this package's outputs metric makes of the network at one tolerance."""

    part_bytes: Mapping[str, int]  # by the name of the weight, the bias included
    part_errors: Mapping[str, float]  # relative Frobenius, likewise
    error: float  # of the network, on held-out points
    rate_limit_bytes: float | None = None


@dataclass(frozen=True)
class Contest:
    """What the methods are run on: the weights and biases of a network, and its error when some are replaced."""

    weights: Sequence[tuple[str, str | None]]
    tensors: Mapping[str, Tensor]
    network_error: NetworkErrorOf
    _parts: dict[bool, list[NetworkPart]] = field(default_factory=dict)

    def parts(self, joined: bool) -> list[NetworkPart]:
        """The same matrices at each call, with what is known about them."""
        if joined not in self._parts:
            self._parts[joined] = [_part(self.tensors, weight, bias, joined) for weight, bias in self.weights]
        return self._parts[joined]


def compare_outputs(
    checkpoint: Checkpoint, tols: Sequence[float], settings: Settings, progress: Progress = silent
) -> CompareReport:
    """Compare on the network of the settings. Raises NetworkError, and BoundError where ours cannot hold a bound."""
    check_tolerances(tols)
    tensors = load_tensors(checkpoint)
    problem = pose(settings, tensors, checkpoint.path)
    network = owned(problem.network, checkpoint, kept(checkpoint, settings))
    weights = [(layer.weight, layer.bias) for layer in network.layers] + [(name, None) for name in network.others]

    def error(replaced: Mapping[str, Tensor]) -> float:
        return max(problem.errors(problem.held_out, replaced))

    def ours(tol: float, tell: Progress) -> Ours:
        aim = settings.model_copy(update={"tol": tol})
        result = compress_network(checkpoint, aim, tell, Each(checkpoint, aim))
        later = {name: 0 for layer in result.layers for name in layer.row.tensors[1:]}  # in the payload of the first
        layers = {layer.row.tensors[0]: layer for layer in result.layers}
        return Ours(
            later | {name: len(layer.payload) for name, layer in layers.items()},
            {name: layer.row.error for name, layer in layers.items()},
            result.record.error,
            result.record.rate_limit_bytes,
        )

    return compare_network(Contest(weights, tensors, error), tuple(dict.fromkeys(tols)), ours, progress)


def compare_network(
    contest: Contest, tols: Sequence[float], ours: Callable[[float, Progress], Ours], progress: Progress = silent
) -> CompareReport:
    """Every method at the same held-out error of the network, then the error of each at our bytes."""
    peers = [peer for name, peer in PEERS.items() if not peer.lossless]
    families = {peer.name: _families(contest, peer) for peer in peers}
    steps = _Steps(progress, len(tols) * (len(peers) + 1))
    rows: list[CompareRow] = []
    totals: list[CompareTotal] = []
    at_our_bytes: list[CompareTotal] = []
    for tol in tols:
        mine = ours(tol, steps.part(f"hmcompress at {tol:g}"))
        found = {"hmatrix": _ours(contest, tol, mine), "lossless": _lossless(contest, tol)}
        budget = found["hmatrix"][1].bytes
        at_our_bytes.append(found["hmatrix"][1])
        for peer in peers:
            tell = steps.part(f"{peer.title} at {tol:g}")
            found[peer.name] = _at_error(families[peer.name], tol, tell)
            at_our_bytes.append(_at_bytes(families[peer.name], tol, budget))
        for name in (name for name in METHODS if name in found):
            rows += found[name][0]
            totals.append(found[name][1])
        totals += _limit(contest, tol, mine.rate_limit_bytes)
    return CompareReport(tuple(rows), tuple(totals), tuple(at_our_bytes))


@dataclass
class _Steps:
    """Progress over steps that may tell how far they are themselves."""

    progress: Progress
    count: int
    done: int = -1

    def part(self, what: str) -> Progress:
        """Begin the next step; returns what it may call."""
        self.done += 1
        begin = self.done
        self.progress(what, 100 * begin, 100 * self.count)

        def tell(_: str, done: int, total: int) -> None:
            self.progress(what, 100 * begin + min(100 * done // max(total, 1), 100), 100 * self.count)

        return tell


Found = tuple[list[CompareRow], CompareTotal]


def _families(contest: Contest, peer: Peer) -> list[Knob]:
    """Knobs of one peer, without those that would do the same: of one matrix, or without biases."""
    single, plain = len(contest.weights) == 1, all(bias is None for _, bias in contest.weights)
    different = [
        (joined, absolute) for joined, absolute in _FAMILIES if (joined or not plain) and not (absolute and single)
    ]
    return [Knob(peer, contest.parts(joined), absolute, contest.network_error) for joined, absolute in different]


def _part(tensors: Mapping[str, Tensor], weight: str, bias: str | None, joined: bool) -> NetworkPart:
    w = tensors[weight].detach()
    if bias is None:
        return NetworkPart(weight, None, (w,), tuple(Matrix(matrix) for matrix in to_matrices(w)), False)
    b = tensors[bias].detach()
    matrix = torch.cat([w, b.reshape(-1, 1)], 1) if joined else w
    return NetworkPart(weight, bias, (w, b), (Matrix(matrix),), joined)


def _at_error(knobs: Sequence[Knob], tol: float, tell: Progress) -> Found:
    """The smallest of the families at the tolerance; the weights as they are where none holds it."""
    holding: list[tuple[Knob, int]] = []
    for i, knob in enumerate(knobs):
        k = knob.coarsest_within(tol, holding[-1][1] if holding else None)
        holding += [] if k is None else [(knob, k)]
        tell("", i + 1, 2 * len(knobs))
    holding.sort(key=_size)
    for i, (knob, k) in enumerate(holding):  # the best first: most others cannot come below it
        holding[i] = (knob, knob.coarser_within(tol, k, min(map(_size, holding))))
        tell("", len(knobs) + i + 1, 2 * len(knobs))
    best = min(holding, key=_size, default=None)
    source = sum(part.source_bytes for part in knobs[0].parts)
    if best is None or _size(best) >= source:
        return _found(knobs[0].peer.name, tol, knobs[0].parts, [p.source_bytes for p in knobs[0].parts], None, 0.0)
    knob, k = best
    trial = knob.trial(k)
    return _found(knob.peer.name, tol, knob.parts, trial.part_bytes, trial.part_errors, knob.error(k))


def _size(setting: tuple[Knob, int]) -> int:
    knob, k = setting
    return knob.nbytes(k)


def _at_bytes(knobs: Sequence[Knob], tol: float, nbytes: int) -> CompareTotal:
    """The smallest error of the families within so many bytes; where all take more, the fewest that any takes."""
    settings = [(knob, k) for knob in knobs if (k := knob.finest_within(nbytes)) is not None]
    coarsest = min(((knob, 0) for knob in knobs), key=_size)
    knob, k = min(settings, key=lambda setting: setting[0].error(setting[1]), default=coarsest)
    source = sum(part.source_bytes for part in knob.parts)
    return CompareTotal(tol, knob.peer.name, knob.nbytes(k), knob.error(k), source / max(knob.nbytes(k), 1))


def _ours(contest: Contest, tol: float, ours: Ours) -> Found:
    parts = contest.parts(joined=True)
    nbytes = [_our_bytes(ours.part_bytes, part) for part in parts]
    errors = [ours.part_errors.get(part.weight, 0.0) for part in parts]
    return _found("hmatrix", tol, parts, nbytes, errors, ours.error)


def _our_bytes(part_bytes: Mapping[str, int], part: NetworkPart) -> int:
    """Those of the weight, and of a bias that is coded by itself."""
    if part.weight not in part_bytes:
        return part.source_bytes
    return part_bytes[part.weight] + (part_bytes.get(part.bias, 0) if part.bias is not None else 0)


def _lossless(contest: Contest, tol: float) -> Found:
    parts = contest.parts(joined=False)
    peer = PEERS["lossless"]
    nbytes = [part.kept_bytes + sum(run_peer(peer, m, tol).nbytes for m in part.matrices) for part in parts]
    return _found(peer.name, tol, parts, nbytes, None, 0.0)


def _found(
    method: str,
    tol: float,
    parts: Sequence[NetworkPart],
    nbytes: Sequence[int],
    errors: Sequence[float] | None,
    error: float,
) -> Found:
    """Rows hold relative Frobenius errors of the weights, the total the network's error."""
    each = errors or [0.0] * len(parts)
    rows = [
        CompareRow(part.weight, tol, method, count, wrong, part.source_bytes / max(count, 1))
        for part, count, wrong in zip(parts, nbytes, each, strict=True)
    ]
    source = sum(part.source_bytes for part in parts)
    return rows, CompareTotal(tol, method, sum(nbytes), error, source / max(sum(nbytes), 1))


def _limit(contest: Contest, tol: float, nbytes: float | None) -> Iterator[CompareTotal]:
    """The rate limit of the function, where its tangent kernel gave one."""
    if nbytes:
        source = sum(part.source_bytes for part in contest.parts(joined=True))
        yield CompareTotal(tol, "rate_limit", round(nbytes), None, source / max(nbytes, 1))
