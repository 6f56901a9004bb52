"""Promise: a prediction over the teacher's tokens is split into one over the student's."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from readers import BYTES, LLAMA, PLAIN, TEXTS, WORDS, placed
from torch.nn import functional

from evomerge.recipe.distillation import DistillationLoss
from evomerge.refinement.alignment.pairs import pair
from evomerge.refinement.alignment.prefixes import (
    DEEPEST,
    Steps,
    follow,
    rows_by_prefix,
    split_tokens,
)
from evomerge.refinement.alignment.rows import certain_rows
from evomerge.refinement.alignment.vocabulary_map import UNMATCHED
from evomerge.refinement.heads import Head
from evomerge.refinement.losses.chunked import row_losses
from evomerge.refinement.predictions.kept import top_k
from evomerge.refinement.predictions.targets import TargetVocabulary, as_tensors
from evomerge.refinement.predictions.top_k import TopK
from evomerge.refinement.teachers.prefixes import PrefixTeacher
from evomerge.refinement.training.pass_loss import loss_of

if TYPE_CHECKING:
    from evomerge.refinement.alignment.placed import Reader

A, B, C = 0, 1, 2
# The teacher's tokens "ab", "ac", "b", and one that the student cannot spell.
SPLIT = torch.full((4, DEEPEST), UNMATCHED)
SPLIT[0, :2], SPLIT[1, :2], SPLIT[2, 0] = torch.tensor([A, B]), torch.tensor([A, C]), B
PATH_TO_SECOND = [A] + [UNMATCHED] * (DEEPEST - 1)


def predicted(*probabilities: float, tail: float = 0.0) -> TopK:
    """One row over the teacher's tokens."""
    found = torch.tensor([probabilities])
    return TopK(
        ids=torch.arange(len(probabilities))[None],
        log_probs=found.log(),
        tail=torch.tensor([tail]).log(),
        nll=torch.zeros(1),
        vocabulary=4,
    )


def both_steps() -> Steps:
    """The teacher says "ab" in one token, the student in two."""
    return Steps(
        rows=torch.tensor([0, 0]),
        depths=torch.tensor([0, 1]),
        paths=torch.tensor([[UNMATCHED] * DEEPEST, PATH_TO_SECOND]),
    )


def probabilities(rows: TopK, place: int) -> dict[int, float]:
    kept = rows.log_probs[place].isfinite()
    ids, log_probs = rows.ids[place][kept].tolist(), rows.log_probs[place][kept]
    return dict(zip(ids, log_probs.exp().tolist(), strict=True))


def test_tokens_that_begin_alike_are_one_and_what_follows_is_by_the_chain_rule() -> None:
    found = rows_by_prefix(
        predicted(0.5, 0.25, 0.15, 0.1), both_steps(), torch.tensor([A, B]), SPLIT, 3
    )
    assert found.covered.tolist() == [True, True]
    assert probabilities(found.rows, 0) == pytest.approx({A: 0.75, B: 0.15})
    assert found.rows.tail[0].exp() == pytest.approx(0.1)
    # Behind "a": "ab" and "ac" alone, 0.5 to 0.25.
    assert probabilities(found.rows, 1) == pytest.approx({B: 2 / 3, C: 1 / 3})
    assert found.rows.tail[1] == -math.inf


def test_where_more_was_left_out_than_is_known_there_is_no_row() -> None:
    row = predicted(0.2, 0.1, 0.1, 0.0, tail=0.6)
    found = rows_by_prefix(row, both_steps(), torch.tensor([A, B]), SPLIT, 3)
    assert found.covered.tolist() == [True, False]
    assert found.rows.tail[0].exp() == pytest.approx(0.6)


@pytest.mark.parametrize("depth", [0, 1])
def test_where_the_student_can_spell_no_token_that_was_kept_there_is_no_row(depth: int) -> None:
    # The teacher's "b" ends where the student goes on, and its last token it cannot spell.
    unknown = replace(predicted(0.5 * depth, 0.5), ids=torch.tensor([[2, 3]]))
    path = torch.tensor([[B] * depth + [UNMATCHED] * (DEEPEST - depth)])
    steps = Steps(rows=torch.tensor([0]), depths=torch.tensor([depth]), paths=path)
    found = rows_by_prefix(unknown, steps, torch.tensor([A]), SPLIT, 3)
    assert found.covered.tolist() == [False]


def test_every_token_is_split_into_what_spells_it() -> None:
    split = split_tokens(PLAIN, BYTES, {})
    for spelling, ids in zip(PLAIN.vocabulary.spellings, split.tolist(), strict=True):
        own = [each for each in ids if each != UNMATCHED]
        spelled = b"".join(BYTES.vocabulary.spellings[each] or b"" for each in own)
        assert spelling is None or spelling.startswith(spelled)
        assert spelled == spelling or len(own) in {0, DEEPEST}


SPLITS = {each.vocabulary.digest(): split_tokens(each, BYTES, {}) for each in (PLAIN, LLAMA)}


@pytest.mark.parametrize("teacher", [PLAIN, LLAMA], ids=["plain", "llama"])
@settings(max_examples=20)
@given(text=TEXTS, seed=st.integers(0, 99))
def test_a_prediction_is_what_all_tokens_of_the_teacher_say_together(
    teacher: Reader, text: str, seed: int
) -> None:
    split = SPLITS[teacher.vocabulary.digest()]
    both = pair(placed(BYTES, text), placed(teacher, text))
    steps = follow(both, split)
    size, labels = (
        len(teacher.vocabulary),
        torch.tensor(both.student.supervised, dtype=torch.int64),
    )
    rng = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(len(both.teacher.supervised), size, generator=rng)
    theirs = torch.tensor(both.teacher.supervised, dtype=torch.int64)
    found = rows_by_prefix(
        top_k(logits.clone(), theirs, size), steps, labels, split, len(BYTES.vocabulary)
    )
    probs = logits.softmax(dim=1)
    for place, (row, depth) in enumerate(zip(steps.rows, steps.depths, strict=True)):
        if row < 0:
            continue
        path = both.student.supervised[place - int(depth) : place]
        begins = (split[:, : int(depth)] == torch.tensor(path, dtype=torch.int64)).all(dim=1)
        expected = torch.zeros(len(BYTES.vocabulary) + 1)
        # What the student cannot spell is behind its tokens.
        expected.index_add_(0, split[:, int(depth)] % len(expected), probs[row] * begins)
        expected /= (probs[row] * begins).sum()
        kept = found.rows.log_probs[place].isfinite()
        shown = found.rows.log_probs[place][kept].exp()
        torch.testing.assert_close(shown, expected[found.rows.ids[place][kept]], rtol=1e-3, atol=0)
        total = torch.logaddexp(found.rows.log_probs[place].logsumexp(0), found.rows.tail[place])
        assert float(total) == pytest.approx(0, abs=1e-4)
        assert labels[place] in found.rows.ids[place][kept]


def test_a_teacher_that_kept_nothing_the_student_can_spell_leaves_it_the_text_alone() -> None:
    pairs = {0: pair(placed(WORDS, "the cat sat"), placed(PLAIN, "the cat sat"))}
    teacher = PrefixTeacher(pairs, (WORDS, PLAIN))
    labels = torch.tensor(pairs[0].student.supervised)
    # Words have no line break.
    certain = certain_rows(
        torch.full((len(pairs[0].teacher.supervised),), PLAIN.tokenizer.vocab["Ċ"]),
        4,
        len(PLAIN.vocabulary),
    )
    targets = teacher.targets(0, certain)
    size = len(WORDS.vocabulary)
    logits = torch.randn(len(labels), size, generator=torch.Generator().manual_seed(0))
    settings = DistillationLoss(tail="renormalised", distillation=1.0, cross_entropy=0.0)
    vocabulary = TargetVocabulary(size=size, to_student=torch.arange(size))
    loss = loss_of(settings, [vocabulary])({"labels": labels} | as_tensors(targets))
    losses = row_losses(logits, Head(weight=torch.eye(size)), loss)
    torch.testing.assert_close(losses, functional.cross_entropy(logits, labels, reduction="none"))
