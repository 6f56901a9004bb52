"""The loss of hidden states under an output head, without the logits of all rows at once.

Gradients of losses with respect to logits are known in closed form, so they are made in the
forward pass, chunk by chunk, and only those of the hidden states and of the head are kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from evomerge.refinement.losses.rows import Student

if TYPE_CHECKING:
    from collections.abc import Iterator

    from evomerge.refinement.heads import Head
    from evomerge.refinement.losses.rows import RowLoss

_BUDGET_BYTES = {"cpu": 64 * 2**20}
_LARGE_BUDGET_BYTES = 256 * 2**20
_MULTIPLE = 16
_LEAST, _LEAST_WITH_HEAD = 64, 128
"""Each chunk reads the whole head, and writes its gradient: fewer rows are slower."""


def chunked_loss(
    hidden: Tensor, head: Head, row_loss: RowLoss, weights: Tensor, chunk: int | None = None
) -> Tensor:
    """The weighted sum of the losses of rows.

    Args:
        hidden: Last hidden states of the rows that are learned from, and of no others; shape
            `(N, H)`. N may be 0.
        head: The student's head. Its gradient is computed only if its weight requires one.
        row_loss: The loss and its targets at these rows.
        weights: Of each row; for a mean, 1 over the number of rows of the whole optimiser step,
            not of this batch. Shape `(N,)`, float32. Rows of one group have the same weight.
        chunk: How many rows have logits at once, by default as many as fit into 64 MiB, or 256
            MiB on a GPU, but not fewer than products with the head are fast with.

    Returns:
        A number, float32.
    """
    weight, bias = head.parameters()
    trained = any(each is not None and each.requires_grad for each in (hidden, weight, bias))
    if not (trained and torch.is_grad_enabled()):
        return (row_losses(hidden, head, row_loss, chunk) * weights).sum()
    size = chunk or _rows_at_once(head, row_loss, with_head=weight.requires_grad)
    plan = _Plan(head, row_loss, weights, size)
    loss: Tensor = _ChunkedLoss.apply(hidden, weight, bias, plan)  # type: ignore[no-untyped-call]
    return loss


@torch.no_grad()
def row_losses(hidden: Tensor, head: Head, row_loss: RowLoss, chunk: int | None = None) -> Tensor:
    """The loss of each row, without gradients; arguments as above.

    Returns:
        Shape `(N,)`, float32. A group of rows has its loss at its last row.
    """
    head = head.cast(_precision(hidden, head))
    with torch.autocast(hidden.device.type, enabled=False):
        size = chunk or _rows_at_once(head, row_loss, with_head=False)
        losses = [
            row_loss(Student(head.logits(hidden[rows])), rows, None)
            for rows in chunks(len(hidden), size, row_loss.spans)
        ]
    return torch.cat(losses) if losses else hidden.new_zeros(0, dtype=torch.float32)


def chunks(count: int, size: int, spans: Tensor | None) -> Iterator[slice]:
    """Cut rows into chunks of at most `size`, larger only where a single span is.

    Args:
        count: The number of rows.
        size: At least 1.
        spans: Rows that have to stay together; see `RowLoss`.
    """
    allowed = torch.ones(count + 1, dtype=torch.bool)
    for start, stop in [] if spans is None else spans.tolist():
        allowed[start + 1 : stop] = False
    cuts = allowed.nonzero().squeeze(-1)
    start = 0
    while start < count:
        # The last cut within reach, or else the first one beyond.
        reach = int(torch.searchsorted(cuts, start + size, right=True)) - 1
        stop = int(cuts[reach])
        if stop == start:
            stop = int(cuts[reach + 1])
        yield slice(start, stop)
        start = stop


def _rows_at_once(head: Head, row_loss: RowLoss, *, with_head: bool) -> int:
    budget = _BUDGET_BYTES.get(head.weight.device.type, _LARGE_BUDGET_BYTES)
    copies = row_loss.copies + (head.cap is not None)
    rows = budget // (4 * head.vocabulary * copies) // _MULTIPLE * _MULTIPLE
    return max(rows, _LEAST_WITH_HEAD if with_head else _LEAST)


def _precision(hidden: Tensor, head: Head) -> torch.dtype:
    """The precision of the head's products: autocast's, where that is on."""
    device = hidden.device.type
    if torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return head.weight.dtype


@dataclass(frozen=True, slots=True)
class _Plan:
    head: Head
    row_loss: RowLoss
    weights: Tensor
    size: int


@dataclass(frozen=True, slots=True)
class _Sums:
    """Gradients so far, of what needs one, in float32 or more."""

    hidden: Tensor | None
    weight: Tensor | None
    bias: Tensor | None

    @staticmethod
    def zeros(like: tuple[Tensor | None, ...], needed: tuple[bool, ...]) -> _Sums:
        return _Sums(
            *(
                torch.zeros_like(each, dtype=torch.promote_types(each.dtype, torch.float32))
                if each is not None and need
                else None
                for each, need in zip(like, needed, strict=False)
            )
        )

    def add(
        self, head: Head, hidden: Tensor, rows: slice, gradient: Tensor, weights: Tensor
    ) -> None:
        """Add what follows from the gradient of the projection's results at some rows."""
        # Rows are weighted where they are short.
        slopes = gradient.to(head.weight.dtype)
        if self.hidden is not None:
            torch.mul(slopes @ head.weight, weights[:, None], out=self.hidden[rows])
        if self.weight is not None:
            inputs = (hidden[rows] * weights[:, None]).to(slopes.dtype)
            if slopes.dtype == self.weight.dtype:
                self.weight.addmm_(slopes.T, inputs)
            else:
                self.weight.add_(slopes.T @ inputs)
        if self.bias is not None:
            self.bias.add_(weights @ gradient)


def _add_chunk(sums: _Sums, plan: _Plan, head: Head, hidden: Tensor, rows: slice) -> Tensor:
    """The loss of some rows; its own function, so that nothing of a chunk outlives it."""
    logits = head.logits(hidden[rows])
    slopes = head.slopes(logits)
    student = Student(logits)
    del logits
    gradient = torch.zeros_like(student.log_probs)
    losses = plan.row_loss(student, rows, gradient)
    del student
    if slopes is not None:
        gradient.mul_(slopes)
    weights = plan.weights[rows]
    sums.add(head, hidden, rows, gradient, weights * head.scale)
    return (losses * weights).sum()


class _ChunkedLoss(torch.autograd.Function):
    """Weight and bias are those of the plan's head: autograd sees arguments only."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, plan: _Plan
    ) -> Tensor:
        sums = _Sums.zeros((hidden, weight, bias), ctx.needs_input_grad)
        head = plan.head.cast(_precision(hidden, plan.head))
        with torch.autocast(hidden.device.type, enabled=False):
            loss = plan.weights.new_zeros(())
            for rows in chunks(len(hidden), plan.size, plan.row_loss.spans):
                loss += _add_chunk(sums, plan, head, hidden, rows)
        ctx.save_for_backward(sums.hidden, sums.weight, sums.bias)
        ctx.dtypes = hidden.dtype, weight.dtype
        return loss

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias = ctx.saved_tensors
        of_hidden, of_head = ctx.dtypes
        return (
            None if hidden is None else (hidden * outer[0]).to(of_hidden),
            None if weight is None else (weight * outer[0]).to(of_head),
            None if bias is None else (bias * outer[0]).to(of_head),
            None,
        )
