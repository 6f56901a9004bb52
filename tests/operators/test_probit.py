"""The quantile of the normal distribution, with no operation that libraries round differently."""

from __future__ import annotations

from statistics import NormalDist

import pytest
import torch

from evomerge.operators.probit import probit

STEPS = 1 << 24


def _quantiles(steps: torch.Tensor) -> torch.Tensor:
    return probit(steps.float() / STEPS)


@pytest.mark.parametrize(
    "steps",
    [range(300), range(0, STEPS, 16_411), range(STEPS // 2 - 300, STEPS // 2 + 300)],
    ids=["the tail", "everywhere", "the middle"],
)
def test_it_is_the_quantile_at_the_middle_of_a_step_to_six_digits(steps: range) -> None:
    exact = [NormalDist().inv_cdf((step + 0.5) / STEPS) for step in steps]
    assert _quantiles(torch.tensor(steps)).tolist() == pytest.approx(exact, rel=1.2e-6)


def test_it_rises_from_step_to_step() -> None:
    # About the place, too, where the two polynomials meet.
    meeting = round(NormalDist().cdf(-3.2295) * STEPS)
    for first in (0, meeting - 5_000, STEPS - 10_000):
        quantiles = _quantiles(torch.arange(first, first + 10_000))
        assert (quantiles.diff() >= 0).all()


def test_both_tails_are_alike_bit_for_bit() -> None:
    steps = torch.arange(0, STEPS, 1_009)
    assert torch.equal(_quantiles(steps), -_quantiles(STEPS - 1 - steps))
