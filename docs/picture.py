"""Draw docs/rate.svg, bytes against error of the network's outputs: python docs/picture.py [compare.json].

Without an argument it runs the comparison itself, which takes some minutes:
hmcompress compare sample_models/burgers.pt --config configs/burgers.yaml --tol 1e-2 --tol 1e-3 --tol 1e-4
"""

import json
import re
import subprocess
import sys
from pathlib import Path

from hmcompress.report.comparisons import METHODS
from hmcompress.report.svg import DASHES, HEIGHT, WIDTH, Axis, Series, line_chart

ROOT = Path(__file__).parents[1]
COMMAND = ["compare", "sample_models/burgers.pt", "--config", "configs/burgers.yaml", "--json"]
TOLERANCES = ("1e-2", "1e-3", "1e-4")
DRAWN = ("hmatrix", "quantization_entropy", "quantization", "pruning", "svd16")
STYLE = """
svg { --s0: #1f5fa8; --s1: #b0521a; --s2: #2d7a3e; --s3: #8a3fa0; --s4: #8a6d00; --ink: #333; --rule: #d4d9df;
  font: 12px system-ui, sans-serif; }
@media (prefers-color-scheme: dark) { svg { --s0: #6aa5e8; --s1: #f0a06a; --s2: #7ad19a; --s3: #cf9be0; --s4: #e0c45c;
  --ink: #c9d1d9; --rule: #3d444d; } }
path { stroke: var(--series); fill: none; stroke-width: 1.5; } circle { fill: var(--series); }
.strong path { stroke-width: 3; } .axis path { stroke: var(--ink); } .axis path.grid { stroke: var(--rule); }
.axis text, .key text { fill: var(--ink); }
"""


def compared() -> dict:
    if len(sys.argv) > 1:
        return json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    options = [option for tol in TOLERANCES for option in ("--tol", tol)]
    command = [sys.executable, "-m", "hmcompress", *COMMAND, *options]
    return json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout)


def series(totals: list[dict]) -> list[Series]:
    """Points at the measured error; a method that gave up and kept everything has none worth drawing."""
    lines = []
    for method in DRAWN:
        points = sorted((float(t["bytes"]), t["error"]) for t in totals if t["method"] == method and t["error"])
        if points:
            lines.append(Series(METHODS[method], tuple(points), strong=method == "hmatrix"))
    return lines


def key(lines: list[Series]) -> str:
    """The names of the lines, below the chart."""
    items = []
    for i, line in enumerate(lines):
        x, y = (70, 240, 460)[i % 3], HEIGHT + 16 + i // 3 * 18
        swatch = f'<path d="M{x} {y - 4}h26" stroke-dasharray="{DASHES[i]}" style="--series:var(--s{i})"/>'
        items.append(f'{swatch}<text x="{x + 32}" y="{y}">{line.label}</text>')
    return f'<g class="key">{"".join(items)}</g>'


def chart(lines: list[Series]) -> str:
    return line_chart(
        "", lines, Axis("size of the layers", log=True, sizes=True), Axis("relative error of the outputs", log=True)
    )


def main() -> None:
    lines = series(compared()["totals"])
    body = re.search(r"<svg[^>]*>(.*?)</svg>", chart(lines), re.DOTALL)[1]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT + 44}" role="img">'
    title = "<title>Bytes against error of the outputs of a trained Burgers PINN, ours and others</title>"
    picture = f"{head}{title}<style>{STYLE}</style>{body}{key(lines)}</svg>\n"
    (ROOT / "docs" / "rate.svg").write_text(picture, encoding="utf-8")


if __name__ == "__main__":
    main()
