"""Every operator has a card: numbers computed by hand, and which properties it has.

A card is `cards/NAME.yaml`:

    examples:      # at least one; `arguments` are parameters and inputs of the operator
      - says: what it shows
        stack: [[4, -1], [2, 3]]
        arguments: {weight: [1, 1]}
        expected: [3, 1]
    ordinary: {}   # what the properties are tried with where the middle of a range will not do
    single: {}     # what gives one source back unchanged
    holds: [...]   # properties it has
    fails: {}      # properties it does not have, and why; each is seen to fail
    void: {}       # properties that make no sense for it, and why
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import operating
import pytest
import torch
import yaml

from evomerge.operators.parameters import OF_SOURCES
from evomerge.operators.registry import operators

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

CARDS = {
    file.stem: yaml.safe_load(file.read_text()) for file in Path(__file__).parent.glob("cards/*")
}


class Trial:
    """An operator, a stack to try it on and the arguments of its card."""

    def __init__(self, name: str, seed: int) -> None:
        self.name, self.card, self.operator = name, CARDS[name], operators()[name]
        self.sources = self.operator.sources[1] or max(3, self.operator.sources[0])
        self.stack = operating.draw((self.sources, 12, 10), seed, torch.float64)
        self.arguments: dict[str, Any] = dict(self.card.get("ordinary", {}))
        for key, parameter in self.operator.parameters.items():
            if parameter.per_source and key not in self.arguments:
                middle = operating.ordinary(parameter)
                assert isinstance(middle, float)
                # Not all alike, or an exchange of sources would be seen by none.
                self.arguments[key] = [middle * (0.7 + 0.3 * row) for row in range(self.sources)]

    def __call__(self, stack: Tensor, **changes: Any) -> Tensor:
        arguments = {**self.arguments, **changes}
        for key in self.operator.inputs & {"base", *OF_SOURCES}:
            arguments.setdefault(key, self.input(key))
        return operating.merge(self.name, stack, **arguments)

    def input(self, key: str) -> Tensor | None:
        """What an input is unless a property changes it."""
        if key in OF_SOURCES:
            return operating.source_input(key, tuple(self.stack.shape), torch.float64)
        return operating.draw(tuple(self.stack.shape[1:]), 97, torch.float64)

    def per_source(self, rows: list[int]) -> dict[str, Any]:
        """Arguments and inputs of other sources, by the rows they come from."""
        names = [k for k, parameter in self.operator.parameters.items() if parameter.per_source]
        turned = {
            key: [value[row] for row in rows]
            for key in names
            if isinstance(value := self.arguments[key], list)
        }
        for key in self.operator.inputs & OF_SOURCES:
            found = self.input(key)
            if found is not None:
                turned[key] = found[rows][:, rows] if key == "distance" else found[rows]
        return turned


def identity(trial: Trial) -> bool:
    """Sources that are all the base merge to the base."""
    if trial.operator.space == "delta":
        return not trial(torch.zeros_like(trial.stack)).any()
    base = trial.stack[0]
    changes = {"base": base} if "base" in trial.operator.inputs else {}
    return close(trial(base.repeat(trial.sources, 1, 1), **changes), base)


def single(trial: Trial) -> bool:
    """One source alone, in full, is that source."""
    arguments = trial.per_source([0]) | trial.card.get("single", {})
    return close(trial(trial.stack[:1], **arguments), trial.stack[0])


def permutation(trial: Trial) -> bool:
    """The order of the sources does not matter."""
    rows = [*range(1, trial.sources), 0]
    return close(trial(trial.stack[rows], **trial.per_source(rows)), trial(trial.stack))


def sign(trial: Trial) -> bool:
    """Turning every sign turns the result."""
    changes = {"base": -trial.input("base")} if "base" in trial.operator.inputs else {}
    return close(trial(-trial.stack, **changes), -trial(trial.stack))


def scale(trial: Trial) -> bool:
    """Scaling what is merged scales the result."""
    changes = {"base": trial.input("base") * 4} if "base" in trial.operator.inputs else {}
    return close(trial(trial.stack * 4, **changes), trial(trial.stack) * 4)


def clone(trial: Trial) -> bool:
    """Every source twice is the same as every source once."""
    rows = [*range(trial.sources)] * 2
    return close(trial(trial.stack[rows], **trial.per_source(rows)), trial(trial.stack))


def hull(trial: Trial) -> bool:
    """No entry leaves the range of the sources' entries, and of the base's."""
    merged = trial(trial.stack)
    points = [*trial.stack]
    points += [torch.zeros_like(merged)] if trial.operator.space == "delta" else []
    points += [trial.input("base")] if "base" in trial.operator.inputs else []
    corners = torch.stack(points)
    slack = 1e-9
    inside = (merged <= corners.amax(0) + slack) & (merged >= corners.amin(0) - slack)
    return bool(inside.all())


def close(first: Tensor, second: Tensor) -> bool:
    """Equal up to rounding."""
    return torch.allclose(first, second, rtol=1e-6, atol=1e-7)


PROPERTIES: dict[str, Callable[[Trial], bool]] = {
    each.__name__: each for each in (identity, single, permutation, sign, scale, clone, hull)
}


def test_every_operator_has_a_card_and_every_card_an_operator() -> None:
    assert CARDS.keys() == operators().keys()


@pytest.mark.parametrize("name", operators())
def test_a_card_speaks_of_every_property_once(name: str) -> None:
    card = CARDS[name]
    named = [*card["holds"], *card.get("fails", {}), *card.get("void", {})]
    assert sorted(named) == sorted(PROPERTIES)
    assert card["examples"]


@pytest.mark.parametrize("name", operators())
def test_every_number_of_an_operator_has_bounds_and_a_range_to_search(name: str) -> None:
    for parameter in operators()[name].parameters.values():
        if parameter.interval is not None:
            assert parameter.search is not None, parameter.name
            assert parameter.search.low in parameter.interval, parameter.name
            assert parameter.search.high in parameter.interval, parameter.name


@pytest.mark.parametrize(
    ("name", "index"), [(name, i) for name in CARDS for i in range(len(CARDS[name]["examples"]))]
)
def test_the_numbers_computed_by_hand_come_out(name: str, index: int) -> None:
    example = CARDS[name]["examples"][index]
    stack = torch.tensor(example["stack"], dtype=torch.float64)
    defaults = {
        key: parameter.default
        for key, parameter in operators()[name].parameters.items()
        if parameter.default is not None
    }
    merged = operating.merge(name, stack, **defaults | example.get("arguments", {}))
    expected = torch.tensor(example["expected"], dtype=torch.float64)
    tolerance = example.get("tolerance", 1e-6)
    assert torch.allclose(merged, expected, rtol=0, atol=tolerance), (example["says"], merged)


def _claims(key: str) -> list[tuple[str, str]]:
    return [
        (name, one) for name in CARDS for one in CARDS[name].get(key) or () if name in operators()
    ]


@pytest.mark.parametrize(("name", "claim"), _claims("holds"))
@pytest.mark.parametrize("seed", [1, 2])
def test_a_property_that_is_claimed_holds(name: str, claim: str, seed: int) -> None:
    assert PROPERTIES[claim](Trial(name, seed))


@pytest.mark.parametrize(("name", "claim"), _claims("fails"))
def test_a_property_that_is_denied_fails(name: str, claim: str) -> None:
    assert not all(PROPERTIES[claim](Trial(name, seed)) for seed in range(3))
