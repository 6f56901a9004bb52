"""Promise: what alignment leaves uncovered is said, and too little is refused."""

from __future__ import annotations

import pytest
import torch

from evomerge.errors import CompatibilityError
from evomerge.refinement.alignment.coverage import Coverage, cover, matched
from evomerge.refinement.alignment.pairs import pair
from evomerge.refinement.alignment.placed import Placed

MAP = torch.tensor([3, -1, 0, 1])


def placed(*ends: int) -> Placed:
    rows = tuple(range(len(ends)))
    return Placed(supervised=rows, ends=ends, rows=rows)


def one() -> Coverage:
    return cover(pair(placed(2, 5, 9), placed(2, 3, 5, 9)), fallbacks=1)


def test_bytes_and_positions_are_counted() -> None:
    assert one() == Coverage(bytes_alone=6, bytes=9, fallbacks=1, positions=3)
    assert one().share == pytest.approx(6 / 9)
    assert one().fallback_share == pytest.approx(1 / 3)


def test_texts_add_up() -> None:
    total = one() + one() + cover(pair(placed(), placed()), fallbacks=0)
    assert total == Coverage(bytes_alone=12, bytes=18, fallbacks=2, positions=6)


def test_one_sentence_tells_all_three_shares() -> None:
    assert one().sentence(MAP) == (
        "66.7% of the bytes are one token in both tokenizers, 75.0% of the teacher's vocabulary "
        "is in the student's, and 33.3% of the positions learn their own token alone"
    )


def test_nothing_is_covered_in_full() -> None:
    assert (Coverage().share, Coverage().fallback_share, matched(MAP[:0])) == (1.0, 0.0, 0.0)
    Coverage().check(1.0, "teacher")


def test_a_text_of_which_no_byte_has_a_place_is_not_covered() -> None:
    """As where a template changes what was said."""
    changed = Coverage(positions=3, fallbacks=3)
    assert changed.share == 0.0
    with pytest.raises(CompatibilityError):
        changed.check(0.1, "teacher")


def test_too_little_is_refused() -> None:
    one().check(0.66, "models/teacher")
    with pytest.raises(CompatibilityError, match=r"models/teacher: only 66\.7% .*: 70\.0%"):
        one().check(0.7, "models/teacher")
