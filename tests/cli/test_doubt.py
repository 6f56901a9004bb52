"""A refinement whose best step few texts have chosen is said to be in doubt."""

from __future__ import annotations

from evomerge.cli.console import doubt_in_words


def test_enough_texts_leave_no_doubt() -> None:
    few = {"watched": 9, "validation_losses": [1.0]}
    assert doubt_in_words(few)
    for course in (few | {"watched": 10}, few | {"validation_losses": []}, {}):
        assert not doubt_in_words(course)
