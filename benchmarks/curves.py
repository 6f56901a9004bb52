"""Draws curves as SVG, by hand."""

from __future__ import annotations

import colorsys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

WIDTH, HEIGHT, LEFT, BOTTOM, LEGEND = 620, 420, 50, 40, 220
LEGEND_TOP = 34
LOW, HIGH = 0.3, 0.7


def draw(
    title: str, budgets: Sequence[int], curves: Mapping[str, Sequence[float]], bold: Sequence[str]
) -> str:
    """Held-out score against item evaluations, one line per search, the best first in the legend.

    Args:
        title: What stands above.
        budgets: The places on the horizontal axis.
        curves: The scores of each search there.
        bold: Searches to look at.
    """
    names = sorted(curves, key=lambda name: -curves[name][-1])
    pitch = min(15, (HEIGHT - LEGEND_TOP) // len(names))
    box = f"0 0 {WIDTH + LEGEND} {HEIGHT}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}" font-size="11">',
        "<style>text { font-family: sans-serif }</style>",
        f'<rect width="{WIDTH + LEGEND}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="16" font-size="14">{title}: held-out score</text>',
    ]
    for tick in range(round(LOW * 20), round(HIGH * 20) + 1):
        y = _y(tick / 20)
        parts.append(f'<path d="M{LEFT} {y}H{WIDTH}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 32}" y="{y + 4}">{tick / 20:.2f}</text>')
    for quarter in range(5):
        spent = budgets[-1] * quarter // 4
        x = _x(spent, budgets[-1])
        parts.append(f'<text x="{x - 16}" y="{HEIGHT - 22}">{spent:,}</text>')
    parts.append(f'<text x="{WIDTH // 2}" y="{HEIGHT - 6}">item evaluations</text>')
    for index, name in enumerate(names):
        red, green, blue = colorsys.hls_to_rgb(index / len(names), 0.45, 0.75)
        color = f"#{round(255 * red):02x}{round(255 * green):02x}{round(255 * blue):02x}"
        dashes = ' stroke-dasharray="4 3"' if index % 2 else ""
        width = 3 if name in bold else 1
        line = f'fill="none" stroke="{color}" stroke-width="{width}"{dashes}'
        known = [(b, score) for b, score in zip(budgets, curves[name], strict=True) if score > LOW]
        path = " ".join(f"{_x(b, budgets[-1])},{_y(score)}" for b, score in known)
        parts.append(f'<polyline points="{path}" {line}/>')
        y = LEGEND_TOP + pitch * index
        parts.append(f'<path d="M{WIDTH + 10} {y - 4}h24" {line}/>')
        parts.append(f'<text x="{WIDTH + 40}" y="{y}">{name} {curves[name][-1]:.3f}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _x(spent: float, whole: float) -> int:
    return round(LEFT + (WIDTH - LEFT) * spent / whole)


def _y(score: float) -> int:
    return round(HEIGHT - BOTTOM - (HEIGHT - BOTTOM - 26) * (score - LOW) / (HIGH - LOW))
