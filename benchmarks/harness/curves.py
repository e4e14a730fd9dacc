"""How the ratios change with image side, classes, batch and threads: one SVG line chart each."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.sax.saxutils import escape

from harness.cases import CASES, CURVES, Case

WIDTH, HEIGHT, MARGIN, LEGEND = 640, 400, 50, 170
COLOURS = ("#444444", "#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#17becf")
AXES = ("side", "classes", "batch", "threads")

Lines = Mapping[str, Sequence[tuple[float, float]]]


class Curve(NamedTuple):
    """What a chart shows: for each variant, times faster than the peer by the axis's value."""

    axis: str
    lines: Lines


def save_curves(content: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write `curve_AXIS.svg` for each axis that has two values or more."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for axis in AXES:
        curve = Curve(axis, _lines(content, axis))
        if curve.lines:
            path = folder / f"curve_{axis}.svg"
            beside = folder / f".{path.name}.{os.getpid()}"
            beside.write_text(drawn(curve))
            os.replace(beside, path)
            paths.append(path)
    return paths


def _lines(content: Mapping[str, Any], axis: str) -> dict[str, list[tuple[float, float]]]:
    lines: dict[str, list[tuple[float, float]]] = {}
    cases = {case for case in (*CASES, *CURVES) if _lies_on(case, axis)}
    for case in sorted(cases, key=lambda case: _value(case, axis)):
        for name, variant in content["cases"].get(case.name, {}).get("variants", {}).items():
            lines.setdefault(name, []).append((_value(case, axis), variant["faster"]))
    return {name: points for name, points in lines.items() if len(points) > 1}


def _lies_on(case: Case, axis: str) -> bool:
    """Whether it is the curves' network, square, and like the first case in all but this axis."""
    start = CASES[0]
    free = {"side": {"height", "width"}}.get(axis, {axis})
    fixed = {name: value for name, value in case._asdict().items() if name not in free}
    alike = fixed == {name: value for name, value in start._asdict().items() if name not in free}
    return alike and case.height == case.width and (axis != "threads" or case.threads is not None)


def _value(case: Case, axis: str) -> float:
    return float(case.height if axis == "side" else getattr(case, axis))


def drawn(curve: Curve) -> str:
    """The chart as SVG; values of the axis at equal distances, ratios from 0."""
    values = sorted({value for points in curve.lines.values() for value, _ in points})
    highest = max(ratio for points in curve.lines.values() for _, ratio in points)
    step = max(1, round(highest / 5))
    top = step * math.ceil(highest / step)
    right = WIDTH - LEGEND

    def place(value: float, ratio: float) -> tuple[float, float]:
        across = values.index(value) / max(1, len(values) - 1)
        return MARGIN + across * (right - MARGIN), HEIGHT - MARGIN - ratio / top * (HEIGHT - 2 * MARGIN)

    parts = [_text(MARGIN, 24, f"times faster than the eager peer, by {curve.axis}", size=14)]
    for value in values:
        x, y = place(value, 0)
        parts.append(_text(x, y + 18, f"{value:g}", anchor="middle"))
    for ratio in range(0, top + 1, step):
        x, y = place(values[0], ratio)
        parts.append(_text(x - 8, y + 4, str(ratio), anchor="end"))
        parts.append(f'<line x1="{x}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}" stroke="#dddddd"/>')
    for index, (name, points) in enumerate(curve.lines.items()):
        colour = COLOURS[index % len(COLOURS)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in points))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(_text(right + 12, MARGIN + 18 * index, name, colour=colour))
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif">'
    )
    return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', *parts, "</svg>"]) + "\n"


def _text(
    x: float, y: float, text: str, *, size: int = 11, anchor: str = "start", colour: str = "#000000"
) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text {place} font-size="{size}" fill="{colour}">{escape(text)}</text>'
