"""Promise: sharing a context among its continuations changes no log-likelihood."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from evaluated_models import MODELS, VOCABULARY, llama
from hypothesis import given
from hypothesis import strategies as st

from evomerge.evaluation.passes.context import can_share, rows_of
from evomerge.evaluation.passes.forward import Forward
from evomerge.evaluation.passes.likelihood import LikelihoodPlan
from evomerge.evaluation.passes.tokens import Continuation

if TYPE_CHECKING:
    from collections.abc import Callable

tokens = st.lists(st.integers(1, VOCABULARY - 1), min_size=1, max_size=6).map(tuple)
questions = st.lists(
    st.tuples(tokens, st.lists(tokens, min_size=1, max_size=4)), min_size=1, max_size=5
)


def continuations(
    asked: list[tuple[tuple[int, ...], list[tuple[int, ...]]]],
) -> list[Continuation]:
    return [
        Continuation(inputs=(context + answer)[:-1], target=answer)
        for context, answers in asked
        for answer in answers
    ]


def alone(model: Any, continuation: Continuation) -> float:
    """The definition: one row, no padding, no sharing."""
    logits = model(torch.tensor([continuation.inputs])).logits[0].double().log_softmax(-1)
    scored = logits[-len(continuation.target) :]
    return float(sum(row[t] for row, t in zip(scored, continuation.target, strict=True)))


@pytest.mark.parametrize("make", MODELS.values(), ids=list(MODELS))
def test_a_shared_context_changes_no_log_likelihood(make: Callable[[], Any]) -> None:
    model = make()
    assert can_share(model)

    @given(questions)
    def same(asked: Any) -> None:
        wanted = continuations(asked)
        plan = LikelihoodPlan(wanted, sees_all=True, batch_tokens=60, pad=0)
        found = plan.run(Forward(model))
        with torch.inference_mode():
            expected = [alone(model, continuation) for continuation in wanted]
        assert [value for value, _ in found] == pytest.approx(expected, abs=1e-4)

    same()


@given(questions, st.integers(1, 40))
def test_every_continuation_is_in_one_row_and_contexts_are_read_once(
    asked: Any, most: int
) -> None:
    wanted = continuations(asked)
    rows = rows_of(wanted, share=True, most=most)
    assert sorted(i for row in rows for i in row.wanted) == list(range(len(wanted)))
    for row in rows:
        for index, places in zip(row.wanted, row.predicting(), strict=True):
            target = wanted[index].target
            assert len(places) == len(target)
            # Each token of a target but the last is read at the place after the one predicting it.
            read = [row.tokens[place] for place in places[1:]]
            assert tuple(read) == target[:-1]
    unlimited = rows_of(wanted, share=True, most=1000)
    assert len({row.context for row in unlimited}) == len(unlimited)


def test_four_answers_cost_one_context() -> None:
    context = tuple(range(1, 21))
    wanted = [Continuation(inputs=(*context, n), target=(n, 9)) for n in (1, 2, 3, 4)]
    shared, apart = (rows_of(wanted, share=share, most=100) for share in (True, False))
    assert [len(row) for row in shared] == [24]
    assert [len(row) for row in apart] == [21] * 4


@pytest.mark.parametrize(
    "settings",
    [
        {"layer_types": ["full_attention", "sliding_attention"]},
        {"sliding_window": 4},
    ],
)
def test_a_model_that_does_not_look_at_everything_is_not_given_shared_rows(
    settings: dict[str, Any],
) -> None:
    model = llama()
    for name, value in settings.items():
        setattr(model.config, name, value)
    assert can_share(llama())
    assert not can_share(model)
