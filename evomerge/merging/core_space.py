"""Merge low-rank updates in the small space that all of them share.

Panariello et al., "Accurate and efficient low-rank model merging in core space", 2025,
https://arxiv.org/abs/2509.17786, section 4. The columns of all B and the rows of all A span the
updates; in orthonormal bases of these spans an update is a small matrix, its core, and nothing is
lost. A merge of cores costs as much as the ranks are large, not the model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from evomerge.errors import MergeError
from evomerge.operators.apply import apply
from evomerge.operators.registry import find_operator
from evomerge.operators.spectral import decompose, one_thread

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from evomerge.operators.parameters import Parameter
    from evomerge.operators.registry import Operator

LowRank = tuple[Tensor, Tensor, float]
"""B of shape `(out, rank)`, A of shape `(rank, in)`, and the factor on their product."""


def core_space(factors: Sequence[LowRank]) -> tuple[Tensor, Tensor, Tensor]:
    """Find the bases that updates share, and the updates in these bases.

    Args:
        factors: M updates of one tensor; their ranks may differ.

    Returns:
        A basis of outputs, shape `(out, p)`, a basis of inputs, shape `(in, q)`, both with
        orthonormal columns, and the cores, shape `(M, p, q)`, all float64. Basis of outputs times
        core times transposed basis of inputs is the update.
    """
    with one_thread():
        outputs = _basis(torch.cat([b.double() for b, _, _ in factors], dim=1))
        inputs = _basis(torch.cat([a.double() for _, a, _ in factors]).T)
        cores = [
            (outputs.T @ b.double()) @ (a.double() @ inputs) * scaling for b, a, scaling in factors
        ]
    return outputs, inputs, torch.stack(cores)


def merge_in_core_space(
    factors: Sequence[LowRank],
    weights: Sequence[float],
    operator: str,
    arguments: Mapping[str, Any],
) -> tuple[Tensor, Tensor]:
    """Merge updates of one tensor with an operator, in core space.

    An operator that is linear gives what it gives for the updates written out in full. Others see
    the entries of the cores instead.

    Args:
        factors: M updates of one tensor; their ranks may differ.
        weights: The operator's `weight`, length M.
        operator: An operator on task vectors that takes nothing but them and its parameters.
        arguments: Its other parameters, one value or one for each source; defaults if absent.

    Returns:
        B of shape `(out, rank)` and A of shape `(rank, in)`, float32, whose product is the merged
        update; the rank is at most the sum of the ranks.

    Raises:
        MergeError: The operator does not work in core space, or its parameters are wrong.
        RecipeError: No operator has this name.
    """
    found = find_operator(operator)
    if len(weights) != len(factors):
        raise MergeError(f"weights: expected {len(factors)} values, found {len(weights)}")
    settings = _settings(found, weights, arguments)
    outputs, inputs, cores = core_space(factors)
    merged = apply(found, cores, settings)
    with one_thread():
        left, right = outputs, inputs.T
        # The product goes to the side that leaves the smaller rank.
        if merged.shape[0] < merged.shape[1]:
            right = merged @ right
        else:
            left = left @ merged
    return left.float(), right.float()


def _basis(matrix: Tensor) -> Tensor:
    """Orthonormal columns that span those of a matrix, one at least."""
    left = decompose(matrix).left
    return left if left.shape[1] else torch.eye(len(matrix), 1, dtype=matrix.dtype)


def _settings(
    operator: Operator, weights: Sequence[float], arguments: Mapping[str, Any]
) -> dict[str, Any]:
    measure = operator.measure
    reads = {*measure.reads} - operator.parameters.keys() if measure else set()
    of_model = measure is not None and measure.span == "model"
    if operator.space != "delta" or of_model or not operator.inputs | reads <= {"measured"}:
        raise MergeError(
            f"operator {operator.name!r}: needs more than one tensor's task vectors, and core "
            "space has nothing else; use one like task_arithmetic, ties or tsv_m"
        )
    given = {**arguments, "weight": tuple(weights)}
    if unknown := sorted(given.keys() - operator.parameters.keys()):
        known = ", ".join(operator.parameters)
        raise MergeError(
            f"operator {operator.name!r}: has no parameter {unknown[0]!r}; has {known}"
        )
    settings = {
        name: _setting(operator.name, parameter, given.get(name, parameter.default), len(weights))
        for name, parameter in operator.parameters.items()
    }
    if operator.check is not None:
        operator.check(**settings)
    return settings


def _setting(operator: str, parameter: Parameter, value: Any, sources: int) -> Any:
    """The value of a parameter, one for each source if it has that many."""
    values = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    if parameter.per_source and len(values) == 1:
        values *= sources
    where = f"operator {operator!r}, parameter {parameter.name}"
    wanted = sources if parameter.per_source else 1
    if len(values) != wanted:
        raise MergeError(f"{where}: expected {wanted} values, found {len(values)}")
    for one in values:
        problem = "has no default, give it" if one is None else parameter.problem_with(one)
        if problem:
            raise MergeError(f"{where}: {problem}")
    return values if parameter.per_source else values[0]
