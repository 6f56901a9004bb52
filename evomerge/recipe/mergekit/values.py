"""The value of every parameter of a recipe for every tensor, in our words and in mergekit's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evomerge.errors import RecipeError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from evomerge.operators.registry import Operator
    from evomerge.recipe.merge import MergeRecipe, Value
    from evomerge.recipe.mergekit.filters import Table
    from evomerge.recipe.mergekit.names import Theirs
    from evomerge.recipe.origins import Origin


class Values:
    """Looks up parameters.

    Args:
        recipe: The recipe.
        operator: Its operator.
        origins: Where the result's tensors come from.
    """

    def __init__(self, recipe: MergeRecipe, operator: Operator, origins: Sequence[Origin]) -> None:
        self._recipe, self._operator = recipe, operator
        self.origins = {origin.name: origin for origin in origins}
        self.loose = [origin.name for origin in origins if origin.place.layer is None]
        self.parts: dict[int, dict[str, str]] = {}
        for name, origin in self.origins.items():
            layer = origin.place.layer
            if layer is not None:
                part = f".{name}".split(f".{layer}.", 1)[1]
                self.parts.setdefault(layer, {})[name] = part

    def ours(self, parameter: str, source: int | None, names: Iterable[str] = ()) -> Table:
        """A parameter's value for some tensors, or for all that a source takes part in.

        Args:
            parameter: Our word for it.
            source: Index of a source; None for what all sources share.
            names: The tensors.
        """
        return {
            name: self._value(parameter, source, name)
            for name in names or self.origins
            if source is None or source in dict(self.origins[name].sources)
        }

    def theirs(self, parameter: Theirs, source: int | None, names: Iterable[str]) -> Table:
        """The same in mergekit's words."""
        ours = str(parameter.ours)
        shared = not self._operator.parameters[ours].per_source
        found = self.ours(ours, None if shared else source, names)
        if parameter.words is None:
            return found
        # What mergekit does not know is as near to its way as it gets.
        words = {word: flag for flag, word in parameter.words.items()}
        return {name: words.get(str(value), True) for name, value in found.items()}

    def _value(self, parameter: str, source: int | None, name: str) -> Value:
        origin = self.origins[name]
        of = None if source is None else self._recipe.sources[source]
        own = name if source is None else dict(origin.sources)[source]
        found = self._recipe.setting(parameter, own, origin.place, of)
        value: Value | None = (
            self._operator.parameters[parameter].default if found is None else found
        )
        if value is None:
            label = f" of source {of.label}" if of else ""
            raise RecipeError(
                f"parameters.{parameter}{label}: no rule gives a value for tensor {name}; "
                "end the list with a rule that has only a value"
            )
        return value
