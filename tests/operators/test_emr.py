"""EMR rebuilds a source up to what the others overrule."""

from __future__ import annotations

from typing import TYPE_CHECKING

import operating
import pytest
import torch

from evomerge.errors import MergeError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


def _published(model: list[list[float]], task: int) -> list[float]:
    """Section 3, entry by entry, of a model of one flat vector per source."""
    columns = [*zip(*model, strict=True)]
    signs = [1 if sum(column) > 0 else -1 for column in columns]
    unified = [
        sign * max([sign * entry for entry in column if sign * entry > 0], default=0.0)
        for sign, column in zip(signs, columns, strict=True)
    ]
    own = model[task]
    masked = [u if e * s > 0 else 0.0 for u, e, s in zip(unified, own, signs, strict=True)]
    factor = sum(map(abs, own)) / sum(map(abs, masked))
    return [factor * entry for entry in masked]


@pytest.mark.parametrize("task", [0, 1, 2])
def test_it_is_what_the_paper_says_of_all_tensors_together(
    task: int, draw: Callable[..., Tensor]
) -> None:
    model = draw((3, 30), dtype=torch.float64)
    stacks = model.split([5, 24, 1], dim=1)
    merged = [operating.merge("emr", s, stacks=stacks, task=float(task)) for s in stacks]
    assert torch.cat(merged).tolist() == pytest.approx(_published(model.tolist(), task))


@pytest.mark.parametrize("task", [0, 1, 2])
def test_the_norm_of_the_whole_model_is_that_of_the_source(
    task: int, draw: Callable[..., Tensor]
) -> None:
    stacks = [draw((3, 7, 5)), draw((3, 11), seed=1) * 10]
    merged = [operating.merge("emr", each, stacks=stacks, task=float(task)) for each in stacks]
    norm = sum(each.abs().sum().item() for each in merged)
    assert norm == pytest.approx(sum(s[task].abs().sum().item() for s in stacks))


def test_a_source_that_is_overruled_everywhere_becomes_the_base() -> None:
    merged = operating.merge("emr", [[-1.0, -2.0], [3.0, 3.0]], task=0.0)
    assert merged.tolist() == [0.0, 0.0]


def test_a_source_that_is_not_there_is_refused() -> None:
    with pytest.raises(MergeError, match="task: 2 is no source; there are 2, counted from 0"):
        operating.merge("emr", [[1.0], [2.0]], task=2.0)
