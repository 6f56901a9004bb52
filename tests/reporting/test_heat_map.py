"""Promise: a heat map is one valid SVG file that shows every value inside its frame."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import pytest

from evomerge.reporting.heat_map import DIVERGING, SEQUENTIAL, HeatMap, Scale

SCALE = Scale(low=0, high=2, colours=SEQUENTIAL, form="{:.1f}".format)
NAMESPACE = {"svg": "http://www.w3.org/2000/svg"}


def draw(rows: list[str], columns: list[str], values: list[list[float | None]]) -> str:
    chart = HeatMap(
        title="A title",
        note="A note",
        rows=rows,
        columns=columns,
        values=values,
        scale=SCALE,
        across="layer",
    )
    return chart.to_svg()


def texts(svg: str) -> list[str]:
    tree = ET.fromstring(svg)
    return [element.text or "" for element in tree.iterfind(".//svg:text", NAMESPACE)]


def test_title_note_labels_values_and_scale_are_there() -> None:
    found = texts(draw(["a", "b"], ["x", "y"], [[0, 1], [1.5, None]]))
    assert found[:2] == ["A title", "A note"]
    assert {"a", "b", "x", "y", "layer", "1.5"} <= set(found)
    assert found[-3:] == ["2.0", "1.0", "0.0"]


def test_every_value_has_a_tooltip_and_an_empty_cell_has_none() -> None:
    tree = ET.fromstring(draw(["a"], ["x", "y"], [[0.25, None]]))
    tips = [element.text for element in tree.iterfind(".//svg:rect/svg:title", NAMESPACE)]
    assert tips == ["a, x: 0.2"]


def test_many_columns_have_no_numbers_in_cells_but_keep_tooltips() -> None:
    svg = draw(["a"], [str(n) for n in range(40)], [[0.7] * 40])
    assert "0.7" not in texts(svg)
    assert svg.count("a, 39: 0.7") == 1


def test_names_cannot_break_out_of_the_file() -> None:
    name = '<script>"&'
    svg = draw([name], [name], [[1]])
    assert "<script>" not in svg
    assert texts(svg).count(name) == 2


@pytest.mark.parametrize("columns", [1, 12, 35, 83])
def test_everything_is_inside_the_frame(columns: int) -> None:
    labels = ["embed_tokens", *(str(n) for n in range(columns - 1))]
    rows = ["a-long-name / another", "b"]
    tree = ET.fromstring(draw(rows, labels, [[1] * columns] * 2))
    width, height = float(tree.get("width", 0)), float(tree.get("height", 0))
    for element in tree.iterfind("svg:text", NAMESPACE):
        x, y = float(element.get("x", -1)), float(element.get("y", -1))
        length = 6.6 * len(element.text or "")
        left = {"start": x, "middle": x - length / 2, "end": x - length}[
            element.get("text-anchor")
        ]
        bottom = y
        if element.get("transform"):
            left, bottom = x - 12, y + length
        assert left >= 0
        assert bottom <= height
        assert element.get("transform") or left + length <= width
    for element in tree.iterfind("svg:rect", NAMESPACE):
        if not element.get("width", "").endswith("%"):
            assert float(element.get("x")) + float(element.get("width")) <= width
            assert float(element.get("y")) + float(element.get("height")) <= height


def test_nothing_is_fetched_from_elsewhere() -> None:
    svg = draw(["a"], ["x"], [[1]])
    assert re.findall(r"https?://[^\"]*", svg) == ["http://www.w3.org/2000/svg"]


def test_colours_are_those_of_the_scale_and_stay_in_it() -> None:
    assert SCALE.colour(0) == SCALE.colour(-5) == SEQUENTIAL[0]
    assert SCALE.colour(1) == SEQUENTIAL[1]
    assert SCALE.colour(2) == SCALE.colour(9) == SEQUENTIAL[2]
    assert SCALE.colour(0.5) == (177, 212, 234)
    middle = Scale(low=-1, high=1, colours=DIVERGING, form=str).colour(0)
    assert middle == DIVERGING[1]


def test_a_scale_without_extent_has_one_colour() -> None:
    assert Scale(low=0, high=0, colours=SEQUENTIAL, form=str).colour(0) == SEQUENTIAL[0]
