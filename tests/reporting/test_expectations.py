"""Promise: every sentence follows from a number, and is not said without it."""

from __future__ import annotations

import pytest
import torch

from evomerge.reporting.expectations import expect
from evomerge.sensitivity.family import FamilyStatistics
from evomerge.sensitivity.moments import measure_deltas

NAMES = ["red", "green", "blue"]
OPPOSITE = [[1.0, 2.0] * 10, [-3.0, -1.0] * 10]


def family(*layers: list[list[float]]) -> FamilyStatistics:
    """Statistics of models whose layers have these task vectors; the base is all ones."""
    return FamilyStatistics(
        tensors={
            f"model.layers.{n}.mlp.up_proj.weight": measure_deltas(
                torch.ones(len(deltas[0]), dtype=torch.float64),
                torch.tensor(deltas, dtype=torch.float64),
            )
            for n, deltas in enumerate(layers)
        },
        left_out=(),
    )


def sentences(*layers: list[list[float]]) -> list[str]:
    return expect(NAMES[: len(layers[0])], family(*layers))


def test_two_equal_models() -> None:
    assert sentences([[1.0, 2.0], [1.0, 2.0]]) == [
        "green and red are the same model: together they only count twice; leave one out."
    ]


def test_a_source_that_is_the_base() -> None:
    assert sentences([[1.0, 2.0], [0.0, 0.0]]) == [
        "green is the base model: its weight does nothing."
    ]


def test_two_models_that_moved_the_same_way() -> None:
    assert sentences([[1.0, 2.0], [1.0, 2.2]]) == [
        "red and green moved the same way (cosine 1.00): there is little to gain from both."
    ]


@pytest.mark.parametrize(("factor", "is_said"), [(2.9, False), (3.1, True)])
def test_one_that_moved_much_farther(factor: float, is_said: bool) -> None:
    found = [s for s in sentences([[3.0, 4.0], [-4 * factor, 3 * factor]]) if "far as" in s]
    assert len(found) == is_said
    assert all(s.startswith("green moved 3.1 times as far as red") for s in found)


def test_opposition_names_layers_and_share() -> None:
    still, together, apart = [[0.0] * 20] * 2, [[1.0, 2.0] * 10, [2.0, 1.0] * 10], OPPOSITE
    (sentence,) = [s for s in sentences(still, apart, apart, together, apart) if "opposite" in s]
    assert sentence.startswith(
        "red and green pull in opposite directions in layers 1-2 and 4 (up to 100% of what both "
        "change; chance gives 50%)"
    )


def test_a_few_opposed_entries_may_be_chance() -> None:
    few = [row[:12] for row in OPPOSITE]
    assert not any("opposite" in s for s in sentences(few))


def test_what_is_true_of_a_model_is_not_repeated_for_its_copy() -> None:
    found = sentences([OPPOSITE[0], OPPOSITE[1], OPPOSITE[1]])
    assert [s for s in found if "opposite" in s] == [s for s in found if "red and green" in s]
    assert len([s for s in found if "opposite" in s]) == 1


def test_chance_is_no_opposition() -> None:
    assert not any("opposite" in s for s in sentences([[1.0, 1.0] * 10, [1.0, -1.0] * 10]))


def test_layers_that_no_source_changes() -> None:
    still, moved = [[0.0, 0.0]] * 2, [[1.0, 2.0], [2.0, 1.0]]
    assert sentences(still, still, moved) == [
        "red and green leave layers 0-1 as the base has it: genes for that part do nothing."
    ]


def test_layers_that_one_source_leaves_alone() -> None:
    found = sentences([[1.0, 1.0], [0.0, 0.0]], [[1.0, 2.0], [2.0, 1.0]])
    assert found == ["green leaves layer 0 as the base has it: genes for that part do nothing."]


def test_unrelated_directions() -> None:
    (sentence,) = sentences([[1.0, 0.0, 0.05], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    assert sentence == (
        "The models moved in unrelated directions (cosines 0.00 to 0.05): sums of task vectors "
        "interfere little."
    )


def test_parts_outside_the_layers_have_their_names() -> None:
    found = family([[1.0, 2.0], [2.0, 1.0]], [[0.0, 0.0]] * 2)
    tensors = dict(found.tensors)
    tensors["model.norm.weight"] = tensors["model.layers.1.mlp.up_proj.weight"]
    assert expect(NAMES[:2], FamilyStatistics(tensors=tensors, left_out=())) == [
        "red and green leave layer 1 and norm as the base has it: genes for that part do nothing."
    ]


def test_one_source_alone_and_nothing_to_say() -> None:
    assert sentences([[1.0, 2.0]]) == []
