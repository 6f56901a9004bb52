"""The table of merge operators, filled from the method files of this package."""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import evomerge.operators
from evomerge.errors import RecipeError, nearest
from evomerge.operators.parameters import INPUTS, Parameter, read_parameters

if TYPE_CHECKING:
    from torch import Tensor

    from evomerge.operators.chunks import Chunks
    from evomerge.operators.measure import Measure

Function = TypeVar("Function", bound=Callable[..., Any])
Space = Literal["weight", "delta"]
Derive = Callable[["Chunks"], "Tensor"]

_REGISTERED: dict[str, Operator] = {}


@dataclass(frozen=True, kw_only=True, slots=True)
class Operator:
    """A merge method and what the engine must know to call it.

    Attributes:
        name: Its name in recipes.
        function: The pure function on a stack of tensors of shape `(M, *S)`.
        space: What it takes: the sources' weights or their task vectors.
        elementwise: Each output entry depends on the same entry of the inputs alone, so a tensor
            may be merged block by block and the operator be compiled into one loop. Its numbers
            may then be tensors: one of shape `(M,)` per source, `()` for all; it must not branch
            on them, and only go through the stack row by row.
        inputs: What it takes besides the stack and its parameters, see `parameters.INPUTS`.
        measure: Its first pass; None if it needs none.
        derived: Inputs that follow from each source alone, by name, and what makes them: a
            function from the `Chunks` of a source's tensor to a tensor of its shape. They are
            worth keeping.
        check: Takes a tensor's parameters and raises MergeError if they do not go together.
        fusible: It gives the same bits when it is compiled.
        sources: Least and greatest number of sources; None for no upper limit.
        parameters: Its hyperparameters by name.
        summary: First line of its docstring.
    """

    name: str
    function: Callable[..., Tensor]
    space: Space
    elementwise: bool
    fusible: bool
    inputs: frozenset[str]
    measure: Measure | None
    derived: Mapping[str, Derive]
    check: Callable[..., None] | None
    sources: tuple[int, int | None]
    parameters: Mapping[str, Parameter]
    summary: str

    @property
    def citation(self) -> str:
        """Where the method comes from: what its module says of it."""
        return inspect.getdoc(sys.modules[self.function.__module__]) or ""

    @property
    def stochastic(self) -> bool:
        """Whether it draws random numbers."""
        return "draws" in self.takes

    @property
    def takes(self) -> frozenset[str]:
        """The inputs that it or its measure takes."""
        read = self.measure.reads if self.measure else ()
        return self.inputs | (INPUTS.keys() & {*read})


def operator(
    *,
    space: Space,
    elementwise: bool = False,
    fusible: bool = True,
    sources: tuple[int, int | None] = (1, None),
    measure: Measure | None = None,
    derived: Mapping[str, Derive] | None = None,
    check: Callable[..., None] | None = None,
) -> Callable[[Function], Function]:
    """Register a merge function under its own name and return it unchanged."""

    def register(function: Function) -> Function:
        name = function.__name__
        if name in _REGISTERED:
            raise AssertionError(f"two operators are called {name}")
        _REGISTERED[name] = Operator(
            name=name,
            function=function,
            space=space,
            elementwise=elementwise,
            fusible=fusible,
            inputs=frozenset(INPUTS.keys() & function.__annotations__.keys()),
            measure=measure,
            derived=derived or {},
            check=check,
            sources=sources,
            parameters=read_parameters(function),
            summary=(function.__doc__ or "").partition("\n")[0],
        )
        return function

    return register


@functools.cache
def operators() -> Mapping[str, Operator]:
    """All operators by name, in alphabetical order."""
    for module in pkgutil.iter_modules(evomerge.operators.__path__):
        importlib.import_module(f"evomerge.operators.{module.name}")
    return dict(sorted(_REGISTERED.items()))


def find_operator(name: str) -> Operator:
    """Look up an operator.

    Raises:
        RecipeError: No operator has this name; the message offers the nearest one.
    """
    known = operators()
    if name in known:
        return known[name]
    near = nearest(name, known)
    hint = f" Did you mean {near!r}?" if near else ""
    raise RecipeError(f"unknown operator {name!r}.{hint} `evomerge operators` lists them.")
