"""Rate against error as a picture, drawn by matplotlib (extra `plot`)."""

import importlib
from pathlib import Path
from types import ModuleType

from hmcompress.errors import OutputError, SettingsError
from hmcompress.report.lines import METHODS
from hmcompress.report.records import CompareReport


def write_plot(path: str, report: CompareReport, title: str) -> None:
    """Draw the totals, error against bytes, to a file whose ending says the format. Raises SettingsError."""
    pyplot = _pyplot()
    target = Path(path)
    if not target.parent.is_dir():
        raise OutputError(f"{path}: the folder {target.parent} does not exist")
    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    for method in dict.fromkeys(total.method for total in report.totals):
        points = sorted((t.bytes, t.error or t.tol) for t in report.totals if t.method == method)
        style = {"linewidth": 2.5, "zorder": 3} if method == "hmatrix" else {"linewidth": 1}
        axes.plot(*zip(*points, strict=True), marker="o", label=METHODS.get(method, method), **style)
    axes.set(xscale="log", yscale="log", xlabel="bytes of the layers", ylabel="relative error", title=title)
    axes.grid(True, which="major", alpha=0.3)
    axes.legend(frameon=False, fontsize="small")
    try:
        figure.savefig(target)
    except ValueError as error:  # an ending that matplotlib does not know
        raise SettingsError(f"--plot {path}: {str(error).splitlines()[0]}") from None
    finally:
        pyplot.close(figure)


def _pyplot() -> ModuleType:
    try:
        importlib.import_module("matplotlib").use("Agg")
        return importlib.import_module("matplotlib.pyplot")
    except ImportError:
        raise SettingsError("--plot needs matplotlib: pip install 'hmcompress[plot]'") from None
