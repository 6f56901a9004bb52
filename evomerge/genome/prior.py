"""What was measured of the sources before a search, and how far their weights follow it.

A source's weight in a layer group and component is that of its gene times `(S / mean S) ** trust`,
where S is what was measured there and the mean is over the layer groups of the same component:
tensors of different kinds do not compare, norms have few entries and large gradients.

What is measured on texts is per entry. That layers to which a source's loss is sensitive should
count more is from Sens-Merging, Liu et al. 2025, https://arxiv.org/abs/2502.12420; that merges
should be careful with important layers, which is trust below 0, from FIM-Merging, 2026,
https://arxiv.org/abs/2603.21705. The power is ours, so that a search can find out how much of
which to believe.

Kinship needs no texts: it is the cosine of task vectors (Hu et al. 2024,
https://arxiv.org/abs/2410.12613, sec. 3). S is 1 less its mean over the other sources, so that a
source counts more where it says what no other does, and below trust 0 where all agree. The cosine
itself has no powers, for it may be 0 or less.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from evomerge.errors import RecipeError
from evomerge.genome.genes import DECIMALS
from evomerge.layout import locate
from evomerge.operators.parameters import Interval

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from evomerge.genome.genes import Part
    from evomerge.layout import Component
    from evomerge.operators.registry import Operator
    from evomerge.recipe.calibration import CalibrationSettings
    from evomerge.recipe.merge import Rule, Source
    from evomerge.recipe.prior import PriorSettings

    Key = tuple[str, int | None, int, Component | None]

WEIGHT = "weight"
"""The parameter that a prior is about."""


LEAST = 0.01
"""What anything less counts as below trust 0, where weights would grow without end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prior:
    """What a genome knows of its sources.

    Attributes:
        trust: How far weights follow it; the value of the gene if there is one.
        low: Least weight that the operator allows.
        high: Greatest one.
        relative: For each source, what was measured of a part over the mean of its component's
            parts; empty until it is measured, which is as if trust were 0.
    """

    trust: float
    low: float
    high: float
    relative: tuple[Mapping[Part, float], ...] = ()

    def applied(self, values: Mapping[Key, float], trust: float) -> dict[Key, float]:
        """The values of a genotype's parameters, the weights as it has them."""
        return {
            key: self._weight(key, value, trust) if key[0] == WEIGHT else value
            for key, value in values.items()
        }

    def _weight(self, key: Key, value: float, trust: float) -> float:
        _, source, group, component = key
        if not self.relative or source is None:
            return value
        # What lies outside the layers is measured nowhere.
        relative = self.relative[source].get((group, component), 1.0)
        factor: float = (max(relative, LEAST) if trust < 0 else relative) ** trust
        return min(max(round(value * factor, DECIMALS) + 0.0, self.low), self.high)


def relative_to_mean(measured: Mapping[Part, float]) -> dict[Part, float]:
    """What was measured of each part over the mean of its component's parts; 1 if all are 0."""
    of_component: dict[Component | None, list[float]] = {}
    for (_, component), value in measured.items():
        of_component.setdefault(component, []).append(value)
    means = {component: sum(found) / len(found) for component, found in of_component.items()}
    return {
        part: value / means[part[1]] if means[part[1]] else 1.0 for part, value in measured.items()
    }


def part_inside(rules: Sequence[tuple[Part, Rule]], name: str) -> Part | None:
    """The part of a tensor; None if it lies outside the layers."""
    place = locate(name)
    if place.layer is None:
        return None
    return next((part for part, rule in rules if rule.applies(name, place)), None)


def by_part(
    rules: Sequence[tuple[Part, Rule]], measured: Mapping[str, tuple[float, int]]
) -> dict[Part, float]:
    """Mean over the entries of each part; tensors outside the layers are left out.

    Args:
        rules: A genome's rules.
        measured: Sum over the entries of each tensor, and how many entries it has.
    """
    totals: dict[Part, tuple[float, int]] = {}
    for name, (total, entries) in measured.items():
        part = part_inside(rules, name)
        if part is not None:
            before = totals.get(part, (0.0, 0))
            totals[part] = before[0] + total, before[1] + entries
    return {part: total / entries for part, (total, entries) in totals.items()}


def plan_prior(
    settings: PriorSettings,
    operators: Sequence[Operator],
    searched: Collection[str],
    shared: Collection[str],
    sources: Sequence[Source],
    calibration: CalibrationSettings | None,
) -> Prior:
    """A prior that is yet to be measured, if it has something to say and all it is measured on.

    Args:
        settings: The prior's settings.
        operators: The operators that it is for; those without weights of sources go without it.
        searched: Names of the parameters that have genes.
        shared: The axes along which weights have one gene.
        sources: The sources.
        calibration: Their texts.

    Raises:
        RecipeError: It has not.
    """
    weights = [each.parameters[WEIGHT] for each in operators if WEIGHT in each.parameters]
    intervals = [weight.interval or Interval() for weight in weights if weight.per_source]
    if not intervals:
        names = " and ".join(each.name for each in operators)
        raise RecipeError(
            f"genome.prior: is about the weights of sources, and {names} has none; leave it out "
            "or choose another operator"
        )
    if "sources" in shared:
        raise RecipeError(
            "genome.prior: weights the sources by what is measured of each, and "
            "genome.shared.weight gives all the same; leave one of them out"
        )
    if WEIGHT not in searched:
        raise RecipeError("genome.prior: is about weights that are searched; weight is fixed")
    if settings.of_texts:
        _check_texts(settings, [source.label for source in sources], calibration)
    elif len(sources) < 2:
        raise RecipeError(
            "genome.prior: kinship compares sources, and there is one; give another, or choose "
            "sensitivity or fisher"
        )
    return Prior(
        trust=settings.trust[0],
        low=max(interval.low for interval in intervals),
        high=min(interval.high for interval in intervals),
    )


def _check_texts(
    settings: PriorSettings, labels: Sequence[str], calibration: CalibrationSettings | None
) -> None:
    if calibration is None:
        raise RecipeError(
            f"genome.prior: the {settings.kind} of the sources is measured on texts, and there "
            "are none; write calibration: {texts: FILE} at the top of the recipe, or choose "
            "kinship"
        )
    for unknown in calibration.unknown(set(labels)):
        known = ", ".join(labels)
        raise RecipeError(f"calibration.texts: {unknown!r} is no source; known: {known}")
    for label in labels:
        if calibration.file(label) is None:
            raise RecipeError(f"calibration.texts: has no file for {label}, which is measured")
