"""Merges for mergekit's bytes make them tensor by tensor, whatever dtype and parameters are.

mergekit 0.1.5 runs in the Python that EVOMERGE_ORACLE names; its random numbers start from a seed.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, assume, given, reject, settings
from hypothesis import strategies as st
from mergekit_calls import DTYPES, Call, calls
from mergekit_process import MARKS, MergekitError
from operating import draw
from torch import Tensor

from evomerge.merging.mergekit_compat.merge import merge
from evomerge.merging.mergekit_compat.statistics import SAMPLE
from evomerge.recipe.mergekit.names import METHODS

pytestmark = MARKS

dtypes = st.sampled_from((None, *DTYPES))
"""Of the arithmetic; None for that of the models."""


def our_merge(call: Call, dtype: torch.dtype | None) -> Tensor:
    name, arguments = call.ours()
    rng = torch.Generator().manual_seed(call.seed)
    stack = call.stack.to(dtype or call.stack.dtype)
    return merge(name, stack[0], stack[-len(call.sources) :].unbind(), arguments, rng)


def mergekits_merge(call: Call, dtype: torch.dtype | None) -> Tensor:
    try:
        return call.ask_mergekit(dtype=dtype)
    except MergekitError as error:
        if "weighted sum of the input tensors is zero" not in str(error):
            raise
        # There are no bytes to make.
        reject()


def assert_same_bits(one: Tensor, other: Tensor) -> None:
    """Zeros are the same whatever their sign, and so are results that are no numbers."""
    assert one.dtype == other.dtype
    torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_tensor_has_mergekit_s_bits(method: str, data: st.DataObject) -> None:
    call, dtype = data.draw(calls(method)), data.draw(dtypes)
    # In rows of one entry mergekit divides by zero.
    assume(not method.startswith("della") or call.stack.shape[min(2, call.stack.ndim - 1)] > 1)
    assert_same_bits(our_merge(call, dtype), mergekits_merge(call, dtype))


def test_quartiles_of_large_tensors_are_read_off_mergekit_s_sample() -> None:
    base = draw((1001, 1001))
    stack = torch.stack([base, base + 0.02 * draw((1001, 1001), 1)])
    call = Call(method="arcee_fusion", stack=stack, parameters={}, seed=3)
    assert base.numel() > SAMPLE
    assert_same_bits(our_merge(call, None), call.ask_mergekit())
