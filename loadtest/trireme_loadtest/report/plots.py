"""Plots as SVG, without a library, limited to what a self-contained report needs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 640, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 40, 44
COLOURS = ("#2563eb", "#d97706", "#7c3aed", "#059669", "#0891b2", "#be185d", "#65a30d", "#475569")
_LEGEND_ROW = 18
# Light colours of a report's page.
_FILE_STYLE = (
    "text{font:12px sans-serif;fill:#475569}.title{font-weight:600;font-size:14px;fill:#0f172a}"
    ".tick-y,.bar-label,.limit-label{text-anchor:end}.tick-x,.label{text-anchor:middle}"
    ".grid{stroke:#e2e8f0}.limit{stroke:#dc2626;stroke-dasharray:5 4}.limit-label{fill:#dc2626}"
)


@dataclass(frozen=True, slots=True)
class Series:
    """Named points; NaN leaves a gap in a line."""

    name: str
    points: Sequence[tuple[float, float]]
    as_line: bool = True


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis: maps values to pixels."""

    label: str
    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        low, high, value = (
            (math.log10(self.low), math.log10(self.high), math.log10(max(value, self.low)))
            if self.log
            else (self.low, self.high, value)
        )
        return self.start + (value - low) / (high - low or 1) * (self.end - self.start)

    def ticks(self) -> list[float]:
        if self.log:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            values = [mantissa * 10.0**decade for decade in decades for mantissa in (1, 2, 5)]
        else:
            step = _nice((self.high - self.low) / 5)
            values = [step * index for index in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]
        return [value for value in values if self.low <= value <= self.high * 1.000001]


def xy_chart(
    title: str,
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    limits: Sequence[tuple[str, float]] = (),
    log_y: bool = False,
) -> str:
    """Lines or dots over two axes, with dashed lines at ``limits``."""
    points = [point for one in series for point in one.points if math.isfinite(point[1])]
    if not points:
        return _empty(title)
    ys = [y for _, y in points] + [limit for _, limit in limits]
    x_axis, y_axis = _axes([x for x, _ in points], ys, x_label, y_label, log_y)
    legend, legend_height = _legend([one.name for one in series], title, HEIGHT)
    parts = [_frame(title, x_axis, y_axis), legend]
    for index, one in enumerate(series):
        parts.append(_drawn(one, COLOURS[index % len(COLOURS)], x_axis, y_axis))
    for label, limit in limits:
        y = y_axis.at(limit)
        parts.append(
            f'<line x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="limit"/>'
            f'<text x="{WIDTH - _RIGHT - 4}" y="{y - 4:.1f}" class="limit-label">{escape(label)}</text>'
        )
    return _svg(title, parts, HEIGHT + legend_height)


def histogram_chart(
    title: str, counts: Sequence[tuple[float, float]], *, x_label: str, limits: Sequence[tuple[str, float]] = ()
) -> str:
    """Counts of values over a logarithmic axis, in sixty bars."""
    if not counts:
        return _empty(title)
    low, high = min(value for value, _ in counts), max(value for value, _ in counts) * 1.001
    low, high = min([low, *(limit for _, limit in limits)]) * 0.95, max([high, *(limit for _, limit in limits)]) * 1.05
    bins = 60
    width = math.log(high / low) / bins
    heights = [0.0] * bins
    for value, count in counts:
        heights[min(bins - 1, int(math.log(value / low) / width))] += count
    x_axis = Axis(x_label, low, high, _LEFT, WIDTH - _RIGHT, log=True)
    y_axis = Axis("requests", 0, max(heights) * 1.08, HEIGHT - _BOTTOM, _TOP)
    parts = [_frame(title, x_axis, y_axis)]
    for index, height in enumerate(heights):
        if height:
            left, right = x_axis.at(low * math.exp(index * width)), x_axis.at(low * math.exp((index + 1) * width))
            parts.append(
                _rectangle(left, y_axis.at(height), right - 0.6, y_axis.at(0), COLOURS[0], f"{height:.0f} requests")
            )
    for label, limit in limits:
        x = x_axis.at(limit)
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{HEIGHT - _BOTTOM}" class="limit"/>'
            f'<text x="{x - 4:.1f}" y="{_TOP + 12}" class="limit-label">{escape(label)}</text>'
        )
    return _svg(title, parts)


def bar_chart(title: str, bars: Sequence[tuple[str, Sequence[tuple[str, float]]]], *, x_label: str) -> str:
    """Horizontal bars, each of stacked (name, value) parts."""
    longest = max((sum(value for _, value in parts) for _, parts in bars), default=0.0)
    if longest <= 0:
        return _empty(title)
    names = list(dict.fromkeys(name for _, parts in bars for name, _ in parts))
    row = 34
    height = _TOP + row * len(bars) + _BOTTOM
    left = 24 + 7 * max(len(label) for label, _ in bars)
    x_axis = Axis(x_label, 0, longest * 1.02, left, WIDTH - _RIGHT)
    drawn = [_x_grid(x_axis, height - _BOTTOM), _heading(title)]
    legend, legend_height = _legend(names if len(names) > 1 else [], title, height)
    drawn.append(legend)
    for index, (label, parts) in enumerate(bars):
        top, reached = _TOP + row * index + 6, 0.0
        drawn.append(f'<text x="{left - 8}" y="{top + 15}" class="bar-label">{escape(label)}</text>')
        for name, value in parts:
            colour = COLOURS[names.index(name) % len(COLOURS)]
            start, end = x_axis.at(reached), x_axis.at(reached + value)
            drawn.append(_rectangle(start, top, end, top + 22, colour, f"{name}: {value:.4g}"))
            reached += value
    return _svg(title, drawn, height + legend_height)


def _axes(xs: Sequence[float], ys: Sequence[float], x_label: str, y_label: str, log_y: bool) -> tuple[Axis, Axis]:
    low, high = min(xs), max(xs)
    if low == high:
        low, high = low - 0.5, high + 0.5
    x_axis = Axis(x_label, low, high, _LEFT, WIDTH - _RIGHT)
    # Logarithmic only if values span a wide range: a flat run is easier to read from zero.
    if log_y and max(ys) > 20 * min(ys) > 0:
        return x_axis, Axis(y_label, min(ys) * 0.8, max(ys) * 1.25, HEIGHT - _BOTTOM, _TOP, log=True)
    return x_axis, Axis(y_label, 0, (max(ys) or 1.0) * 1.1, HEIGHT - _BOTTOM, _TOP)


def _drawn(series: Series, colour: str, x_axis: Axis, y_axis: Axis) -> str:
    at = [(x_axis.at(x), y_axis.at(y), x, y) for x, y in series.points if math.isfinite(y)]
    dots = "".join(
        f'<circle cx="{left:.1f}" cy="{top:.1f}" r="2.6" fill="{colour}">'
        f"<title>{escape(series.name)}: {x:.4g}, {y:.4g}</title></circle>"
        for left, top, x, y in at
    )
    if not series.as_line:
        return dots
    path, started = "", False
    for x, y in series.points:
        if not math.isfinite(y):
            started = False
            continue
        path += f"{'L' if started else 'M'}{x_axis.at(x):.1f} {y_axis.at(y):.1f}"
        started = True
    return f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.8"/>{dots}'


def _frame(title: str, x_axis: Axis, y_axis: Axis) -> str:
    grid = "".join(
        f'<line x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y_axis.at(tick):.1f}" y2="{y_axis.at(tick):.1f}" class="grid"/>'
        f'<text x="{_LEFT - 8}" y="{y_axis.at(tick) + 4:.1f}" class="tick-y">{_short(tick)}</text>'
        for tick in y_axis.ticks()
    )
    middle = (_TOP + HEIGHT - _BOTTOM) / 2
    label = f'<text transform="translate(14 {middle}) rotate(-90)" class="label">{escape(y_axis.label)}</text>'
    return _heading(title) + grid + label + _x_grid(x_axis, HEIGHT - _BOTTOM)


def _x_grid(axis: Axis, bottom: float) -> str:
    ticks = "".join(
        f'<line x1="{axis.at(tick):.1f}" x2="{axis.at(tick):.1f}" y1="{_TOP}" y2="{bottom}" class="grid"/>'
        f'<text x="{axis.at(tick):.1f}" y="{bottom + 16}" class="tick-x">{_short(tick)}</text>'
        for tick in axis.ticks()
    )
    middle = (axis.start + axis.end) / 2
    return ticks + f'<text x="{middle}" y="{bottom + 36}" class="label">{escape(axis.label)}</text>'


def _heading(title: str) -> str:
    return f'<text x="12" y="20" class="title">{escape(title)}</text>'


def _legend(names: Sequence[str], title: str, bottom: float) -> tuple[str, float]:
    """Next to the title if there is room, else below the plot, from ``bottom`` on; also returns the added height."""
    if not names:
        return "", 0.0
    widths = [7.0 * len(name) + 26 for name in names]
    if 12 + 8 * len(title) + sum(widths) < WIDTH - _RIGHT:
        lefts = [WIDTH - _RIGHT - sum(widths[index:]) + 26 for index in range(len(names))]
        return "".join(_entry(index, name, lefts[index], 20) for index, name in enumerate(names)), 0.0
    column = max(widths)
    columns = max(1, int((WIDTH - _LEFT - _RIGHT) // column))
    parts = [
        _entry(index, name, _LEFT + 16 + index % columns * column, bottom + 10 + index // columns * _LEGEND_ROW)
        for index, name in enumerate(names)
    ]
    return "".join(parts), _LEGEND_ROW * math.ceil(len(names) / columns) + 4.0


def _entry(index: int, name: str, left: float, bottom: float) -> str:
    return (
        f'<rect x="{left - 15:g}" y="{bottom - 9:g}" width="10" height="10" rx="2" '
        f'fill="{COLOURS[index % len(COLOURS)]}"/>'
        f'<text x="{left:g}" y="{bottom:g}" class="legend">{escape(name)}</text>'
    )


def _rectangle(left: float, top: float, right: float, bottom: float, colour: str, hint: str) -> str:
    return (
        f'<rect x="{left:.1f}" y="{top:.1f}" width="{max(right - left, 0.3):.1f}" height="{bottom - top:.1f}" '
        f'fill="{colour}"><title>{escape(hint)}</title></rect>'
    )


def _empty(title: str) -> str:
    return _svg(title, [_heading(title), f'<text x="{WIDTH / 2}" y="60" class="label">nothing to show</text>'], 90)


def _svg(title: str, parts: Sequence[str], height: float = HEIGHT) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}" '
        f'xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'
    )


def svg_file(chart: str) -> bytes:
    """A chart as a separate file: with a background, and the style that a report's page would give it."""
    head, tag, rest = chart.partition(">")
    return f'{head}{tag}<style>{_FILE_STYLE}</style><rect width="100%" height="100%" fill="white"/>{rest}'.encode()


def _nice(step: float) -> float:
    """The next of 1, 2, 5, 10, ... at or above ``step``."""
    if step <= 0:
        return 1.0
    decade = 10.0 ** math.floor(math.log10(step))
    return next(decade * mantissa for mantissa in (1, 2, 5, 10) if decade * mantissa >= step * 0.999999)


def _short(value: float) -> str:
    return f"{value / 1000:g}k" if abs(value) >= 10_000 else f"{value:.10g}"
