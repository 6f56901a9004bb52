"""Promise: what is measured before a search never contains what judges its winner."""

from __future__ import annotations

import pytest

from evomerge.errors import RecipeError
from evomerge.run.preparation.leakage import refuse_items
from evomerge.sensitivity.calibration import Prompted

WHERE = ("calibration.texts", "held-out")
QUESTION = "Which is the largest planet of our sun?"


@pytest.mark.parametrize(
    "text",
    [
        QUESTION,
        f"Question:\n{QUESTION}  Answer: Jupiter",
        "Which is the   largest\nplanet of our sun?",
        Prompted(prompt=QUESTION, completion=" Jupiter"),
    ],
)
def test_a_held_out_item_among_the_texts_is_refused_by_file_and_number(
    text: str | Prompted,
) -> None:
    with pytest.raises(RecipeError, match=r"calibration\.texts: t\.txt contains 1 held-out item"):
        refuse_items(
            [QUESTION, "Another one of some length."],
            {"t.txt": ["Else.", text]},
            "calibration.texts",
            "held-out",
        )


def test_other_texts_are_welcome() -> None:
    refuse_items(
        [QUESTION],
        {"t.txt": ["Which is the largest planet?", "Else."]},
        "calibration.texts",
        "held-out",
    )


def test_short_items_count_as_whole_texts_only() -> None:
    refuse_items(
        ["2 + 2 ="], {"t.txt": ["As we know, 2 + 2 = 4."]}, "calibration.texts", "held-out"
    )
    with pytest.raises(RecipeError, match="contains 1 held-out item"):
        refuse_items(["2 + 2 ="], {"t.txt": ["2 + 2 ="]}, *WHERE)
