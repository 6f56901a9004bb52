"""From mergekit's parameters to the parameters of our recipes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evomerge.errors import RecipeError
from evomerge.layout import Component
from evomerge.operators.registry import find_operator
from evomerge.recipe.mergekit.names import operator_of
from evomerge.recipe.mergekit.parameters import (
    closed,
    first_said,
    has_gradient,
    in_layers,
    named,
    outside,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from evomerge.recipe.mergekit.entries import Entries
    from evomerge.recipe.mergekit.inputs import Inputs
    from evomerge.recipe.mergekit.names import Method, Theirs
    from evomerge.recipe.mergekit.parameters import Conditions, RawRule, Scope
    from evomerge.recipe.mergekit.parts import Part

    ScopesOf = Callable[[Part], Sequence[Scope]]


class Settings:
    """The parameters of a recipe.

    Args:
        entries: The document.
        method: Its merge method.
        parts: Its slices.
        scopes: The parameters that all slices have, most specific first.
        inputs: Its sources.
    """

    def __init__(
        self,
        entries: Entries,
        method: Method,
        parts: Sequence[Part],
        scopes: Sequence[Scope],
        inputs: Inputs,
    ) -> None:
        self._entries, self._method, self._parts = entries, method, parts
        self._scopes, self._inputs = scopes, inputs
        choices = {name: self._choice(name, default) for name, default in method.choices.items()}
        self.operator, self._words = operator_of(method.name, choices)
        self._ours = find_operator(self.operator).parameters
        for parameter in method.parameters:
            if parameter.ours is None:
                self._refuse_other_than(parameter)

    def of_source(self, source: int) -> dict[str, Any]:
        """Parameters of a source."""
        parts = self._inputs.parts_of(source)
        model = self._inputs.named()[source][0]

        def scopes(part: Part) -> Sequence[Scope]:
            return (part.own.get(model, {}), part.parameters, *self._scopes)

        settings = {
            parameter.ours: self._setting(parameter, scopes, parts, f" for {model}")
            for parameter in self._method.parameters
            if parameter.ours is not None and self._ours[parameter.ours].per_source
        }
        return {name: setting for name, setting in settings.items() if setting is not None}

    def shared(self, has_base: bool) -> dict[str, Any]:  # noqa: FBT001 (the only argument)
        """Parameters that are one value for all sources."""

        def scopes(part: Part) -> Sequence[Scope]:
            return (part.parameters, *self._scopes)

        settings = {
            parameter.ours: self._setting(parameter, scopes, self._parts, "")
            for parameter in self._method.parameters
            if parameter.ours is not None and not self._ours[parameter.ours].per_source
        }
        found = {name: setting for name, setting in settings.items() if setting is not None}
        if self._method.base == "maybe" and not has_base:
            found["around"] = "origin"
        return found | self._words

    def _setting(self, parameter: Theirs, scopes: ScopesOf, parts: Sequence[Part], of: str) -> Any:
        """All that is said about a parameter: a value, rules, or None for nothing."""
        said = [first_said(parameter.name, scopes(part)) for part in parts]
        default: Any = parameter.default
        if default is not None and parameter.words is not None:
            default = parameter.words[default]
        if not any(said):
            if default is None:
                raise RecipeError(
                    f"{self._entries.document.name}: {parameter.name}: is missing{of}"
                )
            return None if default == self._ours[str(parameter.ours)].default else default
        if default is None:
            self._refuse_gaps(parameter.name, said, of)
        ends = [closed(conditions, default) for conditions in said]
        if all(conditions == ends[0] for conditions in ends) and not has_gradient(ends[0]):
            return _as_setting([named(text) | {"value": value} for text, value in ends[0]])
        return _as_setting(self._rules(ends, parts))

    def _refuse_gaps(self, name: str, said: Sequence[Conditions], of: str) -> None:
        # mergekit does not merge a tensor without a value; here a default or another slice's
        # value might step in.
        if len(said) == 1 and self._method.base != "any":
            return
        if any(not conditions or conditions[-1][0] is not None for conditions in said):
            raise RecipeError(
                f"{self._entries.document.name}: {name}: may be missing for some tensors{of}; "
                "end every list of filters with an entry without a filter"
            )

    def _rules(self, said: Sequence[Conditions], parts: Sequence[Part]) -> list[RawRule]:
        rules: list[RawRule] = []
        for part, conditions in zip(parts, said, strict=True):
            for text, value in conditions:
                rules += [named(text) | rule for rule in in_layers(value, part.start, part.stop)]
        first, last = (
            [named(text) | {"value": outside(value)} for text, value in conditions]
            for conditions in (said[0], said[-1])
        )
        if first != last:
            rules += [rule | {"component": Component.EMBEDDING.value} for rule in first]
        return rules + last

    def _choice(self, name: str, default: bool) -> bool:  # noqa: FBT001 (a choice of the method)
        said = [
            closed(first_said(name, (part.parameters, *self._scopes)), default)
            for part in self._parts
        ]
        found = {value for conditions in said for _, value in conditions if value in (True, False)}
        if len(found) != 1 or any(has_gradient(conditions) for conditions in said):
            raise RecipeError(
                f"{self._entries.document.name}: {name}: is read as one value for the whole merge"
            )
        return bool(found.pop())

    def _refuse_other_than(self, parameter: Theirs) -> None:
        for part in self._parts:
            for _, value in first_said(parameter.name, (part.parameters, *self._scopes)):
                if set(value if isinstance(value, list) else [value]) != {parameter.default}:
                    raise RecipeError(
                        f"{self._entries.document.name}: {parameter.name}: {self._method.name} is "
                        f"read with its default only, {parameter.default!r}; found {value!r}"
                    )


def _as_setting(rules: list[RawRule]) -> Any:
    return rules[0]["value"] if rules[0].keys() == {"value"} else rules
