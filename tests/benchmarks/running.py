"""Every layer of the public models as load_model runs it, against dense: python tests/benchmarks/running.py

Compresses each model of the zoo ($HMC_ZOO or ~/.cache/hmc-zoo) and the trained operators of sample_models, takes each
2-D layer in the form that load_model chooses, and times it and a fresh nn.Linear by turns, many times. A layer that
stays dense is timed against nn.Linear too: how far two equal layers differ on this machine just now.
"""

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from matrices import MODELS, OPERATORS, ROOT, zoo
from torch import nn

import hmcompress
from hmcompress.container import CompressedFile
from hmcompress.nn.choose import Stopwatch, by_turns
from hmcompress.nn.forms import BATCHES, LayerForms

LIMIT = 0.95  # of dense speed, below which a layer in another form counts as slower
REPEATS = 5  # of a measurement that falls below it: the median decides


@dataclass(frozen=True)
class Row:
    """A layer at one batch size; `ratio`: dense seconds over its own."""

    model: str
    tol: float
    layer: str
    form: str
    batch: int
    ratio: float

    def __str__(self) -> str:
        return f"{self.ratio:5.2f}x  batch {self.batch:3d}  {self.form:8s}  {self.model} at {self.tol:g}, {self.layer}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", choices=MODELS, default=list(MODELS))
    parser.add_argument("--operators", nargs="*", choices=OPERATORS, default=list(OPERATORS))
    parser.add_argument("--tols", nargs="+", type=float, default=[1e-2, 1e-4])
    parser.add_argument("--batches", nargs="+", type=int, default=list(BATCHES))
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows: list[Row] = []
    sources = [zoo() / MODELS[name] for name in options.models]
    sources += [ROOT / "sample_models" / OPERATORS[name] for name in options.operators]
    for source in filter(Path.exists, sources):
        for tol in options.tols:
            measured = list(_rows(source, tol, options.batches))
            print(_summary(f"{source.name} at {tol:g}", measured), flush=True)
            rows += measured
    print(_summary("all", rows))


def _summary(name: str, rows: list[Row]) -> str:
    """The worst of the layers in another form than dense, and of the dense ones."""
    other, dense = ([row for row in rows if (row.form == "dense") == is_dense] for is_dense in (False, True))
    lines = [f"{name}: {len(rows)} timings, {len(other)} of them of another form than dense"]
    for title, some in (("slowest other form", other), ("slowest dense layer", dense)):
        lines += [f"  {title}: {min(some, key=lambda row: row.ratio)}"] if some else []
    return "\n".join(lines)


def _rows(source: Path, tol: float, batches: list[int]) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.hmc.safetensors"
        hmcompress.compress(source, file, tol=tol)
        compressed = CompressedFile.open(file)
        forms = LayerForms(compressed, Stopwatch(batches))
        for layer in compressed.layers:
            shape, dtype = compressed.index.shapes[layer.name], compressed.index.dtypes[layer.name]
            if len(shape) == 2:
                form = forms.fastest(layer, dtype)
                module = nn.Linear(shape[1], shape[0], dtype=dtype) if form is None else form.module
                name = forms.record(layer, layer.name, form).form
                for batch in batches:
                    yield Row(source.name, tol, layer.name, name, batch, _ratio(module, batch))


def _ratio(module: nn.Module, batch: int) -> float:
    """Dense seconds over the module's. One that looks slow is measured again, and the median counts."""
    m, n, dtype = module.out_features, module.in_features, next(module.parameters()).dtype
    dense = nn.Linear(n, m, module.bias is not None, dtype=dtype)
    x = torch.randn(batch, n, dtype=dtype)

    def once() -> float:
        seconds = by_turns([(dense, (x,)), (module, (x,))])
        return seconds[0] / seconds[1]

    ratio = once()
    return ratio if ratio >= LIMIT else median([ratio, *(once() for _ in range(REPEATS - 1))])


if __name__ == "__main__":
    main()
