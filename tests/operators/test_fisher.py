"""Fisher merging is a weighted mean of every entry."""

from __future__ import annotations

import operating
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evomerge.errors import MergeError
from evomerge.operators.registry import find_operator

positive = st.floats(0.1, 10)


@given(st.data(), st.integers(1, 4))
def test_it_is_the_mean_that_the_paper_writes(data: st.DataObject, sources: int) -> None:
    numbers = st.lists(st.floats(-5, 5), min_size=sources, max_size=sources)
    weights, stack = data.draw(numbers), data.draw(numbers)
    information = data.draw(st.lists(positive, min_size=sources, max_size=sources))
    shares = [abs(w) + 0.1 for w in weights]
    merged = operating.merge(
        "fisher",
        torch.tensor([[each] for each in stack], dtype=torch.float64),
        weight=shares,
        fisher=[[each] for each in information],
        floor=1e-20,
        normalize=False,
    )
    parts = zip(shares, information, stack, strict=True)
    total = sum(w * f for w, f in zip(shares, information, strict=True))
    expected = sum(w * f * value for w, f, value in parts) / total
    assert float(merged) == pytest.approx(expected, abs=1e-6)


def test_a_model_that_no_text_depends_on_leaves_the_entry_to_the_others() -> None:
    merged = operating.merge("fisher", [[1.0], [3.0]], weight=1.0, fisher=[[0.0], [1.0]])
    assert float(merged) == pytest.approx(3.0, abs=1e-6)


def test_larger_gradients_everywhere_count_more_unless_they_are_normalised() -> None:
    stack, information = [[1.0, 1.0], [3.0, 3.0]], [[1.0, 1.0], [9.0, 9.0]]
    norms = [2**0.5, 9 * 2**0.5]
    given = {"weight": 1.0, "fisher": information, "fisher_norm": norms}
    assert operating.merge("fisher", stack, normalize=False, **given).tolist() == pytest.approx(
        [2.8, 2.8]
    )
    assert operating.merge("fisher", stack, normalize=True, **given).tolist() == pytest.approx(
        [2.0, 2.0]
    )


def test_weights_that_are_all_zero_are_refused() -> None:
    check = find_operator("fisher").check
    assert check is not None
    with pytest.raises(MergeError, match=r"weight: \[0.0, 0.0\] are all 0; give one source"):
        check(weight=(0.0, 0.0), floor=1e-10, normalize=False)
