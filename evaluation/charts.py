"""Line charts as SVG text, for pages that load nothing: series of points, axes with round ticks, a legend."""

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

WIDTH, HEIGHT = 460, 300
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 26, 44
COLOURS = ("#1f5fa8", "#c0392b", "#2e8b57", "#8e5ea2", "#b8860b", "#444444")


class Series(NamedTuple):
    """Points (x, y) with a name; labels stand beside them; without a line they are dots alone.

    spread: (low, high) in y of each point, drawn as a bar.
    """

    name: str
    points: Sequence[tuple[float, float]]
    labels: Sequence[str] = ()
    line: bool = True
    spread: Sequence[tuple[float, float]] = ()


def chart(series: Sequence[Series], x_name: str, y_name: str, title: str = "") -> str:
    """The <svg> of the series that hold points. Points that are no finite numbers are left out."""
    series = [one._replace(points=[point for point in one.points if all(map(math.isfinite, point))]) for one in series]
    series = [one for one in series if one.points]
    if not series:
        return ""
    corners = [*((x, y) for one in series for (x, _), ends in zip(one.points, one.spread) for y in ends)]
    corners += [point for one in series for point in one.points]
    xs, ys = (scale([corner[axis] for corner in corners]) for axis in (0, 1))

    def place(point):
        x = LEFT + (point[0] - xs[0]) / (xs[-1] - xs[0]) * (WIDTH - LEFT - RIGHT)
        y = HEIGHT - BOTTOM - (point[1] - ys[0]) / (ys[-1] - ys[0]) * (HEIGHT - TOP - BOTTOM)
        return x, y

    parts = [axes(xs, ys, place), text(WIDTH / 2, 14, title, "middle"), text(WIDTH / 2, HEIGHT - 8, x_name, "middle")]
    parts.append(text(14, HEIGHT / 2, y_name, "middle", f' transform="rotate(-90 14 {HEIGHT / 2})"'))
    for number, one in enumerate(series):
        parts += [drawn(one, place, COLOURS[number % len(COLOURS)])]
        if len(series) > 1:
            key = text(WIDTH - RIGHT - 14, TOP + 14 * number + 4, one.name, "end")
            swatch = f'<circle cx="{WIDTH - RIGHT - 6}" cy="{TOP + 14 * number}" r="4" fill="{COLOURS[number % 6]}"/>'
            parts += [key, swatch]
    body = "".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
        f'font-family="sans-serif" font-size="11">{body}</svg>'
    )


def scale(values: Sequence[float]) -> list[float]:
    """Four to nine round ticks that hold all values."""
    low, high = min(values), max(values)
    if low == high:
        low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
    step = 10 ** math.floor(math.log10((high - low) / 4))
    step = next(step * factor for factor in (5, 2, 1) if (high - low) / (step * factor) >= 3 or factor == 1)
    first, last = math.floor(low / step), math.ceil(high / step)
    digits = max(0, -math.floor(math.log10(step)))  # 99 * 0.01 is not 0.99
    return [round(k * step, digits) for k in range(first, last + 1)]


def axes(xs, ys, place) -> str:
    (left, bottom), (right, top) = place((xs[0], ys[0])), place((xs[-1], ys[-1]))
    lines = [f'<path d="M{left:.1f} {top:.1f}V{bottom:.1f}H{right:.1f}" stroke="#333" fill="none"/>']
    for x in xs:
        at = place((x, ys[0]))[0]
        lines.append(
            f'<path d="M{at:.1f} {bottom:.1f}v4" stroke="#333"/>' + text(at, bottom + 16, f"{x:.6g}", "middle")
        )
    for y in ys:
        at = place((xs[0], y))[1]
        lines.append(
            f'<path d="M{left:.1f} {at:.1f}H{right:.1f}" stroke="#ddd"/>' + text(left - 5, at + 4, f"{y:.6g}", "end")
        )
    return "".join(lines)


def drawn(one: Series, place, colour: str) -> str:
    places = [place(point) for point in one.points]
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    parts = [f'<path d="{path}" stroke="{colour}" fill="none" stroke-width="1.5"/>'] if one.line else []
    parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in places]
    for (x, _), ends in zip(one.points, one.spread):
        (at, low), (_, high) = (place((x, y)) for y in ends)
        parts.append(f'<path d="M{at:.1f} {low:.1f}V{high:.1f}" stroke="{colour}"/>')
    for (x, y), label in zip(places, one.labels):
        inside = x < WIDTH - 80  # a label right of a point at the edge would be cut off
        parts.append(text(x + 5, y - 5, label) if inside else text(x - 5, y - 5, label, "end"))
    return "".join(parts)


def text(x: float, y: float, words: str, anchor: str = "start", more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more}>{escape(words)}</text>' if words else ""
