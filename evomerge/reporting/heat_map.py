"""A heat map as one self-contained SVG file: title, axes, cells with tooltips, colour scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

Colour = tuple[int, int, int]

SEQUENTIAL: tuple[Colour, ...] = ((247, 251, 255), (107, 174, 214), (8, 48, 107))
DIVERGING: tuple[Colour, ...] = ((33, 102, 172), (247, 247, 247), (178, 24, 43))
"""Colours of the least, the middle and the greatest value."""

FONT = 12
LETTER = 6.6
"""Mean width of a letter in pixels, rather too wide than too narrow."""
MARGIN, GAP, BAR, STRIPS = 24, 10, 14, 48

HATCHING = (
    '<defs><pattern id="nothing" width="6" height="6" patternUnits="userSpaceOnUse">'
    '<rect width="6" height="6" fill="#f4f4f4"/>'
    '<path d="M0 6L6 0" stroke="#d0d0d0"/></pattern></defs>'
)
"""The look of an empty cell."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """What colours stand for.

    Attributes:
        low: Value of the first colour; smaller ones look the same.
        high: Value of the last colour; greater ones look the same.
        colours: The colours, evenly spaced from `low` to `high`.
        form: Writes a value.
    """

    low: float
    high: float
    colours: Sequence[Colour]
    form: Callable[[float], str]

    def colour(self, value: float) -> Colour:
        """The colour of a value."""
        span = self.high - self.low
        place = min(1.0, max(0.0, (value - self.low) / span)) if span > 0 else 0.0
        place *= len(self.colours) - 1
        left = min(int(place), len(self.colours) - 2)
        red, green, blue = (
            round(a + (b - a) * (place - left))
            for a, b in zip(self.colours[left], self.colours[left + 1], strict=True)
        )
        return red, green, blue


@dataclass(frozen=True, kw_only=True, slots=True)
class HeatMap:
    """What a heat map shows.

    Attributes:
        title: One line above the map.
        note: One line below the title: what a value means.
        rows: Labels of the rows.
        columns: Labels of the columns.
        values: A value for each row and column; None is drawn as a hatched cell.
        scale: The colours.
        across: What the columns are; written below them.
    """

    title: str
    note: str
    rows: Sequence[str]
    columns: Sequence[str]
    values: Sequence[Sequence[float | None]]
    scale: Scale
    across: str = ""

    def to_svg(self) -> str:
        """The map as the text of an SVG file."""
        layout = _Layout(self)
        width, height = round(layout.width), round(layout.height)
        body = [
            (
                f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
                f'viewBox="0 0 {width} {height}" '
                f'font-family="DejaVu Sans, Verdana, sans-serif" font-size="{FONT}">'
            ),
            HATCHING,
            '<rect width="100%" height="100%" fill="#ffffff"/>',
            _text(MARGIN, MARGIN + 12, self.title, size=16, weight="bold"),
            _text(MARGIN, MARGIN + 32, self.note, colour="#555555"),
            *self._row_labels(layout),
            *self._column_labels(layout),
            *self._cells(layout),
            *self._legend(layout),
            "</svg>",
        ]
        return "\n".join(body) + "\n"

    def _row_labels(self, layout: _Layout) -> Iterator[str]:
        for number, label in enumerate(self.rows):
            y = layout.top + (number + 0.5) * layout.cell_height + 4
            yield _text(layout.left - GAP, y, label, anchor="end")

    def _column_labels(self, layout: _Layout) -> Iterator[str]:
        bottom = layout.top + len(self.rows) * layout.cell_height + 6
        for number, label in enumerate(self.columns):
            x = layout.left + (number + 0.5) * layout.cell_width
            if layout.is_upright(label):
                yield _text(x, bottom + FONT, label, anchor="middle")
            else:
                yield _text(x + 4, bottom, label, anchor="end", turn=-90)
        middle = layout.left + len(self.columns) * layout.cell_width / 2
        if self.across:
            y = bottom + layout.label_height + 16
            yield _text(middle, y, self.across, anchor="middle", colour="#555555")

    def _cells(self, layout: _Layout) -> Iterator[str]:
        for i, row in enumerate(self.values):
            for j, value in enumerate(row):
                x = layout.left + j * layout.cell_width
                y = layout.top + i * layout.cell_height
                place = (
                    f'x="{x:.1f}" y="{y:.1f}" width="{layout.cell_width:.1f}" '
                    f'height="{layout.cell_height:.1f}" stroke="#ffffff"'
                )
                if value is None:
                    yield f'<rect {place} fill="url(#nothing)"/>'
                    continue
                colour = self.scale.colour(value)
                tip = escape(f"{self.rows[i]}, {self.columns[j]}: {self.scale.form(value)}")
                yield f'<rect {place} fill="{_hex(colour)}"><title>{tip}</title></rect>'
                if layout.is_roomy:
                    yield _text(
                        x + layout.cell_width / 2,
                        y + layout.cell_height / 2 + 4,
                        self.scale.form(value),
                        anchor="middle",
                        colour=_readable_on(colour),
                    )

    def _legend(self, layout: _Layout) -> Iterator[str]:
        x = layout.left + len(self.columns) * layout.cell_width + MARGIN
        height = layout.legend_height / STRIPS
        span = self.scale.high - self.scale.low
        for strip in range(STRIPS):
            colour = self.scale.colour(self.scale.high - span * (strip + 0.5) / STRIPS)
            # Strips overlap a little: otherwise their borders shine through.
            yield (
                f'<rect x="{x:.1f}" y="{layout.top + strip * height:.1f}" width="{BAR}" '
                f'height="{height + 0.5:.1f}" fill="{_hex(colour)}"/>'
            )
        for place, value in enumerate(reversed(_ends(self.scale))):
            y = layout.top + place / 2 * layout.legend_height + 4
            yield _text(x + BAR + 6, y, self.scale.form(value))


class _Layout:
    """Where the parts of a heat map are, in pixels."""

    def __init__(self, chart: HeatMap) -> None:
        rows, columns = len(chart.rows), len(chart.columns)
        self.is_roomy = columns <= 12
        self.cell_width = max(56.0 if self.is_roomy else 20.0, min(28.0, 840 / columns))
        self.cell_height = 40.0 if self.is_roomy else 28.0
        longest = max(chart.columns, key=len)
        self.label_height = FONT if self.is_upright(longest) else _width(longest)
        self.left = MARGIN + max(map(_width, chart.rows)) + GAP
        self.top = MARGIN + 52.0
        self.legend_height = max(96.0, rows * self.cell_height)
        map_right = self.left + columns * self.cell_width + MARGIN
        scale_width = BAR + 6 + max(_width(chart.scale.form(v)) for v in _ends(chart.scale))
        words = max(1.4 * _width(chart.title), _width(chart.note))
        self.width = max(map_right + scale_width, MARGIN + words) + MARGIN
        below = rows * self.cell_height + self.label_height + (28 if chart.across else 12)
        self.height = self.top + max(below, self.legend_height) + MARGIN

    def is_upright(self, label: str) -> bool:
        """Whether the label of a column fits below it without being turned."""
        return _width(label) <= self.cell_width


def _ends(scale: Scale) -> tuple[float, float, float]:
    return scale.low, (scale.low + scale.high) / 2, scale.high


def _width(text: str) -> float:
    return LETTER * len(text) + 2


def _text(  # noqa: PLR0913 (the attributes of a text)
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "start",
    colour: str = "#222222",
    size: int = FONT,
    weight: str = "normal",
    turn: int = 0,
) -> str:
    turned = f' transform="rotate({turn} {x:.1f} {y:.1f})"' if turn else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}" '
        f'font-size="{size}" font-weight="{weight}"{turned}>{escape(text)}</text>'
    )


def _hex(colour: Colour) -> str:
    return "#" + "".join(f"{part:02x}" for part in colour)


def _readable_on(colour: Colour) -> str:
    """Black or white, whichever is read better on a colour."""
    red, green, blue = colour
    return "#ffffff" if 0.299 * red + 0.587 * green + 0.114 * blue < 140 else "#222222"
