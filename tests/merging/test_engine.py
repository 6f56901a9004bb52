"""The engine merges in float32, rounds once, and refuses what is not finite."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from evomerge.errors import MergeError
from evomerge.operators import fuse

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

NAME = r"tensor model\.layers\.0\.mlp\.up_proj\.weight: "


def test_bfloat16_tensors_are_merged_in_float32_and_rounded_once(
    bench: Any, draw: Callable[..., Tensor]
) -> None:
    base, one, two = (draw((9, 11), seed, torch.bfloat16) for seed in range(3))
    merged = bench(base, {"one": one, "two": two}).merge(
        "task_arithmetic", parameters={"weight": 0.3}
    )
    deltas = [source.float() - base.float() for source in (one, two)]
    expected = base.float() + (deltas[0] * 0.3 + deltas[1] * 0.3)
    assert torch.equal(merged, expected.bfloat16())


def test_float64_tensors_are_merged_in_float64(bench: Any) -> None:
    base = torch.tensor([1.0], dtype=torch.float64)
    merged = bench(base, {"one": base + 2**-40}).merge("task_arithmetic", parameters={"weight": 1})
    assert merged.item() == 1 + 2**-40


def test_sources_may_be_stored_in_another_dtype_than_the_base(
    bench: Any, draw: Callable[..., Tensor]
) -> None:
    base, one = draw((5, 4), 0, torch.bfloat16), draw((5, 4), 1, torch.float16)
    merged = bench(base, {"one": one}).merge()
    assert torch.equal(merged, one.bfloat16())


@pytest.mark.parametrize("out_dtype", [torch.float32, torch.float64])
def test_what_is_written_to_a_wider_tensor_is_rounded_to_the_stored_dtype(
    bench: Any, draw: Callable[..., Tensor], out_dtype: torch.dtype
) -> None:
    base, one, two = (draw((9, 11), seed, torch.bfloat16) for seed in range(3))
    wide = bench(base, {"one": one, "two": two}, out_dtype=out_dtype).merge()
    narrow = bench(base, {"one": one, "two": two}).merge()
    assert torch.equal(wide, narrow.to(out_dtype))


@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 5), (8, 1), (2, 3, 4), (0,)], ids=str)
@pytest.mark.parametrize("operator", ["linear", "task_arithmetic", "ties", "dare_ties"])
def test_tensors_of_any_shape_are_merged(
    bench: Any, draw: Callable[..., Tensor], shape: tuple[int, ...], operator: str
) -> None:
    base, one, two = (draw(shape, seed) for seed in range(3))
    merged = bench(base, {"one": one, "two": two}).merge(operator, parameters={"weight": 0.5})
    assert merged.shape == shape
    assert merged.isfinite().all()


@pytest.mark.parametrize("block", [1, 7, 100, 1 << 20])
@pytest.mark.parametrize("operator", ["linear", "task_arithmetic"])
def test_the_size_of_a_block_does_not_matter(
    bench: Any,
    draw: Callable[..., Tensor],
    same_bits: Callable[[Tensor, Tensor], bool],
    monkeypatch: pytest.MonkeyPatch,
    operator: str,
    block: int,
) -> None:
    base, one, two = (draw((13, 17), seed, torch.bfloat16) for seed in range(3))
    case = bench(base, {"one": one, "two": two})
    whole = case.merge(operator, parameters={"weight": 0.3})
    monkeypatch.setattr(fuse, "BLOCK", block)
    assert same_bits(case.merge(operator, parameters={"weight": 0.3}), whole)


def test_sources_that_are_not_contiguous_are_read_in_their_order(
    bench: Any, draw: Callable[..., Tensor]
) -> None:
    base, one = draw((4, 6)), draw((6, 4), 1).T
    assert torch.equal(bench(base, {"one": one}).merge(), one)


def test_reading_leaves_base_and_sources_alone(bench: Any, draw: Callable[..., Tensor]) -> None:
    base, one = draw((4, 6)), draw((4, 6), 1)
    before = base.clone(), one.clone()
    bench(base, {"one": one}).merge("task_arithmetic", parameters={"weight": 0.5})
    assert torch.equal(base, before[0])
    assert torch.equal(one, before[1])


@pytest.mark.parametrize("operator", ["task_arithmetic", "ties", "dare_linear"])
def test_sources_equal_to_the_base_give_the_base(
    bench: Any,
    draw: Callable[..., Tensor],
    same_bits: Callable[[Tensor, Tensor], bool],
    operator: str,
) -> None:
    base = draw((9, 11), 0, torch.bfloat16)
    merged = bench(base, {"one": base, "two": base}).merge(operator, parameters={"weight": 0.3})
    assert same_bits(merged, base)


@pytest.mark.parametrize("operator", ["task_arithmetic", "ties", "dare_ties"])
def test_a_single_source_in_full_is_itself(
    bench: Any,
    draw: Callable[..., Tensor],
    same_bits: Callable[[Tensor, Tensor], bool],
    operator: str,
) -> None:
    """In bfloat16: in float32 the way over the task vector may cost the last bit."""
    base, one = (draw((9, 11), seed, torch.bfloat16) for seed in range(2))
    merged = bench(base, {"one": one}).merge(operator, parameters={"weight": 1})
    assert same_bits(merged, one)


def test_the_masks_of_a_stochastic_merge_depend_on_tensor_source_and_seed_only(
    bench: Any, draw: Callable[..., Tensor], same_bits: Callable[[Tensor, Tensor], bool]
) -> None:
    base, one = draw((30, 30)), draw((30, 30), 1)

    def merge(label: str = "one", name: str = "a.0.weight", seed: int = 0) -> Tensor:
        torch.rand(3)
        case = bench(base, {label: one}, name=name)
        merged: Tensor = case.merge(
            "dare_linear", parameters={"weight": 1, "density": 0.5}, seed=seed
        )
        return merged

    first = merge()
    assert same_bits(merge(), first)
    others = (merge(label="two"), merge(name="a.1.weight"), merge(seed=1))
    assert not any(same_bits(other, first) for other in others)


def test_one_source_draws_the_same_mask_whoever_stands_beside_it(
    bench: Any, draw: Callable[..., Tensor]
) -> None:
    base, one, two = (draw((30, 30), seed) for seed in range(3))

    def merge(**sources: Tensor) -> Tensor:
        own = [{"model": name, "parameters": {"weight": float(name == "one")}} for name in sources]
        merged: Tensor = bench(base, sources).merge(
            "dare_linear", parameters={"density": 0.5}, sources=own
        )
        return merged

    assert torch.equal(merge(one=one), merge(two=two, one=one))


@pytest.mark.parametrize("entry", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("operator", ["linear", "task_arithmetic", "ties", "dare_linear"])
def test_an_entry_of_a_source_that_is_not_finite_is_refused(
    bench: Any, draw: Callable[..., Tensor], operator: str, entry: float
) -> None:
    base, one, two = (draw((4, 6), seed) for seed in range(3))
    two[1, 2] = entry
    with pytest.raises(
        MergeError,
        match=NAME + "the result has NaN or infinite entries; source two had them already",
    ):
        bench(base, {"one": one, "two": two}).merge(operator, parameters={"weight": 0.5})


def test_infinities_of_both_signs_do_not_upset_slerp(
    bench: Any, draw: Callable[..., Tensor]
) -> None:
    one, two = draw((300, 300)).abs(), draw((300, 300), 1).abs()
    one[0, 0], one[299, 299] = torch.inf, -torch.inf
    with pytest.raises(MergeError, match=NAME + ".*source one had them already"):
        bench(one, {"one": one, "two": two}).merge("slerp", parameters={"t": 0.5})


def test_an_entry_of_the_base_that_is_not_finite_is_refused(
    bench: Any, draw: Callable[..., Tensor]
) -> None:
    base, one = draw((4, 6)), draw((4, 6), 1)
    base[0, 0] = torch.nan
    with pytest.raises(MergeError, match=NAME + ".*; the base model had them already"):
        bench(base, {"one": one}).merge("task_arithmetic", parameters={"weight": 0.5})


def test_an_average_does_not_mind_a_base_that_takes_no_part(
    bench: Any, draw: Callable[..., Tensor]
) -> None:
    base, one = torch.full((4, 6), torch.nan), draw((4, 6), 1)
    assert torch.equal(bench(base, {"one": one}).merge(), one)


def test_an_overflow_of_the_stored_dtype_is_refused(bench: Any) -> None:
    one = torch.full((4,), 60_000.0, dtype=torch.float16)
    with pytest.raises(
        MergeError, match=NAME + "the result has NaN .*; the merge overflowed float16"
    ):
        bench(one, {"one": one}).merge("linear", parameters={"weight": 2, "normalize": False})


def test_an_operator_s_own_error_names_the_tensor(bench: Any, draw: Callable[..., Tensor]) -> None:
    base, one, two = (draw((4, 6), seed) for seed in range(3))
    with pytest.raises(MergeError, match=NAME + r"weight: \[0\.0, 0\.0\] add up to 0"):
        bench(base, {"one": one, "two": two}).merge(parameters={"weight": 0})


@pytest.mark.parametrize("shape", [(6, 4), (8, 6), (24,), (2, 2, 6)], ids=str)
def test_a_source_of_another_shape_is_refused(
    bench: Any, draw: Callable[..., Tensor], shape: tuple[int, ...]
) -> None:
    with pytest.raises(
        MergeError, match=NAME + r"source one has shape \(.*\), the base model \(4, 6\)"
    ):
        bench(draw((4, 6)), {"one": draw(shape)}).merge()


def test_integers_that_are_equal_everywhere_are_copied(bench: Any) -> None:
    numbers = torch.arange(5)
    merged = bench(numbers, {"one": numbers.clone(), "two": numbers.clone()}).merge(
        parameters={"weight": 0.3}
    )
    assert torch.equal(merged, numbers)


@pytest.mark.parametrize(
    "other", [torch.arange(5) + 1, torch.arange(5).int(), torch.arange(5).float()], ids=str
)
def test_integers_that_differ_are_refused(bench: Any, other: Tensor) -> None:
    numbers = torch.arange(5)
    with pytest.raises(MergeError, match=NAME + "holds integers that differ between the sources"):
        bench(numbers, {"one": numbers, "two": other}).merge()
