"""Every sample beside the other compressors at the same error of the network: the table of docs/outputs.md.

`OMP_NUM_THREADS=1 python tests/benchmarks/compare_figures.py [SAMPLE[:kernel]]...`, minutes each.
"""

import sys
import time

from hmcompress.pipeline import compare
from hmcompress.report.comparisons import CompareReport

SAMPLES = ("burgers", "helmholtz", "allen_cahn", "deeponet", "greens", "poisson", "fourier")
CASES = (*SAMPLES, "burgers:kernel", "helmholtz:kernel")
TOLERANCES = (1e-2, 1e-3)
SVD, OTHERS = ("svd32", "svd16"), ("pruning", "quantization", "quantization_entropy")


def rows(case: str) -> list[str]:
    """Lines of the table for one sample; its kernel is bounded where the case says so."""
    name, _, kernel = case.partition(":")
    options = {} if kernel else {"ntk": "off"}
    start = time.process_time()
    found = compare(f"sample_models/{name}.pt", TOLERANCES, config=f"configs/{name}.yaml", metric="outputs", **options)
    seconds = time.process_time() - start
    return [row(case.replace(":", ", with its "), found, tol, seconds / len(TOLERANCES)) for tol in TOLERANCES]


def row(title: str, found: CompareReport, tol: float, seconds: float) -> str:
    """Bytes of every method, the best of the others over ours, and the errors of these two."""
    totals = {total.method: total for total in found.totals if total.tol == tol}
    ours, svd = totals["hmatrix"], min((totals[name] for name in SVD), key=lambda total: total.bytes)
    others = [svd, *(totals[name] for name in OTHERS)]
    best = min(others, key=lambda total: total.bytes)
    sizes = " | ".join(f"{total.bytes}" for total in (ours, *others))
    return (
        f"| {title} | {tol:g} | {sizes} | {best.bytes / ours.bytes:.1f}x | {ours.error:.2e} | {best.error:.2e} "
        f"| {seconds:.0f} |"
    )


def main() -> None:
    for case in sys.argv[1:] or CASES:
        print("\n".join(rows(case)), flush=True)


if __name__ == "__main__":
    main()
