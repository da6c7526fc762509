"""Rate against error as a picture, drawn by matplotlib (extra `plot`): all layers together, then the largest ones."""

import importlib
import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from hmcompress.errors import SettingsError
from hmcompress.report.comparisons import METHODS, CompareReport, CompareRow, CompareTotal
from hmcompress.report.files import Name, check_page, write_page
from hmcompress.report.format import abbreviate, format_bytes, printable

MOST_LAYERS = 12
_COLUMNS = 4
Points = Sequence[CompareRow] | Sequence[CompareTotal]


def check_plot(path: str, models: Iterable[Name] = ()) -> None:
    """Say early why no picture can be drawn here.

    Raises SettingsError for a missing matplotlib and an ending that it does not know, OutputError.
    """
    check_page(path, models)
    _pyplot()
    known = importlib.import_module("matplotlib.backend_bases").FigureCanvasBase.get_supported_filetypes()
    if _format(path) not in known:
        raise SettingsError(f"--plot {path}: the ending says the format, one of {', '.join(sorted(known))}")


def write_plot(path: str, report: CompareReport, title: str) -> None:
    """Draw error against bytes, in all and layer by layer, to a file whose ending says the format.

    Raises SettingsError, OutputError.
    """
    check_plot(path)
    pyplot = _pyplot()
    layers = _largest_layers(report)
    figure, whole, panels = _canvas(pyplot, len(layers))
    _draw(whole, report.totals)
    whole.set(xlabel="bytes of all layers", ylabel="relative error", title=_plain(title, 70))
    whole.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    for axes, name in zip(panels, layers, strict=True):
        rows = [row for row in report.rows if row.layer == name]
        _draw(axes, rows)
        axes.set_title(_plain(name, 34), fontsize="small")
        _label_ends(axes, [row.bytes for row in rows if row.bytes])
    picture = io.BytesIO()
    figure.savefig(picture, format=_format(path))
    pyplot.close(figure)
    write_page(path, picture.getvalue())


def _format(path: str) -> str:
    """The ending without its dot; png where there is none."""
    return Path(path).suffix[1:].lower() or "png"


def _largest_layers(report: CompareReport) -> list[str]:
    """The layers with most bytes before compression, in their own order; none where rows bound no layer."""
    if report.at_our_bytes:  # metric outputs: only the network as a whole is bounded
        return []
    sizes = {row.layer: row.bytes * row.ratio for row in report.rows}
    chosen = sorted(sizes, key=lambda name: -sizes[name])[:MOST_LAYERS]
    return [name for name in sizes if name in chosen] if len(sizes) > 1 else []


def _canvas(pyplot: ModuleType, panels: int) -> tuple[Any, Any, list[Any]]:
    """A wide picture above a grid of small ones."""
    rows = math.ceil(panels / _COLUMNS)
    figure = pyplot.figure(figsize=(10, 4.5 + 2.2 * rows), layout="constrained")
    grid = figure.add_gridspec(1 + rows, _COLUMNS, height_ratios=[2, *[1] * rows])
    whole = figure.add_subplot(grid[0, :])
    return figure, whole, [figure.add_subplot(grid[1 + i // _COLUMNS, i % _COLUMNS]) for i in range(panels)]


def _draw(axes: Any, points: Points) -> None:
    for method in dict.fromkeys(point.method for point in points):
        line = sorted((p.bytes, p.error or p.tol) for p in points if p.method == method and p.bytes)
        if line:
            style = {"linewidth": 2.5, "zorder": 3} if method == "hmatrix" else {"linewidth": 1}
            axes.plot(*zip(*line, strict=True), marker="o", markersize=4, label=METHODS[method], **style)
    axes.set(xscale="log", yscale="log")
    axes.grid(True, which="major", alpha=0.3)


def _label_ends(axes: Any, sizes: Sequence[int]) -> None:
    """Only the smallest and the largest size, in words: small pictures have room for no more."""
    ends = sorted({min(sizes, default=1), max(sizes, default=1)})
    axes.set_xticks(ends, [format_bytes(size) for size in ends])
    axes.set_xticks([], minor=True)
    axes.tick_params(labelsize="x-small", which="both")


def _plain(name: str, width: int) -> str:
    """A name that matplotlib does not read as mathematics."""
    return abbreviate(printable(name), width).replace("$", r"\$")


def _pyplot() -> ModuleType:
    try:
        importlib.import_module("matplotlib").use("Agg")
        return importlib.import_module("matplotlib.pyplot")
    except ImportError:
        raise SettingsError("--plot needs matplotlib: pip install 'hmcompress[plot]'") from None
