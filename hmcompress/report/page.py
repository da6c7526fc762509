"""The frame of an HTML page: one file, light and dark, no script, nothing loaded from elsewhere."""

from collections.abc import Iterable, Sequence
from html import escape

from hmcompress.report.format import printable

_STYLE = """
:root { color-scheme: light dark; --ground: #fff; --ink: #1b1f24; --soft: #59636e; --rule: #d4d9df; --band: #f5f7f9;
  --bad: #b3261e; --good: #1a6b3c; --bar: #2f6db5; --bar2: #c9d4e0;
  --s0: #1f5fa8; --s1: #b0521a; --s2: #2d7a3e; --s3: #8a3fa0; --s4: #8a6d00; --s5: #a32b5b; --s6: #16767d; --s7: #555; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #14171b; --ink: #e4e8ec; --soft: #9aa5b1; --rule: #363d45; --band: #1c2126;
    --bad: #ff8a80; --good: #7ad19a; --bar: #6aa5e8; --bar2: #38434f;
    --s0: #6aa5e8; --s1: #f0a06a; --s2: #7ad19a; --s3: #cf9be0; --s4: #e0c45c; --s5: #f08fb4;
    --s6: #6fd0d6; --s7: #aaa; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 1.5rem 1rem 4rem; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.4rem; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 2.2rem 0 .6rem; }
p { margin: .4rem 0; max-width: 60rem; overflow-wrap: anywhere; }
.soft { color: var(--soft); } .bad { color: var(--bad); font-weight: 600; } .good { color: var(--good); }
dl.facts { display: flex; flex-wrap: wrap; gap: .75rem 2.5rem; margin: 1.2rem 0; }
dl.facts dt { color: var(--soft); font-size: .85rem; } dl.facts dd { margin: 0; font-size: 1.25rem; }
.scroll { overflow-x: auto; margin: 0 0 1.2rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; width: 100%; font-size: .9rem; }
caption { text-align: left; color: var(--soft); padding: .3rem 0; }
th, td { padding: .25rem .45rem; text-align: right; border-bottom: 1px solid var(--rule); white-space: nowrap; }
th { font-weight: 600; vertical-align: bottom; } td.text, th.text { text-align: left; }
td.name { overflow-wrap: anywhere; min-width: 9rem; white-space: pre-wrap; }
tbody tr:nth-child(even) { background: var(--band); } tfoot td, tfoot th { font-weight: 600; border-bottom: 0; }
tr.ours { font-weight: 600; }
.size { display: inline-block; width: 4rem; height: .7rem; background: var(--bar2); vertical-align: middle; }
.size i { display: block; height: 100%; background: var(--bar); }
figure { margin: 1rem 0; max-width: 46rem; }
figure svg { width: 100%; height: auto; font-size: 12px; }
.axis path { stroke: var(--soft); fill: none; } .axis path.grid { stroke: var(--rule); stroke-width: .6; }
.axis text { fill: var(--soft); }
svg path { stroke: var(--series); fill: none; stroke-width: 1.5; } svg circle { fill: var(--series); }
.strong path { stroke-width: 3; }
ul.legend { list-style: none; display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; padding: 0; margin: .3rem 0; }
ul.legend svg { width: 30px; height: 8px; margin-right: .4rem; }
summary { cursor: pointer; } pre { overflow-x: auto; }
"""

Cell = str  # already escaped


def text(value: object) -> Cell:
    """Any value as safe HTML, control characters out."""
    return escape(printable(str(value)), quote=True)


def page(title: str, parts: Iterable[str]) -> str:
    """A whole document."""
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{text(title)}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<style>{_STYLE}</style>\n</head>\n'
        f"<body>\n<main>\n{chr(10).join(part for part in parts if part)}\n</main>\n</body>\n</html>\n"
    )


def facts(pairs: Sequence[tuple[str, str]]) -> str:
    """The few figures that matter most."""
    items = "".join(f"<div><dt>{text(name)}</dt><dd>{text(value)}</dd></div>" for name, value in pairs)
    return f'<dl class="facts">{items}</dl>'


def table(
    caption: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[Cell]],
    foot: Iterable[Sequence[Cell]] = (),
    strong: Sequence[bool] = (),
) -> str:
    """A table whose first column heads its rows; a leading < in a column's title aligns it to the left."""
    head = "".join(_head(column) for column in columns)
    marks = [*strong]
    body = "".join(_row(row, columns, i < len(marks) and marks[i]) for i, row in enumerate(rows))
    feet = "".join(_row(row, columns, False) for row in foot)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{text(caption)}"><table>'
        f"<caption>{text(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
        f"{f'<tfoot>{feet}</tfoot>' if feet else ''}</table></div>"
    )


def _head(column: str) -> str:
    left = ' class="text"' if column.startswith("<") else ""
    return f'<th scope="col"{left}>{text(column.lstrip("<"))}</th>'


def _row(row: Sequence[Cell], columns: Sequence[str], strong: bool) -> str:
    cells = [f'<td class="text name">{row[0]}</td>']
    for cell, column in zip(row[1:], columns[1:], strict=True):
        cells.append(f'<td class="text">{cell}</td>' if column.startswith("<") else f"<td>{cell}</td>")
    opening = '<tr class="ours">' if strong else "<tr>"
    return f"{opening}{''.join(cells)}</tr>"
