"""Does a compressed file keep its bounds: as stored, or recomputed in float64 against the original."""

import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hmcompress.checkpoint import Checkpoint, open_checkpoint
from hmcompress.commands.reporting import network_from_json
from hmcompress.commands.restoring import load_named, stored_parts
from hmcompress.commands.trust import check_code
from hmcompress.container import CompressedFile, LayerRow
from hmcompress.container.dtypes import to_words
from hmcompress.errors import SettingsError
from hmcompress.hmatrix import measure_error
from hmcompress.layers import is_optimizer_state, to_matrices
from hmcompress.report.verdicts import VerifyLayer, VerifyNetwork
from hmcompress.settings.config import Settings, looked_up, with_network
from hmcompress.settings.problem_settings import FactoryNetwork
from hmcompress.settings.rules import check_quick, dropped
from hmcompress.work.progress import Progress, silent


def check_layers(
    compressed: CompressedFile, against: str | os.PathLike | None, tol: float | None, progress: Progress = silent
) -> Iterator[VerifyLayer]:
    """A row for each layer, and one with an infinite error for whatever else differs from the source.

    Everything is decoded in any case. `tol` replaces the stored bounds.
    """
    original = None if against is None else open_checkpoint(against)
    for tensors in stored_parts(compressed, compressed.names, None, progress):
        row = compressed.layer_of.get(next(iter(tensors)))
        if row is not None:
            error = row.error if original is None else layer_error(row, tensors, original)
            bound = row.tol if tol is None else tol
            differs = original is not None and error == math.inf and not _is_of(tensors, original)
            yield VerifyLayer(row.name, 0.0 if differs and bound is None else bound, error)
        elif original is not None:
            yield from _different(tensors, original)
    if original is not None:
        yield from _ties(compressed, original)


def network_settings(
    compressed: CompressedFile,
    against: str | os.PathLike | None,
    tol: float | None,
    factory: str | None,
    inputs: str | None,
) -> Settings | None:
    """The settings under which a file's network is checked; None where the file bounds weights and no network is named.

    Raises SettingsError where the network or its inputs are not known, or where the file brings code of others, or
    patterns that are not run.
    """
    settings = Settings.from_json(compressed.index.info.settings)
    if against is None and (factory or inputs):
        raise SettingsError("a network and its inputs check the file against its original: give --against SOURCE too")
    about_outputs = settings.metric == "outputs" or factory is not None
    if inputs and not about_outputs:
        raise SettingsError("inputs check a network's outputs, which this file does not bound: give --network too")
    if against is not None:
        check_quick(settings)
        source, file = Path(against).resolve(), compressed.path.resolve()
        settings = looked_up(settings, (source, source.parent, file.parent))  # the source may be a folder
    if not about_outputs:
        return None
    if factory is None and against is not None and isinstance(settings.network, FactoryNetwork):
        check_code(settings.network.factory, against)
    return with_network(settings, factory, inputs, metric="outputs", tol=tol or settings.tol)


def check_network(
    compressed: CompressedFile, settings: Settings, against: str | os.PathLike | None, progress: Progress = silent
) -> VerifyNetwork | None:
    """The network's bound, recomputed where the source is given, else as stored; None where the source has other
    tensors than the file: they are no two versions of one network, and the layers tell.

    Raises NetworkError, and SettingsError where there is neither a source nor a record.
    """
    from hmcompress.network import load_tensors, stays_with_engine  # here: few files need it, and it takes a second
    from hmcompress.network.bound.recheck import as_stored, recheck

    record = network_from_json(compressed.index.info.network)
    if against is None:
        if record is None:
            raise SettingsError(f"{compressed.path} has no record of its network's error: give --against SOURCE too")
        return as_stored(record, settings.tol)
    checkpoint = open_checkpoint(against)
    left_out = set(_dropped(compressed, checkpoint))
    original = {name: tensor for name, tensor in load_tensors(checkpoint).items() if name not in left_out}
    stored = [name for name in compressed.names if name in original]  # of what is not, the layers tell
    decoded = load_named(compressed, stored, None, progress)
    if any(not _comparable(decoded.get(name), original.get(name)) for name in _of_networks(compressed, original)):
        return None
    return recheck(settings, original, decoded, checkpoint.path, stays_with_engine)


def _of_networks(compressed: CompressedFile, original: Mapping[str, Tensor]) -> set[str]:
    """Names in either, but of optimizer state."""
    return original.keys() | {name for name in compressed.names if not is_optimizer_state(name)}


def _is_of(tensors: Mapping[str, Tensor], original: Checkpoint) -> bool:
    """Whether the source has tensors of these names, shapes and dtypes."""
    return all(_comparable(tensor, original.load(name)) for name, tensor in tensors.items())


def layer_error(row: LayerRow, decoded: Mapping[str, Tensor], original: Checkpoint) -> float:
    """The measured error of a layer; the largest over the slices of a stack, inf where shape or dtype differ."""
    sources = {name: original.load(name) for name in row.tensors}
    if any(not _comparable(decoded[name], source) for name, source in sources.items()):
        return math.inf
    if all(_same_bits(decoded[name], source) for name, source in sources.items()):
        return 0.0
    pairs = zip(_matrices(sources), _matrices(decoded), strict=True)
    errors = [  # a slice that holds inf has come back as it is, while zeros of another have lost their signs
        0.0 if _same_bits(matrix, source) else measure_error(source, matrix, row.norm)[0] for source, matrix in pairs
    ]
    return max((error if math.isfinite(error) else math.inf) for error in errors)


def _matrices(tensors: Mapping[str, Tensor | None]) -> Tensor:
    """A weight as matrices; where the layer owns a bias, the numbers of both, which is all that their norm sees."""
    weight, *bias = (tensor for tensor in tensors.values() if tensor is not None)
    if not bias:
        return to_matrices(weight)
    return torch.cat([t.reshape(-1, 1) for t in (weight, *bias)]).unsqueeze(0)


def _comparable(decoded: Tensor | None, source: Tensor | None) -> bool:
    if decoded is None or source is None:
        return False
    return source.shape == decoded.shape and source.dtype == decoded.dtype


def _same_bits(decoded: Tensor, source: Tensor | None) -> bool:
    return source is not None and np.array_equal(to_words(decoded).view("u1"), to_words(source).view("u1"))


def _different(tensors: Mapping[str, Tensor], original: Checkpoint) -> Iterator[VerifyLayer]:
    """Untouched tensors are equal bit for bit or wrong."""
    for name, tensor in tensors.items():
        source = original.load(name)
        if not (_comparable(tensor, source) and _same_bits(tensor, source)):
            yield VerifyLayer(name, 0.0, math.inf)


def _ties(compressed: CompressedFile, original: Checkpoint) -> Iterator[VerifyLayer]:
    """Views that differ from the source's, and tensors of the source that the file should have and has not."""
    views, ties = compressed.index.info.views, original.ties
    left_out, stored = set(_dropped(compressed, original)), set(compressed.names)
    for name in dict.fromkeys((*compressed.names, *original.names)):
        absent = name not in stored and name not in left_out
        if absent or (name in stored and views.get(name) != ties.get(name)):
            yield VerifyLayer(name, 0.0, math.inf)


def _dropped(compressed: CompressedFile, original: Checkpoint) -> tuple[str, ...]:
    """Tensors of the source that the file was asked to leave out."""
    return dropped(original.names, Settings.from_json(compressed.index.info.settings))
