"""A network that was trained on from its file goes back into a file of about the same bytes: on the grid that it has.

Compressing a slim network like any other costs more than the first time: the neurons that could stand in for each other
are gone. Its file's own steps are known to be fine enough, so the trained weights are rounded to those.
"""

import copy
import itertools
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hmcompress.checkpoint import Checkpoint, open_checkpoint
from hmcompress.coding.symbols import Decoder
from hmcompress.config import MLPNetwork, Settings
from hmcompress.container import CompressedFile, EncodedLayer, FileInfo, FileWriter, LayerRow, check_output
from hmcompress.errors import NetworkError
from hmcompress.hmatrix import weighted
from hmcompress.hmatrix.adaptive_scales import ScaleModel
from hmcompress.hmatrix.codecs import WEIGHTED
from hmcompress.hmatrix.grid import Grid, powers
from hmcompress.network import Problem, load_tensors, pose, stored_record
from hmcompress.network.driver import measure
from hmcompress.network.inputs import Source
from hmcompress.network.modules import Stack
from hmcompress.network.propagate import tensors_of
from hmcompress.network.result import encoded_layer, original_matrix
from hmcompress.nn.on_grid import GridFit, rounded
from hmcompress.progress import Progress, silent
from hmcompress.report.records import NetworkRecord

_MORE = 1.05  # times the bytes of the old file
_POOL = 8  # times the file's calibration points that steps are drawn from
_LAST = 4  # half octaves by which the last layer's steps are halved: nothing after it makes up for its rounding
_SHIFTS = (1, 0, -1, -2, -3)  # half octaves that the other layers' steps are divided by
_LEAST = 1e-6  # tolerance
_DIGITS = 2  # of the tolerance that the new file states


@dataclass(frozen=True)
class Refitted:
    """What was written: bytes of the file, and what was measured on its network against the trained one."""

    output_bytes: int
    network: NetworkRecord


def refit(
    file: str | os.PathLike,
    checkpoint: str | os.PathLike,
    output: str | os.PathLike,
    *,
    most: int | None = None,
    force: bool = False,
    progress: Progress = silent,
) -> Refitted:
    """Write the network of a checkpoint into a file of at most `most` bytes (1.05 times the old file's).

    file: the one that training started from, compressed in the outputs metric, an mlp. checkpoint: its slim network
    (`decompress FILE --slim`) after training, the same names and sizes. The new file's bound is on the outputs of the
    trained network: its tolerance is what was measured, rounded up; derivatives and the tangent kernel have none.
    Raises NetworkError where the two do not belong together, or no grid is coarse enough.
    """
    target = check_output(output, force, checkpoint)
    compressed = CompressedFile.open(file)
    trained = _Trained.of(compressed, open_checkpoint(checkpoint))
    grids = slim_grids(compressed)
    trained.check(compressed, grids)
    size = compressed.path.stat().st_size
    most = int(_MORE * size) if most is None else most
    rest, over = size - sum(row.nbytes for row in compressed.layers), 1.0
    for steps, expected in _finest_first(grids, trained.matrices()):
        if rest + over * expected > most:
            continue
        layers, record = trained.coded(GridFit(trained.stack(), steps, trained.pool()).run())
        written = trained.write(None, layers, record)
        progress("refit", written, most)
        if written <= most:
            return Refitted(trained.write(target, layers, record, force), record)
        over = max(over, sum(len(layer.payload) for layer in layers) / expected)
    raise NetworkError(f"{checkpoint}: no grid of {compressed.path} takes it in {most:,} bytes")


@dataclass(frozen=True)
class _Trained:
    """The trained network on the points of the old file's settings, its outputs alone."""

    source: Checkpoint
    settings: Settings
    tensors: dict[str, Tensor]
    problem: Problem

    @classmethod
    def of(cls, compressed: CompressedFile, source: Checkpoint) -> "_Trained":
        old = Settings.from_json(compressed.index.info.settings)
        if old.metric != "outputs" or old.calibration is None:
            raise NetworkError(f"{compressed.path} bounds no outputs: compress the trained network like any other")
        if not isinstance(old.network, MLPNetwork):
            raise NetworkError(f"{compressed.path} holds no mlp: only an mlp goes back onto its grid")
        calibration = old.calibration.model_copy(update={"derivatives": 0})
        settings = old.model_copy(update={"calibration": calibration, "ntk": False})
        tensors = load_tensors(source)
        return cls(source, settings, tensors, pose(settings, tensors, source.path))

    def check(self, compressed: CompressedFile, grids: Sequence[Grid]) -> None:
        """Raise NetworkError where the layers are not those of the file's slim network."""
        own, stored = [tuple(w.shape) for w in self.matrices()], [grid.q.shape for grid in grids]
        if own != stored:
            raise NetworkError(
                f"{self.source.path} is not the slim network of {compressed.path}: its layers, biases in the last "
                f"column, have the shapes {own}, the file's {stored}"
            )

    def matrices(self) -> list[Tensor]:
        """Weight and bias of each layer, in float64."""
        return [original_matrix(layer, self.tensors).double() for layer in self.problem.network.layers]

    def stack(self) -> Stack:
        """The network in float64."""
        module = copy.deepcopy(self.problem.network.module)
        assert isinstance(module, Stack)
        return module.double()

    def pool(self) -> Tensor:
        """Points like those of the calibration, but more."""
        calibration = self.settings.calibration
        assert calibration is not None
        many = calibration.model_copy(update={"samples": _POOL * calibration.samples})
        return Source(many, False, self.problem.network.dtype).calibration().tensors[0]

    def coded(self, grids: Sequence[Grid]) -> tuple[list[EncodedLayer], NetworkRecord]:
        """The layers for the container, and what was measured on them."""
        layers, decoded = [], {}
        for layer, grid in zip(self.problem.network.layers, grids, strict=True):
            payload = bytes([WEIGHTED]) + weighted.encode(grid)
            part, decoded[layer.weight] = encoded_layer(layer, payload, self.tensors, 0.0)
            layers.append(part)
        record = measure(self.problem, self.settings, tensors_of(self.problem.network, decoded))
        return layers, replace(record, tol=_rounded_up(record.error))

    def write(
        self, target: Path | None, layers: Sequence[EncodedLayer], record: NetworkRecord, force: bool = False
    ) -> int:
        """Write the file (None: only count); its bytes."""
        source = self.source
        origin = {"name": source.path.name, "kind": source.kind, "bytes": source.source_bytes, "digest": source.digest}
        names = tuple(name for name in source.names if any(name in layer.row.tensors for layer in layers))
        settings = self.settings.model_copy(update={"tol": record.tol}).to_json()
        with FileWriter(target, force=force) as writer:
            for layer in layers:
                writer.add(layer)
            return writer.finish(
                FileInfo(names, source=origin, settings=settings, nest=source.nest, network=stored_record(record))
            )


def slim_grids(compressed: CompressedFile) -> list[Grid]:
    """The grid of each layer of a file, without the neurons that a slim network lacks. Raises NetworkError."""
    grids = [_grid(compressed, row) for row in compressed.layers]
    biases = [len(row.tensors) == 2 for row in compressed.layers]
    alive = _alive(grids, biases)
    slim = []
    for k, (grid, has_bias) in enumerate(zip(grids, biases, strict=True)):
        columns = np.append(alive[k], [grid.q.shape[1] - 1] * has_bias).astype(np.int64)
        rows = alive[k + 1]
        slim.append(Grid(grid.q[np.ix_(rows, columns)], grid.row_exponents[rows], grid.column_exponents[columns]))
    return slim


def _grid(compressed: CompressedFile, row: LayerRow) -> Grid:
    payload, shape = bytes(compressed.payload(row)), compressed.index.shapes[row.name]
    if payload[0] != WEIGHTED:
        raise NetworkError(f"{compressed.path}: {row.name} has no grid of rows and columns")
    size = (shape[0], shape[1] + len(row.tensors) - 1)
    return weighted._code(Decoder(payload[1:]), size, None, ScaleModel())  # weighted.decode gives no exponents


def _alive(grids: Sequence[Grid], biases: Sequence[bool]) -> list[np.ndarray]:
    """Neurons of each layer, inputs first, that something reads and that are not constant."""
    sizes = [grid.q.shape[1] - bias for grid, bias in zip(grids, biases, strict=True)]
    alive = [np.ones(n, bool) for n in sizes] + [np.ones(len(grids[-1].q), bool)]
    before = None
    while before != (before := [int(a.sum()) for a in alive]):
        for k in range(1, len(grids)):
            read = (grids[k].q[alive[k + 1], : sizes[k]] != 0).any(0)
            varies = (grids[k - 1].q[:, : sizes[k - 1]][:, alive[k - 1]] != 0).any(1)
            alive[k] &= read & varies
    return [np.flatnonzero(a) for a in alive]


def _finest_first(grids: Sequence[Grid], matrices: Sequence[Tensor]) -> Iterator[tuple[list[Grid], int]]:
    """The grids with finer and with coarser steps, and the bytes that plain rounding would take."""
    hidden = len(grids) - 1
    for shift, coarser in itertools.product(_SHIFTS, range(max(1, hidden))):
        shifts = [shift - (k >= hidden - coarser) for k in range(hidden)] + [_LAST]  # the last ones coarser by one
        steps = [replace(g, column_exponents=g.column_exponents - s) for g, s in zip(grids, shifts, strict=True)]
        yield steps, sum(len(weighted.encode(_plain(g, w), False)) for g, w in zip(steps, matrices, strict=True))


def _plain(grid: Grid, w: Tensor) -> Grid:
    steps = torch.from_numpy(powers(grid.row_exponents)[:, None] * powers(grid.column_exponents))
    return replace(grid, q=rounded(w / steps).numpy().astype(np.int64))


def _rounded_up(error: float) -> float:
    """The tolerance that a file states; an untrained network, on the grid as it is, has no error at all."""
    error = max(error, _LEAST)
    unit = 10.0 ** (math.floor(math.log10(error)) - _DIGITS + 1)
    return float(f"{math.ceil(error / unit * (1 + 1e-9)) * unit:.{_DIGITS + 1}g}")


__all__ = ["Refitted", "refit", "slim_grids"]
