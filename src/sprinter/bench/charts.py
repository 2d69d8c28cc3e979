"""Charts as inline SVG: points with labels in a gutter, horizontal boxes, reliability diagrams. No dependencies."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sprinter.door import is_obeyed

WIDTH: Final = 1000  # of the plot's own units; the page scales them
_GUTTER: Final = 270  # what a label of 40 letters takes
_LABEL_STEP: Final = 17  # least distance of two labels, below it they overlap


@dataclass(frozen=True, slots=True)
class Point:
    """A method in a scatter plot, with the interval of its height."""

    label: str
    x: float
    y: float
    low: float | None  # None where one prompt tells nothing about it
    high: float | None
    family: str  # CSS class


@dataclass(frozen=True, slots=True)
class Axis:
    """A linear axis from `start` to `stop` in the data's units, drawn from `begin` to `end` in the plot's."""

    start: float
    stop: float
    begin: float
    end: float

    def at(self, value: float) -> float:
        """Where a value lies in the plot."""
        share = (value - self.start) / (self.stop - self.start) if self.stop > self.start else 0.5
        return self.begin + share * (self.end - self.begin)

    def ticks(self, count: int = 5) -> list[float]:
        """About `count` round values within the axis.

        >>> Axis(0, 1, 0, 100).ticks()
        [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
        """
        raw = (self.stop - self.start) / count
        if raw <= 0:
            return [self.start]
        scale = 10 ** math.floor(math.log10(raw))
        step = next(scale * factor for factor in (1, 2, 2.5, 5, 10) if scale * factor >= raw * 0.999)
        first = math.ceil(self.start / step - 1e-9)
        last = math.floor(self.stop / step + 1e-9)
        return [round(n * step, 10) for n in range(first, last + 1)]


def escape(text: object) -> str:
    """Text made harmless for HTML and SVG: markup escaped, control and direction-changing characters replaced."""
    # A right-to-left override would turn the page's own words around; a NUL or a lone surrogate breaks parsers.
    safe = "".join("\ufffd" if is_obeyed(c) else c for c in str(text))
    return html.escape(safe, quote=True)


def scatter(points: Sequence[Point], x_title: str, y_title: str, height: int = 420) -> str:
    """Points with 95% whiskers; names stand in a gutter on the right, joined to their points by thin lines."""
    right, bottom, top = WIDTH - _GUTTER, height - 52, 16
    height = max(height, top + 68 + _LABEL_STEP * len(points))
    bottom = height - 52
    xs, ys = [p.x for p in points] or [0.0], [p.y if p.high is None else p.high for p in points] or [1.0]
    room = 0.04 * (max(0.01, *xs) - min(0.0, *xs))  # a point on the frame would be cut
    x_axis = Axis(min(0.0, *xs) - room, max(0.01, *xs) + room, 66, right)
    y_axis = Axis(0.0, max(1.0, *ys) * 1.06, bottom, top)
    parts = [_grid(x_axis, y_axis, x_title, y_title, height, percent=True)]
    parts.append(_line(66, y_axis.at(1), right, y_axis.at(1), "reference"))
    ordered = sorted(points, key=lambda p: -p.y)
    heights = spread([y_axis.at(p.y) for p in ordered], top + 6, bottom)
    for point, label_y in zip(ordered, heights, strict=True):
        x, y = x_axis.at(point.x), y_axis.at(point.y)
        parts.append(f'<path class="leader" d="M{x + 7:.1f} {y:.1f}L{right + 6} {label_y:.1f}h8"/>')
        between = ""
        if point.low is not None and point.high is not None:
            parts.append(_line(x, y_axis.at(point.low), x, y_axis.at(point.high), f"whisker {point.family}"))
            between = f" ({point.low:.2f} to {point.high:.2f})"
        told = f"{point.label}: {point.y:.2f}x{between} at {100 * point.x:.2f}%"
        parts.append(f'<circle class="{point.family}" cx="{x:.1f}" cy="{y:.1f}" r="6">{_title(told)}</circle>')
        parts.append(
            f'<text class="name" x="{right + 18}" y="{label_y + 4.5:.1f}">{escape(short_name(point.label))}</text>'
        )
    return _svg(parts, height, f"{y_title} against {x_title}")


def short_name(method: str) -> str:
    """A method's name as a chart's gutter holds it.

    >>> short_name("lookahead:0.62+scorer=typical+max_draft=20+lookahead=0.15")
    'lookahead:0.62 typical cap 20 h 0.15'
    """
    for option, word in (("+scorer=", " "), ("+max_draft=", " cap "), ("+lookahead=", " h ")):
        method = method.replace(option, word)
    return method


def spread(heights: Sequence[float], top: float, bottom: float, step: float = _LABEL_STEP) -> list[float]:
    """Ascending heights moved apart to at least `step`, within top and bottom where there is room.

    >>> spread([10, 11, 50], 0, 100, 10)
    [10, 20, 50]
    """
    placed: list[float] = []
    for height in heights:
        placed.append(max(height, top if not placed else placed[-1] + step))
    limit = bottom
    for place in reversed(range(len(placed))):
        placed[place] = min(placed[place], limit)
        limit = placed[place] - step
    return placed


def boxes(rows: Sequence[tuple[str, Sequence[float], str]], x_title: str) -> str:
    """Horizontal boxes, one row each: (label, values at 5, 25, 50, 75 and 95%, family)."""
    height = 60 + 30 * len(rows)
    largest = max((values[4] for _, values, _ in rows), default=1.0)
    axis = Axis(0.0, largest * 1.05, _GUTTER, WIDTH - 80)
    parts = []
    for tick in axis.ticks(6):
        parts.append(_line(axis.at(tick), 8, axis.at(tick), height - 46, "grid"))
        parts.append(f'<text class="tick mid" x="{axis.at(tick):.1f}" y="{height - 28}">{tick:g}</text>')
    for place, (label, values, family) in enumerate(rows):
        y = 24 + 30 * place
        low, first, middle, third, high = (axis.at(value) for value in values)
        told = f"{label}: median {values[2]:.2f}, middle half {values[1]:.2f} to {values[3]:.2f}"
        parts.append(f'<text class="name end" x="{_GUTTER - 14}" y="{y + 4.5}">{escape(short_name(label))}</text>')
        parts.append(_line(low, y, high, y, f"whisker {family}"))
        parts.append(
            f'<rect class="box {family}" x="{first:.1f}" y="{y - 8}" width="{max(1.5, third - first):.1f}" height="16" '
            f'rx="3">{_title(told)}</rect>'
        )
        parts.append(_line(middle, y - 8, middle, y + 8, "median"))
        parts.append(f'<text class="tick" x="{high + 8:.1f}" y="{y + 4}">{values[2]:.1f}</text>')
    parts.append(f'<text class="axis mid" x="{(axis.begin + axis.end) / 2}" y="{height - 6}">{escape(x_title)}</text>')
    return _svg(parts, height, x_title)


def diagram(score: Sequence[float], accept: Sequence[float], rows: Sequence[float], title: str) -> str:
    """A reliability diagram: mean acceptance against mean score per bin, dots sized by the bin's share of tokens."""
    size, left, top = 300, 44, 10
    x_axis, y_axis = Axis(0, 1, left, left + size - 60), Axis(0, 1, top + size - 60, top)
    parts = [_line(x_axis.begin, y_axis.begin, x_axis.end, y_axis.end, "reference")]
    for tick in (0, 0.5, 1):
        parts.append(_line(x_axis.begin, y_axis.at(tick), x_axis.end, y_axis.at(tick), "grid"))
        parts.append(f'<text class="tick mid" x="{x_axis.at(tick)}" y="{y_axis.begin + 18}">{tick:g}</text>')
        parts.append(f'<text class="tick end" x="{left - 8}" y="{y_axis.at(tick) + 4}">{tick:g}</text>')
    path = "L".join(f"{x_axis.at(s):.1f} {y_axis.at(a):.1f}" for s, a in zip(score, accept, strict=True))
    parts.append(f'<path class="curve" d="M{path}"/>')
    total = sum(rows) or 1.0
    for s, a, count in zip(score, accept, rows, strict=True):
        radius = 2.5 + 9 * math.sqrt(count / total)
        told = f"score {s:.2f}: accepted {a:.2f} of the time, {count:.0f} tokens"
        place = f'cx="{x_axis.at(s):.1f}" cy="{y_axis.at(a):.1f}" r="{radius:.1f}"'
        parts.append(f'<circle class="ours" {place}>{_title(told)}</circle>')
    parts.append(f'<text class="axis mid" x="{left + 120}" y="{y_axis.begin + 38}">score</text>')
    label = f'<svg class="small" viewBox="0 0 {size} {size}" role="img" aria-label="{escape(title)}">'
    return label + "".join(parts) + "</svg>"


def _grid(x_axis: Axis, y_axis: Axis, x_title: str, y_title: str, height: int, percent: bool) -> str:
    parts = []
    for tick in x_axis.ticks(6):
        x, shown = x_axis.at(tick), f"{100 * tick:g}%" if percent else f"{tick:g}"
        parts.append(_line(x, y_axis.end, x, y_axis.begin, "grid"))
        parts.append(f'<text class="tick mid" x="{x:.1f}" y="{y_axis.begin + 19:.1f}">{shown}</text>')
    for tick in y_axis.ticks():
        y = y_axis.at(tick)
        parts.append(_line(x_axis.begin, y, x_axis.end, y, "grid"))
        parts.append(f'<text class="tick end" x="{x_axis.begin - 9}" y="{y + 4.5:.1f}">{tick:g}x</text>')
    middle = (x_axis.begin + x_axis.end) / 2
    parts.append(f'<text class="axis mid" x="{middle}" y="{height - 8}">{escape(x_title)}</text>')
    turn = (y_axis.begin + y_axis.end) / 2
    parts.append(f'<text class="axis mid" transform="rotate(-90 14 {turn})" x="14" y="{turn}">{escape(y_title)}</text>')
    return "".join(parts)


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _title(text: str) -> str:
    return f"<title>{escape(text)}</title>"


def _svg(parts: Sequence[str], height: float, label: str) -> str:
    opening = f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{escape(label)}">'
    return opening + "".join(parts) + "</svg>"
