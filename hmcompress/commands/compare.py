"""compare: ours beside other compressors, each at the same measured error, layer by layer and in all."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from hmcompress.baselines import PEERS, Matrix, Outcome, run_peer
from hmcompress.checkpoint import Checkpoint
from hmcompress.errors import SettingsError, SourceError
from hmcompress.hmatrix import compress_matrix
from hmcompress.layers import real_layout, select, to_matrices
from hmcompress.report.comparisons import METHODS, CompareReport, CompareRow, CompareTotal
from hmcompress.settings.config import Settings
from hmcompress.work.parallel import in_order
from hmcompress.work.progress import Progress, silent
from hmcompress.work.tasks import Task

Method = Callable[[Matrix, float], Outcome]


@dataclass(frozen=True)
class Score:
    """What one method made of one layer; squared_error is None for a limit that nothing decodes."""

    layer: str
    tol: float
    method: str
    nbytes: int
    source_bytes: int
    squared_error: float | None
    squared_norm: float


def compare_weights(
    checkpoint: Checkpoint, tols: Sequence[float], settings: Settings, progress: Progress = silent
) -> CompareReport:
    """Compress the layers of a checkpoint by every method at every tolerance.

    Errors are relative Frobenius errors of the decoded weights in their stored dtype; every layer is given every
    tolerance, whatever tolerance a rule of the settings gives it. Raises SourceError, SettingsError.
    """
    check_tolerances(tols)
    return summarise(_scores(checkpoint, tuple(dict.fromkeys(tols)), settings, progress))


def check_tolerances(tols: Sequence[float]) -> None:
    """Raise SettingsError for what is no relative error."""
    for tol in tols:
        if not 0 < tol < 1:
            raise SettingsError(f"tol is {tol}: it must lie between 0 and 1")


def score_matrices(name: str, tensor: Tensor, tols: Sequence[float], effort: str) -> list[Score]:
    """Every method at every tolerance on one tensor; each slice of a stack keeps the tolerance by itself."""
    matrices = [Matrix(matrix) for matrix in to_matrices(tensor)]
    methods = _methods(effort, real_layout(tensor.shape, tensor.dtype).kernel)
    return [_score(name, matrices, tol, method, methods[method]) for tol in tols for method in METHODS]


def run_ours(matrix: Matrix, tol: float, effort: str = "default", kernel: int = 1) -> Outcome:
    """This package's codec as a peer. kernel: as compress_matrix takes it."""
    ours = compress_matrix(matrix.w, tol, "fro", effort=effort, kernel=kernel)
    return Outcome(ours.nbytes, ours.to_dense, ours.error)


def _methods(effort: str, kernel: int) -> Mapping[str, Method | None]:
    """None marks a limit."""
    peers: dict[str, Method | None] = {name: partial(run_peer, peer) for name, peer in PEERS.items()}
    peers["lossless"] = _once(partial(run_peer, PEERS["lossless"]))
    return {"hmatrix": partial(run_ours, effort=effort, kernel=kernel), **peers, "rate_limit": None}


def _once(method: Method) -> Method:
    """The same outcome for every tolerance: lossless coding is slow and does not depend on it."""
    known: dict[int, Outcome] = {}

    def run(matrix: Matrix, tol: float) -> Outcome:
        if id(matrix) not in known:
            known[id(matrix)] = method(matrix, tol)
        return known[id(matrix)]

    return run


def _score(name: str, matrices: Sequence[Matrix], tol: float, method: str, run: Method | None) -> Score:
    source = sum(matrix.nbytes for matrix in matrices)
    norms = [matrix.norm if matrix.is_codable else 0.0 for matrix in matrices]
    squared_norm = sum(norm**2 for norm in norms)
    if run is None:
        weights = sum(matrix.w.numel() for matrix in matrices)
        return Score(name, tol, method, math.ceil(-math.log2(tol) * weights / 8), source, None, squared_norm)
    outcomes = [run(matrix, tol) for matrix in matrices]
    squared = sum((outcome.error * norm) ** 2 for outcome, norm in zip(outcomes, norms, strict=True))
    return Score(name, tol, method, sum(outcome.nbytes for outcome in outcomes), source, squared, squared_norm)


def _scores(checkpoint: Checkpoint, tols: Sequence[float], settings: Settings, progress: Progress) -> list[Score]:
    rules = select(checkpoint.entries, settings, checkpoint.ties)
    entries = [checkpoint.entries[name] for name in rules]
    if not entries:
        raise SourceError(
            f"{checkpoint.path}: holds no layer to compare (a floating tensor of at least 16 x 16); "
            "name smaller ones by include: in a --config file"
        )
    total, done, scores = sum(entry.nbytes for entry in entries), 0, list[Score]()
    tasks = (
        Task(entry.nbytes, entry.load, partial(score_matrices, entry.name, tols=tols, effort=settings.effort))
        for entry in entries
    )
    for entry, found in zip(entries, in_order(tasks, settings.jobs, apart=True), strict=True):
        done += entry.nbytes
        progress(entry.name, done, total)
        scores += found
    return scores


def summarise(scores: Sequence[Score]) -> CompareReport:
    """Rows layer by layer, and a total for each method and tolerance."""
    keys = dict.fromkeys((score.tol, score.method) for score in scores)
    totals = (_total([s for s in scores if (s.tol, s.method) == key]) for key in keys)
    return CompareReport(tuple(_row(score) for score in scores), tuple(totals))


def _row(score: Score) -> CompareRow:
    error, ratio = _error([score]), _ratio([score])
    return CompareRow(score.layer, score.tol, score.method, score.nbytes, error, ratio)


def _total(scores: Sequence[Score]) -> CompareTotal:
    nbytes = sum(score.nbytes for score in scores)
    return CompareTotal(scores[0].tol, scores[0].method, nbytes, _error(scores), _ratio(scores))


def _error(scores: Sequence[Score]) -> float | None:
    """Relative Frobenius error of all these layers together."""
    errors = [score.squared_error for score in scores]
    norm = sum(score.squared_norm for score in scores)
    known = [error for error in errors if error is not None]
    return math.sqrt(sum(known) / norm) if len(known) == len(errors) and norm else (0.0 if known else None)


def _ratio(scores: Sequence[Score]) -> float:
    stored = sum(score.nbytes for score in scores)
    return sum(score.source_bytes for score in scores) / stored if stored else 1.0
