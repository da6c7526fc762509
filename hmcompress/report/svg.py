"""Line charts as inline SVG: no script, no asset, colours from the page, series told apart by dash and marker too."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from hmcompress.report.format import format_bytes

WIDTH, HEIGHT = 640, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 12, 44
DASHES = ("", "6 3", "2 3", "8 3 2 3", "1 4", "10 4", "4 2", "3 6")


@dataclass(frozen=True)
class Series:
    """A named line; points with a coordinate that cannot be drawn on a log axis are left out."""

    label: str
    points: tuple[tuple[float, float], ...]
    strong: bool = False


@dataclass(frozen=True)
class Axis:
    """One axis: its label, whether it is logarithmic, and whether its numbers are sizes in bytes."""

    label: str
    log: bool = False
    sizes: bool = False

    def tick(self, value: float) -> str:
        """A round number as the axis shows it."""
        if not self.sizes:
            return _number(value)
        number, unit = format_bytes(round(value)).split(" ")
        return f"{number.rstrip('0').rstrip('.') if '.' in number else number} {unit}"


@dataclass(frozen=True)
class _Scale:
    low: float
    high: float
    start: float  # pixels
    end: float
    log: bool

    def __call__(self, value: float) -> float:
        value = math.log10(value) if self.log else value
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Three to eight round numbers within the axis."""
        if not self.log:
            return _round_steps(self.low, self.high)
        decades = range(math.floor(self.low), math.ceil(self.high) + 1)
        every = max(1, math.ceil((self.high - self.low) / 8))
        factors = (1.0,) if self.high - self.low > 2.5 else (1.0, 2.0, 5.0)
        ticks = [factor * 10.0**d for d in decades if d % every == 0 for factor in factors]
        inside = [tick for tick in ticks if self.low - 1e-9 <= math.log10(tick) <= self.high + 1e-9]
        return inside if len(inside) > 1 else [10.0**self.low, 10.0**self.high]


def _round_steps(low: float, high: float) -> list[float]:
    rough = (high - low) / 6
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    return [i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def line_chart(title: str, series: Sequence[Series], x: Axis, y: Axis) -> str:
    """A chart with axes, grid and legend below it; `title` is what a screen reader says."""
    drawn = [Series(s.label, _drawable(s.points, x, y), s.strong) for s in series]
    drawn = [s for s in drawn if s.points]
    if not drawn:
        return ""
    xs, ys = zip(*(point for s in drawn for point in s.points), strict=True)
    sx = _scale(xs, _LEFT, WIDTH - _RIGHT, x.log)
    sy = _scale(ys, HEIGHT - _BOTTOM, _TOP, y.log)
    lines = "".join(_line(i, s, sx, sy) for i, s in enumerate(drawn))
    head = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title, quote=True)}">'
    return f"<figure>{head}{_grid(sx, sy, x, y)}{lines}</svg>{_legend(drawn)}</figure>"


def _drawable(points: Sequence[tuple[float, float]], x: Axis, y: Axis) -> tuple[tuple[float, float], ...]:
    def fits(value: float, axis: Axis) -> bool:
        return math.isfinite(value) and (value > 0 or not axis.log)

    return tuple((a, b) for a, b in points if fits(a, x) and fits(b, y))


def _scale(values: Sequence[float], start: float, end: float, log: bool) -> _Scale:
    shown = [math.log10(value) if log else value for value in values]
    low, high = min(shown), max(shown)
    margin = (high - low) * 0.05 or 0.5
    return _Scale(low - margin, high + margin, start, end, log)


def _grid(sx: _Scale, sy: _Scale, x: Axis, y: Axis) -> str:
    bottom = HEIGHT - _BOTTOM
    parts = [f'<g class="axis"><path d="M{_LEFT} {_TOP}V{bottom}H{WIDTH - _RIGHT}"/>']
    for tick in sx.ticks():
        parts.append(f'<path class="grid" d="M{sx(tick):.1f} {_TOP}V{bottom}"/>')
        parts.append(f'<text x="{sx(tick):.1f}" y="{bottom + 16}" text-anchor="middle">{x.tick(tick)}</text>')
    for tick in sy.ticks():
        parts.append(f'<path class="grid" d="M{_LEFT} {sy(tick):.1f}H{WIDTH - _RIGHT}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{sy(tick) + 4:.1f}" text-anchor="end">{y.tick(tick)}</text>')
    middle = (_TOP + bottom) / 2
    parts.append(f'<text x="{(_LEFT + WIDTH) / 2}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x.label)}</text>')
    turn = f'transform="rotate(-90 14 {middle})"'
    parts.append(f'<text x="14" y="{middle}" text-anchor="middle" {turn}>{escape(y.label)}</text></g>')
    return "".join(parts)


def _line(index: int, series: Series, sx: _Scale, sy: _Scale) -> str:
    points = [(sx(a), sy(b)) for a, b in series.points]
    path = "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in points)
    weight = ' class="strong"' if series.strong else ""
    dash = DASHES[index % len(DASHES)]
    line = f'<path d="{path}" stroke-dasharray="{dash}"/>' if dash else f'<path d="{path}"/>'
    dots = "".join(f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3"/>' for a, b in points) if len(points) <= 20 else ""
    return f'<g style="--series:var(--s{index % 8})"><g{weight}>{line}{dots}</g></g>'


def _legend(drawn: Sequence[Series]) -> str:
    items = []
    for i, series in enumerate(drawn):
        dash = DASHES[i % len(DASHES)]
        swatch = f'<svg viewBox="0 0 30 8" aria-hidden="true"><path d="M0 4H30" stroke-dasharray="{dash}"/></svg>'
        items.append(f'<li style="--series:var(--s{i % 8})">{swatch}{escape(series.label)}</li>')
    return f'<figcaption><ul class="legend">{"".join(items)}</ul></figcaption>'


def _number(value: float) -> str:
    if value and (abs(value) >= 1e4 or abs(value) < 1e-2):
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    return f"{value:.4g}"
