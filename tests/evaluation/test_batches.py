"""Promise: batches are as full as they may be, and hold little padding."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from evomerge.evaluation.passes.batches import ENOUGH, PADDING, token_batches

lengths = st.lists(st.integers(1, 60).map(range), max_size=80)


@given(lengths, st.integers(1, 300))
def test_every_row_is_in_one_batch_of_at_most_so_many_tokens(rows: list[range], most: int) -> None:
    batches = list(token_batches(rows, most))
    assert sorted(map(len, rows)) == sorted(len(row) for batch in batches for row in batch)
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(map(len, batch)) <= most


@given(lengths)
def test_a_batch_with_more_padding_than_a_twentieth_is_small(rows: list[range]) -> None:
    for batch in token_batches(rows, 800):
        filled = len(batch) * len(batch[0])
        before = filled - len(batch[0])
        assert filled - sum(map(len, batch)) <= PADDING * filled or before < ENOUGH * 800


def test_few_rows_are_read_together_whatever_their_length() -> None:
    rows = [range(20), range(2), range(1)]
    assert list(token_batches(rows, 2048)) == [rows]
