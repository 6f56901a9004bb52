"""What an operator's signature may declare about its parameters.

An operator says everything about its parameters in its signature: a `Sequence[float]` has one
value per source, a `float`, `bool` or `Literal` has one value per tensor. `Interval` and `Search`
inside `Annotated` give the allowed range and the range that a search explores by default.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

ParameterValue = float | bool | str

INPUTS = {
    "base": "the base model's tensor, shape `(*S,)`",
    "draws": "random numbers of each source, M of `randomness.Draws`",
    "measured": "what the operator's measure found",
    "depth": "where the tensor's layer sits: 0 first, 1 last, NaN outside the layers; shape `()`",
    "component": "number of the tensor's component among those of a model, shape `()`, int64",
    "row_length": "entries of one of the tensor's rows, 1 in vectors; shape `()`, int64",
    "offset": "entries that come before in the flattened model, shape `()`, int64",
    "ranks": "ranks of each source's magnitudes within their rows, shape `(M, *S)`, float16",
    "fisher": "diagonal Fisher information of each source, shape `(M, *S)`; ones if unknown",
    "fisher_norm": "Euclidean norm of each source's whole Fisher diagonal, shape `(M,)`",
    "sensitivity": "how much each source's loss depends on each of its layers, that of the tensor "
    "first, shape `(M, L)`",
    "importance": "mean Fisher information of the base in each layer times the squared norm of "
    "each source's task vector there, that of the tensor first, shape `(M, L)`",
    "distance": "mean distance of the logits of source i from those of source j on texts of j, "
    "shape `(M, M)`",
    "gram": "inner products of each source's input columns, shape `(M, in, in)`; None if the "
    "tensor is not a linear layer's weight",
    "activation": "mean magnitude of the base model's input columns, shape `(in,)`; None if the "
    "tensor is not a linear layer's weight",
}
"""Keyword arguments of an operator that are not parameters of a recipe."""

PER_ENTRY = {"fisher", "ranks"}
"""Inputs with a value per source and entry."""

OF_SOURCES = {"fisher", "fisher_norm", "gram", "sensitivity", "importance", "distance"}
"""Inputs that are measured of the sources, by running models on texts."""

OF_BASE = {"activation", "importance"}
"""Inputs that are measured of the base model, by running it on texts."""


@dataclass(frozen=True, slots=True)
class Interval:
    """The values a number may take: `low <= value <= high`, and always finite."""

    low: float = -math.inf
    high: float = math.inf

    def __contains__(self, value: float) -> bool:
        return math.isfinite(value) and self.low <= value <= self.high

    def __str__(self) -> str:
        return f"[{self.low:g}, {self.high:g}]"


@dataclass(frozen=True, slots=True)
class Search:
    """The range of a number that a search explores unless the recipe says otherwise.

    With `log`, every order of magnitude gets as much of the search as any other.
    """

    low: float
    high: float
    log: bool = False

    def __str__(self) -> str:
        return f"[{self.low:g}, {self.high:g}]" + (" log" if self.log else "")


Weights = Annotated[Sequence[float], Interval(), Search(0.0, 1.0)]
Densities = Annotated[Sequence[float], Interval(0.0, 1.0), Search(0.1, 1.0)]
Fraction = Annotated[float, Interval(0.0, 1.0), Search(0.0, 1.0)]
Scale = Annotated[float, Interval(), Search(0.2, 1.5)]
Scales = Annotated[Sequence[float], Interval(), Search(0.2, 1.5)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Parameter:
    """One hyperparameter of an operator, read off its signature.

    Attributes:
        name: The keyword of the operator's function.
        per_source: Whether each source has a value of its own.
        interval: Allowed range of a number; None for flags and choices.
        search: Default range of a search; None when a search does not vary it.
        choices: Allowed words of a choice; empty for numbers and flags.
        default: Value when the recipe gives none; None when it must be given.
    """

    name: str
    per_source: bool = False
    interval: Interval | None = None
    search: Search | None = None
    choices: tuple[str, ...] = ()
    default: ParameterValue | None = None

    def problem_with(self, value: ParameterValue) -> str | None:
        """Say what is wrong with a value, found and allowed; None when nothing is."""
        if self.choices:
            allowed = ", ".join(self.choices)
            return None if value in self.choices else f"{value!r} is not one of {allowed}"
        if self.interval is None:
            return None if isinstance(value, bool) else f"expected true or false, got {value!r}"
        if isinstance(value, (bool, str)):
            return f"expected a number in {self.interval}, got {value!r}"
        return None if value in self.interval else f"{value:g} is outside {self.interval}"


def read_parameters(function: Callable[..., Any]) -> Mapping[str, Parameter]:
    """Read the hyperparameters off an operator's keyword-only arguments.

    The `INPUTS` are the engine's business and are left out.
    """
    hints = get_type_hints(function, include_extras=True)
    return {
        name: _read_parameter(name, hints[name], argument.default)
        for name, argument in inspect.signature(function).parameters.items()
        if argument.kind is argument.KEYWORD_ONLY and name not in INPUTS
    }


def _read_parameter(name: str, hint: Any, default: Any) -> Parameter:
    notes = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    kind = get_args(hint)[0] if notes else hint
    # A per-source default is written as one number that every source gets.
    value = None if default is inspect.Parameter.empty else default
    return Parameter(
        name=name,
        per_source=get_origin(kind) is Sequence,
        interval=next((note for note in notes if isinstance(note, Interval)), None),
        search=next((note for note in notes if isinstance(note, Search)), None),
        choices=get_args(kind) if get_origin(kind) is Literal else (),
        default=value[0] if isinstance(value, tuple) else value,
    )
