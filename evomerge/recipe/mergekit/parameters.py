"""mergekit's parameters: values, gradients over the layers, and text in tensors' names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from evomerge.recipe.mergekit.entries import Entries
    from evomerge.recipe.mergekit.names import Method, Theirs
    from evomerge.recipe.yaml import Path

Raw = Any
Conditions = list[tuple[str | None, Raw]]
"""What is said about a parameter: text in the tensor's name, and a value or gradient."""

Scope = Mapping[str, Conditions]
"""What one section says about each parameter."""

RawRule = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ParameterReader:
    """Reads sections called `parameters` of a merge method."""

    entries: Entries
    method: Method

    def read(self, section: Mapping[str, Raw], path: Path, *, of_model: bool = False) -> Scope:
        """Read the parameters of a section.

        Args:
            section: What may have the key `parameters`.
            path: Where it stands.
            of_model: Whether it speaks about a single model.
        """
        path = (*path, "parameters")
        given = self.entries.keys(section.get("parameters"), path, self.method.names)
        shared = {p.name for p in self.method.parameters if not p.per_source}
        for name in sorted(shared.union(self.method.choices) & given.keys()) if of_model else ():
            self.entries.doubt(
                (*path, name),
                f"{name}: is one value for all models, so mergekit would ignore it here; move it "
                "to the parameters of the recipe or of the slice",
            )
            given = {key: value for key, value in given.items() if key != name}
        return {
            name: self._conditions(value, name, (*path, name))
            for name, value in given.items()
            if name not in self.method.without_effect
        }

    def _conditions(self, given: Raw, name: str, path: Path) -> Conditions:
        if isinstance(given, dict):
            given = [given]
        if not isinstance(given, list) or not any(isinstance(each, dict) for each in given):
            # mergekit asks the next scope where it finds an empty list.
            return [(None, self._value(given, name, path))] if given != [] else []
        found: Conditions = []
        for index, each in enumerate(given):
            entry = self.entries.keys(each, (*path, index), {"filter", "value"})
            text = entry.get("filter")
            if text is not None and not isinstance(text, str):
                self.entries.refuse((*path, index), f"filter: expected text, found {text!r}")
            value = self._value(entry.get("value"), name, (*path, index))
            found.append((None if text in ("*", "") else text, value))
        return found

    def _value(self, given: Raw, name: str, path: Path) -> Raw:
        parameter = next((p for p in self.method.parameters if p.name == name), None)
        read: Callable[[Any, str, Path], Any] = self.entries.number
        if parameter is None or parameter.is_flag:
            read = self.entries.flag
        if not isinstance(given, list):
            return self._word(parameter, read(given, name, path))
        if not given:
            self.entries.refuse(path, f"{name}: expected a value or a list of them, found []")
        return [self._word(parameter, read(point, name, path)) for point in given]

    def _word(self, parameter: Theirs | None, value: Raw) -> Raw:
        if parameter is None or parameter.words is None:
            return value
        return parameter.words[value]


def first_said(name: str, scopes: Iterable[Scope]) -> Conditions:
    """What is said about a parameter, most specific scope first, up to what always applies."""
    found: Conditions = []
    for scope in scopes:
        for text, value in scope.get(name, ()):
            found.append((text, value))
            if text is None:
                return found
    return found


def closed(conditions: Conditions, default: Raw) -> Conditions:
    """Conditions that always end in a value, where there is a default."""
    ends = conditions and conditions[-1][0] is None
    return conditions if ends or default is None else [*conditions, (None, default)]


def named(text: str | None) -> RawRule:
    """The part of a rule that says what the tensor's name contains."""
    return {} if text is None else {"tensor": text}


def has_gradient(conditions: Conditions) -> bool:
    """Whether some value differs by layer."""
    return any(isinstance(value, list) for _, value in conditions)


def outside(value: Raw) -> Raw:
    """The value outside the layers."""
    return value[0] if isinstance(value, list) else value


def in_layers(value: Raw, start: int, stop: int) -> Iterator[RawRule]:
    """A value or a gradient as rules for a run of layers."""
    if not isinstance(value, list):
        yield {"value": value, "layers": [start, stop]}
        return
    count = stop - start
    for layer in range(count):
        # mergekit puts the only layer of a slice at the end of its gradient.
        t = layer / (count - 1) if count > 1 else 1.0
        yield {"value": _point(value, t), "layers": [start + layer, start + layer + 1]}


def _point(points: Sequence[Raw], t: float) -> Raw:
    place = t * (len(points) - 1)
    left = int(place)
    if isinstance(points[left], (bool, str)):
        return points[left]
    right = min(len(points) - 1, left + 1)
    share = place - left
    return (1 - share) * points[left] + share * points[right]
