"""Promise: a prediction over the teacher's tokens is split into one over the student's."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from readers import BYTES, LLAMA, PLAIN, TEXTS, placed

from evomerge.refinement.alignment.prefixes import (
    DEEPEST,
    Steps,
    follow,
    rows_by_prefix,
    split_tokens,
)
from evomerge.refinement.alignment.texts import Reader, pair
from evomerge.refinement.alignment.vocabulary_map import UNMATCHED
from evomerge.refinement.predictions.kept import top_k
from evomerge.refinement.predictions.top_k import TopK

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


def test_every_token_is_split_into_what_spells_it() -> None:
    split = split_tokens(PLAIN.vocabulary, BYTES)
    for spelling, ids in zip(PLAIN.vocabulary.spellings, split.tolist(), strict=True):
        own = [each for each in ids if each != UNMATCHED]
        spelled = b"".join(BYTES.vocabulary.spellings[each] or b"" for each in own)
        assert spelling is None or spelling.startswith(spelled)
        assert spelled == spelling or len(own) in {0, DEEPEST}


SPLITS = {
    each.vocabulary.digest(): split_tokens(each.vocabulary, BYTES) for each in (PLAIN, LLAMA)
}


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
