"""The part of the benchmark page about networks: the same error of the outputs, and the error within our bytes."""

from collections.abc import Callable
from pathlib import Path

from parts import METHODS, ratio, size, table

from hmcompress.pipeline import compare
from hmcompress.report.comparisons import CompareReport

ROOT = Path(__file__).resolve().parents[2]
_INTRODUCTION = (
    "Bytes at which each method reaches the same error on held-out points, biases included, each with its best single "
    "knob over all layers; then the error of each within the bytes of ours.\n"
)
SAMPLES = {
    "Burgers PINN 2-[128]*4-1": ("burgers", {}),
    "Burgers PINN, ntk: off": ("burgers", {"ntk": "off"}),
    "Helmholtz PINN 2-[192]*4-1, ntk: off": ("helmholtz", {"ntk": "off"}),
    "Allen-Cahn PINN": ("allen_cahn", {}),
    "DeepONet": ("deeponet", {}),
    "Fourier-feature network": ("fourier", {}),
}


def networks(tols: tuple[float, ...], tell: Callable[[str], None]) -> str:
    """Every sample whose checkpoint and YAML are there."""
    parts = ["## Networks: a tolerance on the outputs\n", _INTRODUCTION]
    for title, (stem, options) in SAMPLES.items():
        model, config = ROOT / "sample_models" / f"{stem}.pt", ROOT / "configs" / f"{stem}.yaml"
        if model.exists() and config.exists():
            tell(title)
            parts += [f"### {title}\n", _table(compare(model, tols, config=config, **options), tols)]
    return "\n".join(parts)


def _table(report: CompareReport, tols: tuple[float, ...]) -> str:
    at = {(t.tol, t.method): t for t in report.totals}
    within = {(t.tol, t.method): t for t in report.at_our_bytes}
    rows = []
    for method in dict.fromkeys(t.method for t in report.totals):
        cells = []
        for tol in tols:
            total, same_bytes = at.get((tol, method)), within.get((tol, method))
            cells.append(f"{size(total.bytes)}, {ratio(total.ratio)}" if total else "")
            cells.append(f"{same_bytes.error:.2g}" if same_bytes and same_bytes.error is not None else "")
        rows.append([METHODS.get(method, "*rate limit of the function*"), *cells])
    head = ["method", *(cell for tol in tols for cell in (f"at {tol:g}", "error within our bytes"))]
    return table(head, rows)
