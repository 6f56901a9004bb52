"""Parameters are read off signatures, and say what is wrong with a value."""

from __future__ import annotations

import math
from collections.abc import Sequence  # noqa: TC003 (annotations are read when the test runs)
from typing import Annotated, Literal

import pytest

from evomerge.operators.parameters import Interval, Parameter, Search, read_parameters
from evomerge.operators.registry import find_operator


def _example(
    deltas: object,
    *,
    weight: Annotated[Sequence[float], Interval(), Search(0.0, 1.0)],
    density: Annotated[Sequence[float], Interval(0.0, 1.0), Search(0.1, 1.0)] = (0.7,),
    scale: Annotated[float, Interval(0.0, 2.0)] = 1.0,
    normalize: bool = True,
    rescale: Literal["norm", "none"] = "norm",
    draws: object = None,
) -> None:
    raise NotImplementedError


PARAMETERS = read_parameters(_example)


def test_only_keyword_arguments_are_parameters() -> None:
    assert list(PARAMETERS) == ["weight", "density", "scale", "normalize", "rescale"]


def test_a_sequence_has_a_value_per_source() -> None:
    assert [name for name, each in PARAMETERS.items() if each.per_source] == ["weight", "density"]


def test_an_argument_without_a_default_must_be_given() -> None:
    assert [name for name, each in PARAMETERS.items() if each.default is None] == ["weight"]


def test_the_default_of_every_source_is_one_number() -> None:
    assert PARAMETERS["density"].default == 0.7


def test_a_number_has_an_interval_and_flags_and_choices_have_none() -> None:
    with_interval = [name for name, each in PARAMETERS.items() if each.interval is not None]
    assert with_interval == ["weight", "density", "scale"]


def test_only_what_is_given_a_search_range_is_searched() -> None:
    ranges = {name: each.search for name, each in PARAMETERS.items() if each.search is not None}
    assert ranges == {"weight": Search(0.0, 1.0), "density": Search(0.1, 1.0)}


def test_a_literal_is_a_choice_of_words() -> None:
    assert PARAMETERS["rescale"].choices == ("norm", "none")


@pytest.mark.parametrize(
    ("operator", "defaults"),
    [
        ("linear", {"weight": 1.0, "normalize": True}),
        ("task_arithmetic", {"weight": None, "scale": 1.0, "normalize": False}),
        ("ties", {"weight": None, "density": 1.0, "scale": 1.0, "normalize": True}),
        ("slerp", {"t": None}),
        *(
            (
                name,
                {
                    "weight": None,
                    "density": 1.0,
                    "scale": 1.0,
                    "normalize": False,
                    "rescale": "density",
                },
            )
            for name in ("dare_linear", "dare_ties")
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_defaults_of_the_operators_are_pinned(
    operator: str, defaults: dict[str, object]
) -> None:
    parameters = find_operator(operator).parameters
    assert {name: each.default for name, each in parameters.items()} == defaults


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("weight", -3.0),
        ("weight", 2),
        ("density", 0.0),
        ("density", 1.0),
        ("normalize", False),
        ("rescale", "none"),
    ],
)
def test_an_allowed_value_has_no_problem(name: str, value: float | bool | str) -> None:
    assert PARAMETERS[name].problem_with(value) is None


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("density", 1.5, "1.5 is outside [0, 1]"),
        ("density", -0.1, "-0.1 is outside [0, 1]"),
        ("weight", math.inf, "inf is outside [-inf, inf]"),
        ("weight", math.nan, "nan is outside [-inf, inf]"),
        ("weight", "much", "expected a number in [-inf, inf], got 'much'"),
        ("weight", True, "expected a number in [-inf, inf], got True"),
        ("normalize", 1.0, "expected true or false, got 1.0"),
        ("normalize", "yes", "expected true or false, got 'yes'"),
        ("rescale", "l2", "'l2' is not one of norm, none"),
        ("rescale", 1.0, "1.0 is not one of norm, none"),
    ],
)
def test_a_wrong_value_is_answered_with_what_was_found_and_what_is_allowed(
    name: str, value: float | bool | str, problem: str
) -> None:
    assert PARAMETERS[name].problem_with(value) == problem


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_an_interval_holds_finite_numbers_only(value: float) -> None:
    assert value not in Interval()


def test_a_parameter_is_frozen() -> None:
    with pytest.raises(AttributeError, match="cannot assign to field"):
        Parameter(name="weight").name = "density"  # type: ignore[misc]
