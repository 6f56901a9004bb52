"""The registry finds operators by name and reads everything about them off their signatures."""

from __future__ import annotations

import subprocess
import sys

import pytest

from evomerge.errors import RecipeError
from evomerge.operators.registry import find_operator, operator, operators


def test_the_operators_are_sorted_and_known_by_their_function_names() -> None:
    names = list(operators())
    assert names == sorted(names)
    assert names == [each.function.__name__ for each in operators().values()]


def test_the_methods_promised_so_far_are_there() -> None:
    promised = {"dare_linear", "dare_ties", "linear", "slerp", "task_arithmetic", "ties"}
    assert promised <= set(operators())


def test_an_operator_is_found_by_its_name() -> None:
    assert find_operator("ties").name == "ties"


def test_an_unknown_operator_is_answered_with_the_nearest_one() -> None:
    with pytest.raises(RecipeError, match=r"unknown operator 'tis'\. Did you mean 'ties'\? "):
        find_operator("tis")


def test_a_name_near_to_none_is_answered_with_where_to_find_all() -> None:
    with pytest.raises(RecipeError, match=r"unknown operator 'xyz'\. `evomerge operators` lists"):
        find_operator("xyz")


def test_a_second_operator_of_the_same_name_is_a_programming_error() -> None:
    def ties() -> None:
        """Clash with the registered one."""

    with pytest.raises(AssertionError, match="two operators are called ties"):
        operator(space="delta")(ties)


def test_registering_returns_the_function_itself() -> None:
    from evomerge.operators.ties import ties

    assert operators()["ties"].function is ties


@pytest.mark.parametrize("name", ["dare_linear", "dare_ties"])
def test_an_operator_that_takes_draws_is_stochastic(name: str) -> None:
    assert find_operator(name).stochastic


@pytest.mark.parametrize("name", ["linear", "slerp", "task_arithmetic", "ties"])
def test_an_operator_that_takes_no_draws_is_not_stochastic(name: str) -> None:
    assert not find_operator(name).stochastic


def test_the_draws_are_no_parameter_of_a_recipe() -> None:
    assert "draws" not in find_operator("dare_ties").parameters


def test_importing_the_registry_alone_does_not_import_torch() -> None:
    code = "import sys, evomerge.operators.registry; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
