"""Latency and memory of the compressed form against dense, measured by turns in one run."""

import os
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from hmcompress.commands.exporting import held_out_inputs
from hmcompress.container import CompressedFile
from hmcompress.hmatrix.basics.surroundings import undisturbed
from hmcompress.network.model.modules import OperatorNetwork, Stack
from hmcompress.nn.choose import Stopwatch, Timing, by_turns
from hmcompress.nn.forms import BATCHES, LayerForms, LoadedLayer
from hmcompress.nn.load import load
from hmcompress.nn.memory import resident_bytes
from hmcompress.report.comparisons import BenchReport, BenchRow
from hmcompress.settings.config import Settings
from hmcompress.settings.problem_settings import BuiltinNetwork
from hmcompress.work.progress import Progress, silent

_SLAB = 2**24  # numbers of the dense weight that stands for a larger one: more than a processor's cache holds


@undisturbed
def bench(file: str | os.PathLike, *, batches: Sequence[int] = BATCHES, progress: Progress = silent) -> BenchReport:
    """Every layer in the form that load_model takes, and the whole network, against dense; resident bytes of both.

    Where the file names no network that can be built from it, the totals are the sums over its layers. Raises
    FormatError.
    """
    compressed = CompressedFile.open(file)
    settings = Settings.from_json(compressed.index.info.settings)
    if isinstance(settings.network, BuiltinNetwork):
        return _network(file, tuple(batches), progress)
    rows = tuple(_layers(compressed, tuple(batches), progress))
    return BenchReport(rows, tuple(_sum(rows, batch) for batch in batches if rows))


def _layers(compressed: CompressedFile, batches: tuple[int, ...], progress: Progress) -> Iterator[BenchRow]:
    """Rows of the layers that are matrices, each by itself."""
    forms = LayerForms(compressed, Stopwatch(batches))
    watch = Stopwatch(batches, slab=_SLAB)
    layers = [row for row in compressed.layers if len(compressed.index.shapes[row.name]) == 2]
    for done, row in enumerate(layers):
        shape, dtype = compressed.index.shapes[row.name], compressed.index.dtypes[row.name]
        form = forms.fastest(row, dtype)
        layer = forms.record(row, row.name, form)
        # Measured anew: the times that a form was chosen by are the better ones of several.
        times = dense_timings(watch, shape, dtype) if form is None else watch.timings(form.module, dtype)
        yield from _rows(layer, times)
        progress(row.name, done + 1, len(layers))


def dense_timings(watch: Stopwatch, shape: Sequence[int], dtype: torch.dtype) -> tuple[Timing, ...]:
    """Dense against itself: one and the same module, so one and the same time."""
    times = watch.timings(nn.Linear(shape[1], shape[0], dtype=dtype, device=watch.device), dtype)
    return tuple(Timing(t.batch, t.dense, t.dense) for t in times)


def _rows(layer: LoadedLayer, times: Sequence[Timing]) -> Iterator[BenchRow]:
    for t in times:
        yield BenchRow(layer.name, t.batch, layer.form, t.dense, t.form, layer.dense_bytes, layer.bytes)


def _sum(rows: Sequence[BenchRow], batch: int) -> BenchRow:
    of_batch = [row for row in rows if row.batch == batch]
    kinds = {row.form for row in of_batch} - {"dense"}
    form = "dense" if not kinds else kinds.pop() if len(kinds) == 1 else "hmatrix"
    return BenchRow(
        "all layers",
        batch,
        form,
        sum(row.dense_seconds for row in of_batch),
        sum(row.seconds for row in of_batch),
        sum(row.dense_bytes for row in of_batch),
        sum(row.bytes for row in of_batch),
    )


def _network(file: str | os.PathLike, batches: tuple[int, ...], progress: Progress) -> BenchReport:
    """A network that is built from the file: as it is loaded, beside the dense one of the original sizes."""
    loaded = load(file, batches=batches, progress=progress)
    dense = load(file, batches=batches, slack=0, slim=False, progress=progress)
    watch = Stopwatch(batches)
    forms = {layer.name: layer.form for layer in loaded.layers}
    rows = []
    for name, place in loaded.places.items():
        path = place.removesuffix(".weight")
        original = dense.module.get_submodule(path) if place.endswith(".weight") else None
        if isinstance(original, nn.Linear):
            ours = loaded.module.get_submodule(path)
            rows += _layer_against(name, forms.get(name, "dense"), ours, original, batches)
    inputs = held_out_inputs(file, loaded)
    form = next((row.form for row in rows if row.form != "dense"), "dense")
    totals = [
        _against("network", form, loaded.module, _ordinary(dense.module), _batch(loaded.module, inputs, batch), batch)
        for batch in watch.batches
    ]
    return BenchReport(tuple(rows), tuple(totals))


def _layer_against(name: str, form: str, ours: nn.Module, dense: nn.Module, batches: Sequence[int]) -> list[BenchRow]:
    assert isinstance(dense, nn.Linear) and isinstance(ours.in_features, int)
    if isinstance(ours, nn.Linear) and ours.weight.shape != dense.weight.shape:
        form = "slim"
    rows = []
    for batch in batches:
        x, y = (torch.randn(batch, n, dtype=dense.weight.dtype) for n in (ours.in_features, dense.in_features))
        if form == "dense":
            dense_seconds, seconds = by_turns([(dense, (y,))]) * 2
        else:
            dense_seconds, seconds = by_turns([(dense, (y,)), (ours, (x,))])
        rows.append(BenchRow(name, batch, form, dense_seconds, seconds, resident_bytes(dense), resident_bytes(ours)))
    return rows


def _against(
    name: str, form: str, ours: nn.Module, dense: nn.Module, inputs: tuple[Tensor, ...], batch: int
) -> BenchRow:
    dense_seconds, seconds = by_turns([(dense, inputs), (ours, inputs)])
    return BenchRow(name, batch, form, dense_seconds, seconds, resident_bytes(dense), resident_bytes(ours))


def _ordinary(module: nn.Module) -> nn.Module:
    """A stack as the torch.nn.Sequential that users have, where it is nothing else."""
    if not isinstance(module, Stack) or any(value is not None for value in module.features.buffers()):
        return module
    return nn.Sequential(*module.steps())


def _batch(module: nn.Module, inputs: tuple[Tensor, ...], batch: int) -> tuple[Tensor, ...]:
    """Inputs repeated or cut to a batch; the points of a cartesian DeepONet stay as they are."""
    points = inputs[1:] if isinstance(module, OperatorNetwork) and module.cartesian else ()
    first = inputs[: len(inputs) - len(points)]
    return (*(x.repeat(-(-batch // len(x)), 1)[:batch] for x in first), *points)
