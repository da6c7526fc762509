"""The parts of the benchmark page: what is measured, and how it is drawn in Markdown."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from matrices import MODELS, OPERATORS
from measure import measured

TOLS = [1e-1, 1e-2, 1e-3, 1e-4]
METHODS = {
    "hmatrix": "hmcompress",
    "hmatrix max": "hmcompress, --effort max",
    "hmatrix fast": "hmcompress, --effort fast",
    "svd32": "SVD, fp32 factors",
    "svd16": "SVD, fp16 factors",
    "quantization": "quantisation",
    "pruning": "magnitude pruning",
    "quantization_entropy": "quantisation + pcodec",
    "sz3": "SZ3",
    "zfp": "zfp",
    "lossless": "lossless",
}
OURS = ("hmatrix", "hmatrix max", "hmatrix fast")
SIZES = (512, 1024, 2048, 4096, 8192)
MOST_FOR_SVD = 2048  # a singular value decomposition beyond takes longer than everything else together

Tell = Callable[[str], None]
Result = dict[str, Any]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def ratio(value: float) -> str:
    return f"{value:.2f}x" if value < 20 else f"{value:.0f}x"


def size(nbytes: float) -> str:
    units = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "B"))
    scale, unit = next(((s, u) for s, u in units if nbytes >= s), (1, "B"))
    return f"{nbytes / scale:.3g} {unit}"


def bytes_at(result: Result, tol: float) -> int:
    return sum(row[2] for row in result["rows"] if row[1] == tol)


def worst_error(result: Result, tol: float) -> float:
    """Largest measured error over the tolerance."""
    return max(row[3] for row in result["rows"] if row[1] == tol) / tol


# ---- public models ----


def models(methods: Sequence[str], names: Sequence[str], tell: Tell) -> str:
    """Ratios of every method on every model, and ours against the best peer of each layer."""
    results: dict[tuple[str, str], Result] = {}
    for name in names:
        for method in methods:
            tell(f"{name}: {method}")
            results[name, method] = measured(f"model:{name}", method, TOLS)
    parts = [
        "## Public models\n",
        "Compressed size against fp32, 2-D weights whose smaller side is at least 16. *Best peer* takes the smallest "
        "of the other methods layer by layer: no single one of them is that good.\n",
    ]
    for tol in TOLS:
        parts.append(f"### Tolerance {tol:g}\n\n" + _ratios(results, methods, names, tol))
    return "\n".join([*parts, "### Time and memory\n", _costs(results, methods, names), _held(results)])


def _ratios(results: dict, methods: Sequence[str], names: Sequence[str], tol: float) -> str:
    rows = []
    for method in methods:
        found = [results[name, method] for name in names]
        rows.append([METHODS[method], *(ratio(r["source_bytes"] / bytes_at(r, tol)) for r in found)])
    if all(method in OURS for method in methods):
        return table(["method", *names], rows)
    best = [_best_peer(results, methods, name, tol) for name in names]
    source = [results[name, methods[0]]["source_bytes"] for name in names]
    rows.append(["*best peer, layer by layer*", *(ratio(s / b) for s, b in zip(source, best, strict=True))])
    for method in (m for m in methods if m in OURS):
        against = [b / bytes_at(results[name, method], tol) for name, b in zip(names, best, strict=True)]
        rows.append([f"**{METHODS[method]} against it**", *(f"{a:.3f}x" for a in against)])
    return table(["method", *names], rows)


def _best_peer(results: dict, methods: Sequence[str], name: str, tol: float) -> int:
    smallest: dict[str, int] = {}
    for method in (m for m in methods if m not in OURS):
        for layer, at, nbytes, *_ in results[name, method]["rows"]:
            if at == tol:
                smallest[layer] = min(smallest.get(layer, nbytes), nbytes)
    return sum(smallest.values())


def _costs(results: dict, methods: Sequence[str], names: Sequence[str]) -> str:
    """Seconds to find, encode and decode for all tolerances; memory beyond the process and its weights."""
    rows = []
    for method in methods:
        cells = []
        for name in names:
            result = results[name, method]
            encode, decode = (sum(row[i] for row in result["rows"]) for i in (4, 5))
            cells.append(f"{encode:.3g} s, {decode:.2g} s, {size(result['peak_bytes'])}")
        rows.append([METHODS[method], *cells])
    text = "Encode (search included), decode, and peak memory beyond the weights; the four tolerances together.\n\n"
    return text + table(["method", *names], rows)


def _held(results: dict) -> str:
    worst = max(worst_error(result, tol) for result in results.values() for tol in TOLS)
    return f"Largest measured error over its tolerance, in all of these runs: {worst:.5f}.\n"


# ---- kernels and operators ----


def kernels(methods: Sequence[str], tell: Tell, n: int = 1024) -> str:
    """Ratios on smooth kernels, shuffled ones, and operators learned from data."""
    names = ["1/(abs(x-y)+1/n)", "exp(-abs(p-q)/0.2) on a grid", "min(x,y)(1-max(x,y))"]
    sources = [(f"kernel:{name}", name) for name in names]
    sources += [(f"shuffled:{name}", f"{name}, shuffled") for name in names]
    sources += [(f"operator:{name}", name) for name in OPERATORS] + [("kernel:white noise", "white noise")]
    rows = []
    for source, title in sources:
        tell(title)
        found = [measured(source, method, TOLS[1::2], n) for method in methods]
        for tol in TOLS[1::2]:
            rows.append([f"{title} at {tol:g}", *(ratio(r["source_bytes"] / bytes_at(r, tol)) for r in found)])
    return f"## Kernels and operators, n = {n}\n\n" + table(["matrix", *(METHODS[m] for m in methods)], rows)


def growth(sizes: Sequence[int], tell: Tell, tol: float = 1e-4) -> str:
    """How bytes, seconds and memory grow with n."""
    parts = [f"## Growth with n, tolerance {tol:g}\n"]
    for name in ("1/(abs(x-y)+1/n)", "exp(-abs(p-q)/0.2) on a grid", "min(x,y)(1-max(x,y))"):
        rows, grown = [], []
        for n in sizes:
            tell(f"{name}, n = {n}")
            ours = measured(f"kernel:{name}", "hmatrix", [tol], n)
            others = {m: _unless_too_large(name, m, tol, n) for m in ("sz3", "quantization_entropy", "svd32")}
            grown.append((n, bytes_at(ours, tol), ours["rows"][0][4]))
            rows.append(
                [str(n), size(ours["source_bytes"]), *_cells(ours, tol)] + [_brief(r, tol) for r in others.values()]
            )
        parts += [f"### {name}\n", table([
            "n", "fp32", "ours", "ratio", "encode", "decode", "memory", "SZ3", "quantisation + pcodec", "SVD, fp32",
        ], rows), _exponents(grown)]  # fmt: skip
    return "\n".join(parts)


def _unless_too_large(name: str, method: str, tol: float, n: int) -> Result | None:
    return None if method == "svd32" and n > MOST_FOR_SVD else measured(f"kernel:{name}", method, [tol], n)


def _cells(result: Result, tol: float) -> list[str]:
    (_, _, nbytes, _, encode, decode), source = result["rows"][0], result["source_bytes"]
    return [size(nbytes), ratio(source / nbytes), f"{encode:.3g} s", f"{decode:.2g} s", size(result["peak_bytes"])]


def _brief(result: Result | None, tol: float) -> str:
    if result is None:
        return ""
    return f"{ratio(result['source_bytes'] / bytes_at(result, tol))}, {result['rows'][0][4]:.3g} s"


def _exponents(grown: Sequence[tuple[int, int, float]]) -> str:
    (n0, b0, t0), (n1, b1, t1) = grown[0], grown[-1]
    if n0 == n1:
        return ""
    byte, second = (math.log(b / a) / math.log(n1 / n0) for a, b in ((b0, b1), (t0, t1)))
    return f"Bytes grow as n^{byte:.2f}, encode seconds as n^{second:.2f}, from n = {n0} to {n1}.\n"


__all__ = ["METHODS", "MODELS", "SIZES", "growth", "kernels", "models"]
