"""Promise: teachers are fused by the stated formulas, and what is fused is a distribution."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from evomerge.errors import CompatibilityError, RecipeError
from evomerge.refinement.predictions.kept import sampled, top_k
from evomerge.refinement.teachers import live_fusion
from evomerge.refinement.teachers.fusion import fuse
from evomerge.refinement.teachers.weights import Rule, of_domain, teacher_weights

if TYPE_CHECKING:
    from evomerge.refinement.predictions.top_k import TopK

RULES: tuple[Rule, ...] = get_args(Rule)
FUSELLM = torch.tensor([[2.0], [1.5], [1.8]])
VOCABULARY = 9

CASES = {
    "rule": st.sampled_from(RULES),
    "per_token": st.booleans(),
    "k": st.integers(1, VOCABULARY),
    "seed": st.integers(0, 50),
}


def logits_of(teachers: int, n: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(teachers, n, VOCABULARY, generator=rng)
    return logits, torch.randint(VOCABULARY, (n,), generator=rng)


def rows_of(logits: Tensor, labels: Tensor, k: int) -> list[TopK]:
    return [top_k(each.clone(), labels, k) for each in logits]


def dense(rows: TopK) -> Tensor:
    """Probabilities of all tokens, those of the tail shared equally."""
    probs = torch.zeros(len(rows.ids), rows.vocabulary)
    probs.scatter_add_(1, rows.ids, rows.log_probs.exp())
    others = probs == 0
    share = rows.tail.exp() / others.sum(dim=1).clamp(min=1)
    return torch.where(others, share[:, None], probs)


def widened(rows: TopK, width: int) -> TopK:
    """The same with room for more tokens."""
    more = (0, width - rows.ids.shape[1])
    return replace(
        rows,
        ids=torch.nn.functional.pad(rows.ids, more),
        log_probs=torch.nn.functional.pad(rows.log_probs, more, value=-torch.inf),
    )


def test_the_lowest_cross_entropy_is_number_two() -> None:
    assert teacher_weights(FUSELLM, "min_ce")[:, 0].tolist() == [0, 1, 0]


def test_the_first_of_equally_good_teachers_is_taken() -> None:
    equal = torch.tensor([[2.0, 1.0], [1.0, 2.0], [1.5, 1.5]])
    assert teacher_weights(equal, "min_ce")[:, 0].tolist() == [1, 0, 0]
    assert teacher_weights(equal, "min_ce", per_token=True).T.tolist() == [[0, 1, 0], [1, 0, 0]]


def test_fusellms_average_has_these_weights() -> None:
    torch.testing.assert_close(
        teacher_weights(FUSELLM, "avg_ce")[:, 0],
        torch.tensor([0.320289, 0.349680, 0.330031]),
        atol=1e-6,
        rtol=0,
    )


def test_weights_by_cross_entropy_are_as_likely_as_each_finds_the_text() -> None:
    # exp(-2), exp(-1.5) and exp(-1.8), by their sum .523764.
    torch.testing.assert_close(
        teacher_weights(FUSELLM, "ce_weighted")[:, 0],
        torch.tensor([0.258390, 0.426012, 0.315598]),
        atol=2e-6,
        rtol=0,
    )


@pytest.mark.parametrize(
    ("rule", "expected"),
    [("avg_logits", [0.622459, 0.377541]), ("avg_probs", [0.574869, 0.425131])],
)
def test_averages_of_two_logits_are_these(rule: Rule, expected: list[float]) -> None:
    logits, labels = torch.tensor([[[2.0, 0.0]], [[0.0, 1.0]]]), torch.tensor([0])
    live = live_fusion.fuse(logits, labels, rule).exp()
    kept = dense(fuse(rows_of(logits, labels, 2), rule))
    for found in (live, kept):
        torch.testing.assert_close(found, torch.tensor([expected]), atol=1e-6, rtol=0)


@given(**CASES, teachers=st.integers(1, 4))
def test_what_is_fused_adds_up_to_one(
    rule: Rule, per_token: bool, k: int, seed: int, teachers: int
) -> None:
    logits, labels = logits_of(teachers, seed=seed)
    found = fuse(rows_of(logits, labels, k), rule, per_token=per_token)
    total = found.log_probs.exp().sum(dim=1) + found.tail.exp()
    torch.testing.assert_close(total, torch.ones(3))
    assert found.ids.shape == (3, k)
    assert (found.log_probs.diff(dim=1) <= 0).all()
    assert all(len(set(row)) == k for row in found.ids.tolist())


@given(**CASES, copies=st.integers(1, 4))
def test_identical_teachers_are_as_one(
    rule: Rule, per_token: bool, k: int, seed: int, copies: int
) -> None:
    logits, labels = logits_of(1, seed=seed)
    (one,) = rows_of(logits, labels, k)
    found = fuse([one] * copies, rule, per_token=per_token)
    assert torch.equal(found.ids, one.ids)
    for name in ("log_probs", "tail", "nll"):
        torch.testing.assert_close(getattr(found, name), getattr(one, name), atol=1e-5, rtol=1e-5)


@given(rule=st.sampled_from(RULES), per_token=st.booleans(), seed=st.integers(0, 50))
def test_teachers_that_keep_everything_are_fused_as_live_ones(
    rule: Rule, per_token: bool, seed: int
) -> None:
    logits, labels = logits_of(3, seed=seed)
    found = fuse(rows_of(logits, labels, VOCABULARY), rule, per_token=per_token)
    live = live_fusion.fuse(logits, labels, rule, per_token=per_token)
    torch.testing.assert_close(dense(found), live.exp(), atol=1e-5, rtol=1e-4)
    nll = -live.gather(1, labels[:, None])[:, 0]
    torch.testing.assert_close(found.nll, nll, atol=1e-4, rtol=1e-4)


@given(k=st.integers(1, VOCABULARY - 1), seed=st.integers(0, 50))
def test_a_token_that_a_teacher_did_not_keep_has_an_equal_share_of_its_tail(
    k: int, seed: int
) -> None:
    logits, labels = logits_of(2, seed=seed)
    rows = [widened(each, VOCABULARY) for each in rows_of(logits, labels, k)]
    shared = torch.stack([dense(each) for each in rows])
    found = fuse(rows, "avg_probs")
    torch.testing.assert_close(dense(found), shared.mean(dim=0), atol=1e-6, rtol=1e-4)
    geometric = shared.log().mean(dim=0).softmax(dim=1)
    found = fuse(rows, "avg_logits")
    torch.testing.assert_close(dense(found), geometric, atol=1e-6, rtol=1e-4)


def test_only_the_likeliest_of_all_kept_tokens_stay() -> None:
    logits, labels = torch.tensor([[[5.0, 4, 0, 0]], [[0.0, 0, 5, 4]]]), torch.tensor([0])
    one = fuse(rows_of(logits, labels, 1), "avg_probs")
    assert one.ids.tolist() == [[0]]
    torch.testing.assert_close(one.log_probs.exp() + one.tail.exp()[:, None], torch.ones(1, 1))
    rows = rows_of(logits, labels, 2)
    assert fuse([rows[0], widened(rows[1], 3)], "avg_probs").ids.shape == (1, 3)


def test_the_best_teacher_keeps_its_rows_and_the_student_may_be_it() -> None:
    logits, labels = logits_of(2, n=4, seed=3)
    teacher, student = rows_of(logits, labels, 3)
    by_sequence = fuse([teacher, student], "min_ce")
    best = min((teacher, student), key=lambda rows: float(rows.nll.mean()))
    assert torch.equal(by_sequence.log_probs, best.log_probs)
    by_token = fuse([teacher, student], "min_ce", per_token=True)
    assert torch.equal(by_token.nll, torch.minimum(teacher.nll, student.nll))


def test_drawn_tokens_are_mixed_too_but_not_geometrically() -> None:
    logits, labels = torch.tensor([[[9.0, 0, 0]], [[0.0, 9, 9]]]), torch.tensor([0])
    uniform = torch.tensor([[0.2, 0.4, 0.6, 0.8]])
    rows = [sampled(each.clone(), labels, uniform) for each in logits]
    torch.testing.assert_close(
        dense(fuse([widened(each, 3) for each in rows], "avg_probs")),
        torch.tensor([[0.5, 0.25, 0.25]]),
    )
    with pytest.raises(CompatibilityError, match="avg_logits: at some position no token has"):
        fuse(rows, "avg_logits")


def test_teachers_of_other_vocabularies_are_refused() -> None:
    rows = [top_k(torch.zeros(1, size), torch.tensor([0]), 1) for size in (4, 5)]
    with pytest.raises(CompatibilityError, match="teachers have vocabularies of 4, 5 tokens"):
        fuse(rows, "avg_probs")


def test_a_sequence_without_rows_stays_without() -> None:
    logits, labels = logits_of(2, n=0)
    assert len(fuse(rows_of(logits, labels, 2), "min_ce").nll) == 0


def test_a_domain_has_the_first_teacher_that_is_for_it() -> None:
    assert of_domain(["maths", "code", "code"], "code") == 1
    with pytest.raises(RecipeError, match=r"domain 'cod' has no teacher; did you mean 'code'\?; "):
        of_domain(["maths", "code"], "cod")
    with pytest.raises(RecipeError, match=r"a text without a domain; teachers are there for m"):
        of_domain(["maths"], None)


def kl(log_p: Tensor, log_q: Tensor) -> float:
    return float((log_p.exp() * (log_p - log_q)).sum())


def test_a_large_model_that_is_the_small_one_becomes_its_expert() -> None:
    logits, _ = logits_of(2)
    base, expert = logits
    found = live_fusion.dynamic(base, base, expert[None])
    torch.testing.assert_close(found, expert.log_softmax(dim=1), atol=1e-5, rtol=1e-5)


def test_the_strength_of_a_known_case_is_one_point_one() -> None:
    large, base = torch.tensor([[1.0, 0, 0]]), torch.zeros(1, 3)
    found = live_fusion.dynamic(large, base, large[None])
    torch.testing.assert_close(found, torch.tensor([[2.1, 0, 0]]).log_softmax(dim=1))
    start, small = large.log_softmax(dim=1), base.log_softmax(dim=1)
    there, back = kl(start, small), kl(small, start)
    assert (there, back) == (pytest.approx(0.123284, abs=1e-6), pytest.approx(0.119499, abs=1e-6))
    apart = (kl(found, start) - there) ** 2 + (kl(start, found) - back) ** 2
    assert apart == pytest.approx(2.6059e-4, rel=1e-3)


def test_an_expert_that_did_not_move_leaves_the_large_model_as_it_is() -> None:
    logits, _ = logits_of(2)
    large, base = logits
    found = live_fusion.dynamic(large, base, base[None])
    torch.testing.assert_close(found, large.log_softmax(dim=1))


@given(seed=st.integers(0, 30))
def test_at_most_one_expert_is_active_at_a_position(seed: int) -> None:
    logits, _ = logits_of(4, seed=seed)
    found = live_fusion.dynamic(logits[0], logits[1], logits[2:])
    strengths = torch.arange(21)[:, None, None, None] / 10
    one_active = (logits[0] + strengths * (logits[2:] - logits[1])).log_softmax(dim=-1)
    apart = (one_active - found).abs().amax(dim=-1)
    assert (apart.flatten(0, 1).amin(dim=0) < 1e-5).all()
