"""Reproduce docs/benchmarks.md: python tests/benchmarks/reproduce.py

Needs the extra `bench` and, for the public models, the zoo in $HMC_ZOO or ~/.cache/hmc-zoo. Every figure of a run is
measured in that run, on one machine, each method in a process of its own with one thread.
"""

import argparse
import os
import platform
import sys
import time
from pathlib import Path

import torch
from matrices import MODELS, zoo
from networks import networks
from parts import METHODS, SIZES, growth, kernels, models

PARTS = ("models", "kernels", "growth", "networks")
ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    options = _options()
    start = time.perf_counter()
    pages = [_header(options)]
    for part in options.parts:
        pages.append(_part(part, options))
        _write(options.out, pages, start)  # a long run that ends early leaves what it measured


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks.md")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=[m for m in METHODS if m != "hmatrix max"])
    parser.add_argument("--note", default="", help="a sentence about this run, for the head of the page")
    parser.add_argument("--largest", type=int, default=SIZES[-1], help="largest n of the growth part")
    return parser.parse_args()


def _part(part: str, options: argparse.Namespace) -> str:
    if part == "models":
        there = [name for name in options.models if (zoo() / MODELS[name]).exists()]
        return models(options.methods, there, _tell) if there else f"The zoo is not in {zoo()}.\n"
    if part == "kernels":
        return kernels([m for m in options.methods if m != "lossless"], _tell)
    if part == "growth":
        return growth([n for n in SIZES if n <= options.largest], _tell)
    return networks((1e-2, 1e-3), _tell)


def _header(options: argparse.Namespace) -> str:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    machine = f"{cores} cores, {_processor()}, Python {platform.python_version()}, torch {torch.__version__}"
    return f"""# Benchmarks

Written by `{_command(options)}` on {time.strftime("%Y-%m-%d")}; {machine}. Every method runs in a process of its own
with one thread. Sizes count everything needed to decode but shape and dtype. Each method is given the tolerance,
searches its own knobs, really encodes and decodes, and its relative Frobenius error is measured on the decoded
float32 weights; where it is no smaller than the weights, the weights are kept.
{options.note and chr(10) + options.note + chr(10)}"""


def _command(options: argparse.Namespace) -> str:
    given = [a for a in sys.argv[1:] if str(options.out) not in a and a != "--out"]
    return " ".join(["python tests/benchmarks/reproduce.py", *given])


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")] \
        if info.exists() else []  # fmt: skip
    return names[0] if names else platform.machine()


def _tell(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def _write(out: Path, pages: list[str], start: float) -> None:
    minutes = (time.perf_counter() - start) / 60
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("\n".join([*pages, f"The whole run took {minutes:.0f} minutes.\n"]), encoding="utf-8")


if __name__ == "__main__":
    main()
