"""Promise: search and held-out items never share a document, and are drawn once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.errors import TaskError
from evomerge.evaluation.tasks.items import draw_items

documents = st.lists(st.sampled_from("abcdefghijklmnop"), min_size=8).filter(
    lambda found: len(set(found)) >= 8
)


@given(documents, st.integers(0, 1000))
def test_no_document_is_on_both_sides(found: list[str], seed: int) -> None:
    items = draw_items("t", found, search=4, held_out=4, seed=seed)
    search, held_out = ({found[i] for i in side} for side in (items.search, items.held_out))
    assert len(search) == len(held_out) == 4
    assert not search & held_out


def test_the_same_seed_draws_the_same_items() -> None:
    found = [str(i) for i in range(50)]
    drawn = [draw_items("t", found, search=5, held_out=5, seed=s) for s in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_tasks_of_equal_size_draw_differently() -> None:
    found = [str(i) for i in range(50)]
    one, two = (draw_items(t, found, search=5, held_out=5, seed=0) for t in ("a", "b"))
    assert one.search != two.search


def test_too_few_documents_are_counted() -> None:
    with pytest.raises(
        TaskError, match=r"task t: has 2 different items, but 2 search, 1 held-out"
    ):
        draw_items("t", ["a", "b", "a"], search=2, held_out=1, seed=0)


def test_the_draw_never_changes_between_versions() -> None:
    items = draw_items("golden", [str(i) for i in range(20)], search=3, held_out=3, seed=7)
    assert (items.search, items.held_out) == ((4, 1, 8), (12, 9, 14))
