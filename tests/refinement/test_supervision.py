"""Promise: exactly the rows whose next token is wanted are learned from."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from evomerge.refinement.chunked import chunked_loss
from evomerge.refinement.heads import Head
from evomerge.refinement.losses.cross_entropy import CrossEntropy
from evomerge.refinement.supervision import IGNORED, supervised

PROMPT_THEN_RESPONSE = torch.tensor([[IGNORED, IGNORED, 7, 8], [IGNORED, 5, IGNORED, 6]])


def test_a_row_predicts_the_next_token() -> None:
    rows, labels = supervised(PROMPT_THEN_RESPONSE)
    # The last row of a prompt predicts the first token of its response.
    assert rows.tolist() == [1, 2, 4, 6]
    assert labels.tolist() == [7, 8, 5, 6]


def test_nothing_wanted_is_no_rows() -> None:
    rows, labels = supervised(torch.full((2, 3), IGNORED))
    assert rows.shape == labels.shape == (0,)


def test_the_first_token_of_a_sequence_is_predicted_by_no_row() -> None:
    rows, _ = supervised(torch.tensor([[3, IGNORED], [4, IGNORED]]))
    assert rows.shape == (0,)


def gradient_of(hidden: Tensor, labels: Tensor) -> Tensor:
    rng = torch.Generator().manual_seed(1)
    head = Head(weight=torch.randn(10, 4, generator=rng))
    hidden = hidden.clone().requires_grad_()
    rows, targets = supervised(labels)
    weights = torch.full((len(rows),), 0.25)
    loss = chunked_loss(hidden.flatten(0, 1)[rows], head, CrossEntropy(targets), weights)
    return torch.autograd.grad(loss, hidden)[0]


def test_a_changed_label_changes_the_row_before_alone() -> None:
    hidden = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(0))
    changed = PROMPT_THEN_RESPONSE.clone()
    changed[0, 3] = 1
    differs = gradient_of(hidden, PROMPT_THEN_RESPONSE) != gradient_of(hidden, changed)
    assert differs.any(-1).nonzero().tolist() == [[0, 2]]


@given(before=st.integers(0, 3), after=st.integers(0, 3))
def test_padding_on_either_side_changes_nothing(before: int, after: int) -> None:
    hidden = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(0))
    padded = torch.nn.functional.pad(hidden, (0, 0, before, after), value=3.0)
    labels = torch.nn.functional.pad(PROMPT_THEN_RESPONSE, (before, after), value=IGNORED)
    found = gradient_of(padded, labels)
    assert torch.equal(found[:, before : before + 4], gradient_of(hidden, PROMPT_THEN_RESPONSE))
    assert torch.count_nonzero(found) == torch.count_nonzero(found[:, before : before + 4])
