"""Promise: a teacher's predictions reach the student's vocabulary and positions, nothing added."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from readers import LLAMA, PLAIN, placed

from evomerge.errors import CompatibilityError
from evomerge.refinement.alignment.dtw import lone_partners, warp
from evomerge.refinement.alignment.pairs import pair
from evomerge.refinement.alignment.rows import align_rows, in_students_tokens, merge_groups
from evomerge.refinement.alignment.vocabulary import Vocabulary
from evomerge.refinement.alignment.vocabulary_map import UNMATCHED, exact_map
from evomerge.refinement.predictions.targets import row_by_row
from evomerge.refinement.predictions.top_k import TopK
from evomerge.sensitivity.calibration import Prompted

NONE = torch.tensor(-math.inf)


def top_k(ids: list[list[int]], probabilities: list[list[float]], vocabulary: int = 10) -> TopK:
    found = torch.tensor(probabilities)
    rest = (1 - found.double().sum(dim=1)).clamp(min=0).float()
    nll = torch.arange(len(ids)) + 0.5
    return TopK(
        ids=torch.tensor(ids),
        log_probs=found.log(),
        tail=rest.log(),
        nll=nll,
        vocabulary=vocabulary,
    )


def test_the_same_tokenizer_takes_rows_over_as_they_are() -> None:
    teacher = top_k([[3, 1], [2, 0]], [[0.7, 0.2], [0.5, 0.5]])
    aligned = align_rows(teacher, (0, 1), ((3, 2), (3, 2)), torch.arange(10), 10)
    assert torch.equal(aligned.rows.ids, teacher.ids)
    assert torch.equal(aligned.rows.log_probs, teacher.log_probs)
    assert torch.equal(aligned.rows.tail, teacher.tail)
    assert torch.equal(aligned.rows.nll, teacher.nll)
    assert aligned.covered.tolist() == [True, True]


def test_tokens_that_the_student_lacks_count_among_all_others() -> None:
    teacher = top_k([[0, 1, 2]], [[0.5, 0.3, 0.1]])
    aligned = align_rows(teacher, (0,), ((1,), (7,)), torch.tensor([UNMATCHED, 7, 4]), 9)
    rows = aligned.rows
    assert rows.ids.tolist() == [[7, 4, 0]]
    assert rows.log_probs.exp().tolist()[0] == pytest.approx([0.3, 0.1, 0])
    assert rows.tail.exp().item() == pytest.approx(0.6)
    assert rows.vocabulary == 9


def test_the_likeliest_of_tokens_that_become_one_gives_the_log_probability() -> None:
    teacher = top_k([[0, 1, 2, 3]], [[0.4, 0.3, 0.2, 0.1]])
    rows = align_rows(teacher, (0,), ((1,), (5,)), torch.tensor([6, 5, 6, 5]), 9).rows
    assert rows.ids.tolist() == [[6, 5, 0, 0]]
    assert rows.log_probs.exp().tolist()[0] == pytest.approx([0.4, 0.3, 0, 0])
    assert rows.tail.exp().item() == pytest.approx(0.3)


def test_ids_beyond_the_map_are_padding() -> None:
    teacher = top_k([[0, 5, 9]], [[0.5, 0.3, 0.2]])
    rows = align_rows(teacher, (0,), ((0,), (0,)), torch.arange(5), 5).rows
    assert rows.log_probs.exp().tolist()[0] == pytest.approx([0.5, 0, 0])


def test_a_row_that_ends_early_stays_so() -> None:
    teacher = TopK(
        ids=torch.tensor([[4, 2, 0]]),
        log_probs=torch.tensor([[0.75, 0.25, 0.0]]).log(),
        tail=NONE[None],
        nll=torch.ones(1),
        vocabulary=5,
    )
    rows = align_rows(teacher, (0,), ((4,), (4,)), torch.arange(5), 5).rows
    assert rows.log_probs.exp().tolist() == [[0.75, 0.25, 0]]
    assert rows.tail.tolist() == [-math.inf]


def test_a_position_without_a_partner_teaches_the_token_that_follows() -> None:
    teacher = top_k([[0, 1]], [[0.6, 0.4]])
    # Row `i` predicts token `i`: in a row without a partner that token is certain, and not the
    # one before it, which a student that learned it would repeat.
    aligned = align_rows(teacher, (None, 0, None), ((0,), (8, 0, 9)), torch.arange(10), 10)
    assert aligned.rows.ids[:, 0].tolist() == [8, 0, 9]
    assert aligned.rows.log_probs.exp()[[0, 2]].tolist() == [[1, 0], [1, 0]]
    assert aligned.rows.tail[[0, 2]].tolist() == [-math.inf, -math.inf]
    assert aligned.rows.nll.tolist() == [0, 0.5, 0]
    assert aligned.covered.tolist() == [False, True, False]


def test_warped_tokens_take_rows_or_teach_the_token_that_follows() -> None:
    words = ("un", "believ", "able", "unbeliev")
    vocabulary = Vocabulary(tokens=words, spellings=tuple(word.encode() for word in words))
    teacher, student, same = (0, 1, 2), (3, 2), exact_map(vocabulary, vocabulary)
    rows = top_k([[0, 1], [1, 2], [2, 0]], [[0.9, 0.1], [0.8, 0.1], [0.7, 0.3]], 4)
    aligned = warp(vocabulary.words(teacher), vocabulary.words(student))
    found = align_rows(rows, lone_partners(aligned), (teacher, student), same, 4)
    assert found.rows.ids.tolist() == [[3, 0], [2, 0]]
    assert found.rows.log_probs.exp().tolist()[1] == pytest.approx([0.7, 0.3])
    assert found.covered.tolist() == [False, True]


def test_a_teacher_that_is_sure_of_its_own_tokens_teaches_the_student_its_own() -> None:
    text = Prompted("the", " cat sat, 🙂 the dog")
    read = pair(placed(PLAIN, text), placed(LLAMA, text))
    student, teacher = read.student.supervised, read.teacher.supervised
    ours, theirs = PLAIN.vocabulary, LLAMA.vocabulary
    certain = top_k([[token] for token in teacher], [[1.0]] * len(teacher), len(theirs))
    exact = exact_map(theirs, ours)
    found = align_rows(certain, read.lone_partners(), (teacher, student), exact, len(ours))
    assert found.rows.ids[:, 0].tolist() == list(student)
    assert found.rows.vocabulary == len(ours)
    assert found.covered.sum() > 3


def test_a_partner_of_another_meaning_predicts_nothing() -> None:
    # Both cover the same bytes, but the teacher's begins with a space of its own.
    teacher = top_k([[0]], [[1.0]])
    found = align_rows(teacher, (0,), ((0,), (1,)), torch.tensor([2]), 3)
    assert found.covered.tolist() == [False]
    assert found.rows.ids.tolist() == [[1]]


def test_a_row_of_nothing_that_the_student_has_covers_nothing() -> None:
    teacher = top_k([[0, 1], [0, 2]], [[0.5, 0.3], [0.6, 0.4]])
    rows = in_students_tokens(teacher, torch.tensor([UNMATCHED, 1, UNMATCHED]), 2)
    assert row_by_row(rows).covered.tolist() == [True, False]
    assert rows.tail.exp().tolist() == pytest.approx([0.7, 1.0])


@given(
    st.lists(st.integers(-1, 5), min_size=8, max_size=8),
    st.lists(st.permutations(range(9)), min_size=1, max_size=4),
)
def test_every_row_still_adds_up_to_one_and_is_sorted(
    to_student: list[int], ids: list[list[int]]
) -> None:
    probabilities = torch.tensor([0.35, 0.3, 0.15, 0.1]).expand(len(ids), 4)
    teacher = top_k([row[:4] for row in ids], probabilities.tolist())
    exact = torch.tensor([5, *to_student[1:]])
    aligned = align_rows(teacher, range(len(ids)), ([0] * len(ids), [5] * len(ids)), exact, 6)
    assert aligned.covered.all()
    rows = aligned.rows
    whole = torch.logaddexp(rows.log_probs.logsumexp(dim=1), rows.tail)
    assert torch.allclose(whole, torch.zeros(len(ids)), atol=1e-6)
    assert torch.equal(rows.log_probs, rows.log_probs.sort(dim=1, descending=True).values)
    for tokens, log_probs in zip(rows.ids, rows.log_probs, strict=True):
        kept = tokens[log_probs > -math.inf].tolist()
        assert len(kept) == len(set(kept))


@pytest.mark.parametrize(
    ("partners", "tokens"),
    [((0, 2), ((0, 1), (1, 1))), ((0,), ((0, 1), (1, 1))), ((0, 0), ((0,), (1, 1)))],
    ids=["no such token", "too few partners", "too many rows"],
)
def test_partners_of_another_text_are_refused(
    partners: tuple[int, ...], tokens: tuple[tuple[int, ...], tuple[int, ...]]
) -> None:
    teacher = top_k([[0], [1]], [[1.0], [1.0]])
    with pytest.raises(CompatibilityError, match=r"^alignment: 2 rows for .* give those of one"):
        align_rows(teacher, partners, tokens, torch.arange(2), 2)


def test_a_text_without_tokens_has_no_rows() -> None:
    teacher = top_k([[0]], [[1.0]])
    assert align_rows(teacher, (), ((0,), ()), torch.arange(2), 2).rows.ids.shape == (0, 1)


def test_rows_of_a_group_are_merged_by_the_chain_rule() -> None:
    last = top_k([[0, 1, 2], [0, 1, 2]], [[0.6, 0.3, 0.1], [0.6, 0.3, 0.05]])
    merged = merge_groups(last, torch.tensor([-math.log(0.9), 0.0]))
    assert merged.log_probs[0].exp().tolist() == pytest.approx([0.54, 0.27, 0.09])
    # A group of one token is what it was.
    torch.testing.assert_close(merged.log_probs[1], last.log_probs[1])
    assert merged.tail[1].exp() == pytest.approx(0.05)
