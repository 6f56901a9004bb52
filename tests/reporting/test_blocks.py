"""Promise: a row of blocks fits its width and never hides a value."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from evomerge.reporting.blocks import BLOCKS, axis, block_row


def test_blocks_grow_with_values_and_zero_is_a_dot() -> None:
    assert block_row([0, 0.01, 0.5, 0.99, 1], top=1, width=10) == "·▁▅██"


def test_a_row_of_zeros_is_dots() -> None:
    assert block_row([0, 0], top=0, width=10) == "··"


def test_neighbours_that_share_a_column_show_the_largest() -> None:
    assert block_row([0, 1, 0, 0, 0.2], top=1, width=3) == "█·▂"


@given(st.lists(st.floats(0, 1), min_size=1, max_size=200), st.integers(1, 80))
def test_a_row_fits_and_keeps_the_largest_value(values: list[float], width: int) -> None:
    row = block_row(values, top=1, width=width)
    assert 0 < len(row) <= width
    assert ("·" in row and max(values) == 0) or max(row, key=f"·{BLOCKS}".index) == block_row(
        [max(values)], top=1, width=1
    )


def test_every_fifth_layer_is_named_below_its_own_column() -> None:
    labels = ["embed_tokens", *map(str, range(12)), "norm"]
    assert axis(labels, width=40) == " 0    5    10"


@given(st.integers(0, 130), st.integers(8, 80))
def test_an_axis_fits_and_labels_are_where_their_columns_are(layers: int, width: int) -> None:
    labels = ["embed_tokens", *map(str, range(layers)), "norm", "lm_head"]
    line = axis(labels, width)
    assert len(line) <= width
    step = -(-len(labels) // width)
    for word in re.finditer(r"\S+", line):
        assert labels[word.start() * step] == word[0]
