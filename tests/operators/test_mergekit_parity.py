"""Our operators give what mergekit 0.1.5 gives, to the last bit where its arithmetic is ours.

mergekit computes in float32 and stores what the models are stored in, as our recipes ask it to. It
runs in the Python that EVOMERGE_ORACLE names. From five sources on its own sums associate the last
entries of a tensor differently; that is out of scope, see operators/accumulate.py. Parameters that
our operators have fixed (rescale of TIES, eps, max_iter, tol) are at mergekit's default.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from mergekit_agreement import assert_close, cuts, is_cut_among_equals, well_conditioned
from mergekit_calls import Call, calls
from mergekit_process import MARKS
from torch import Tensor

from evomerge.operators.apply import apply
from evomerge.operators.registry import find_operator
from evomerge.recipe.mergekit.names import METHODS

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = MARKS

BY_ANGLE = ("slerp", "nuslerp", "multislerp", "karcher", "model_stock", "sce")
"""Methods whose shares follow from angles, norms or variances of whole tensors."""

BY_CHANCE = ("dare_linear", "dare_ties", "della", "della_linear")

EXACT = [name for name in METHODS if name not in BY_ANGLE + BY_CHANCE]


def our_merge(call: Call, **inputs: Any) -> Tensor:
    """Merge in float32 and round once to what is stored, as our engine does."""
    name, arguments = call.ours()
    operator = find_operator(name)
    base = call.stack[0].float()
    if operator.space == "weight":
        merged = apply(operator, call.sources.float(), arguments, {"base": base})
    else:
        merged = base + apply(operator, call.deltas, arguments, inputs)
    return merged.to(call.stack.dtype)


def mergekits_merge(call: Call, dtype: torch.dtype = torch.float32) -> Tensor:
    return call.ask_mergekit(dtype=dtype, out_dtype=call.stack.dtype)


def examples(count: int) -> Callable[..., Any]:
    # Some calls are no use to a test; of some methods they are many.
    return settings(max_examples=count, suppress_health_check=list(HealthCheck))


def draw_call(data: st.DataObject, method: str) -> Call:
    """A call whose result does not hang on a sort, nor on what cancelling weights leave."""
    call = data.draw(calls(method))
    assume(not is_cut_among_equals(call))
    if method in ("linear", "nuslerp", "multislerp"):
        weight = call.parameters["weight"]
        assume(abs(sum(weight)) >= max(0.2, 0.5 * sum(map(abs, weight))))
    return call


@pytest.mark.parametrize("method", EXACT)
@examples(120)
@given(data=st.data())
def test_sums_agree_with_mergekit_to_the_last_bit(method: str, data: st.DataObject) -> None:
    call = draw_call(data, method)
    assert torch.equal(our_merge(call), mergekits_merge(call))


@pytest.mark.parametrize("method", BY_ANGLE)
@examples(120)
@given(data=st.data())
def test_angles_agree_with_mergekit_but_for_their_rounding(
    method: str, data: st.DataObject
) -> None:
    """mergekit measures them in float32, we in float64.

    Results stored as bfloat16 or float16 are neighbours, except where the operands cancel out.
    """
    call = draw_call(data, method)
    # Of a single model mergekit forgets the weight.
    assume(method != "multislerp" or len(call.sources) > 1)
    where = well_conditioned(call)
    assume(bool(where.any()))
    assert_close(call, our_merge(call), mergekits_merge(call), where)


class Masked(NamedTuple):
    """Stands in for random numbers: small ones where mergekit keeps an entry, large elsewhere."""

    mask: Tensor
    start: int = 0

    def coarse(self, shape: tuple[int, ...]) -> Tensor:
        size = torch.Size(shape).numel()
        part = self.mask.reshape(-1)[self.start : self.start + size].view(shape)
        return torch.where(part, 0.0, 1.0)

    def kept(self, shape: tuple[int, ...], chance: float | Tensor) -> Tensor:
        return (self.coarse(shape) < chance).float()

    def after(self, entries: int) -> Masked:
        return self._replace(start=self.start + entries)


def mergekits_masks(call: Call) -> list[Tensor]:
    """What mergekit keeps of each source, shape `(*S,)`."""
    rng = torch.Generator().manual_seed(call.seed)
    _, arguments = call.ours()
    masks = []
    for row, delta in enumerate(call.deltas):
        density = arguments["density"][row]
        chances = torch.full_like(delta, density)
        if call.method.startswith("della"):
            epsilon = arguments["epsilon"][row]
            rows = delta.abs().reshape(1, -1) if delta.ndim == 1 else delta.abs()
            # Along the second axis, even of three.
            ranks = rows.argsort(dim=1).argsort(dim=1) / (rows.shape[1] - 1)
            chances = (density - epsilon + ranks * 2 * epsilon).view_as(delta)
        whole = density >= 1
        kept = torch.ones_like(delta) if whole else torch.bernoulli(chances, generator=rng)
        masks.append(kept.bool())
    return masks


@pytest.mark.parametrize("method", BY_CHANCE)
@examples(60)
@given(data=st.data())
def test_sums_of_the_same_masks_agree_with_mergekit(method: str, data: st.DataObject) -> None:
    """To the last bit but for the norms, which mergekit adds up in float32 and we in float64."""
    call = data.draw(calls(method))
    # In rows of one entry mergekit divides by zero.
    assume(method.startswith("dare") or call.stack.shape[min(2, call.stack.ndim - 1)] > 1)
    draws = [Masked(mask) for mask in mergekits_masks(call)]
    ours, theirs = our_merge(call, draws=draws), mergekits_merge(call)
    if call.parameters.get("rescale", True):
        assert_close(call, ours, theirs)
    else:
        assert torch.equal(ours, theirs)


@examples(60)
@given(data=st.data())
def test_of_entries_as_large_as_the_smallest_one_kept_mergekit_keeps_some_and_we_keep_all(
    data: st.DataObject,
) -> None:
    """mergekit keeps as many as the density says, in the order of its sort."""
    call = data.draw(calls("ties"))
    density = data.draw(st.sampled_from([0.1, 0.3, 0.5, 0.8]))
    # Multiples of a half, so that equal magnitudes are common and sums are exact.
    stack = call.stack[:2].float().mul(2).round().div(2)
    call = Call(method="ties", stack=stack, parameters={"weight": 1.0, "density": density})
    (delta,), (ours,) = call.deltas, our_merge(call)[None] - stack[0]
    theirs = mergekits_merge(call) - stack[0]
    size = delta.numel()
    least = delta.abs().reshape(-1).sort(descending=True).values[max(1, int(density * size)) - 1]
    assert torch.equal(ours, torch.where(delta.abs() >= least, delta, 0.0))
    assert torch.equal(theirs, torch.where(theirs != 0, delta, 0.0))
    assert (delta[ours != theirs].abs() == least).all()
    assert int((theirs != 0).sum()) <= cuts_off(call)


def cuts_off(call: Call) -> int:
    """How many entries are above the only cut."""
    (below,) = cuts(call, 0)
    return call.stack[0].numel() - below
