"""The map from genotypes to merge recipes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evomerge.genome.genes import DROPPED, KEPT, NOTHING, OPERATOR, POST, PRESENCE, TRUST
from evomerge.genome.searched import parameters_of
from evomerge.operators.registry import find_operator
from evomerge.recipe.merge import Dtype, LayerRange, MergeRecipe, Rule, Setting, Source

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from evomerge.genome.genes import Gene, Genotype, Part
    from evomerge.genome.prior import Prior
    from evomerge.layout import Component
    from evomerge.recipe.calibration import CalibrationSettings
    from evomerge.recipe.space import GenomeSpace

    Values = Mapping[tuple[str, int | None, int, Component | None], float]
    """Values by parameter, source (None: all), layer group and component."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Genome:
    """Which recipe each point of the unit cube stands for.

    Tensors outside the layers share the genes of a neighbour: the embedding those of the first
    layer group, all others those of the last.

    Attributes:
        base: The base model.
        sources: The sources, in the order of the search recipe.
        space: Operators, groups and ranges.
        rules: The rules that tell the parts of the model apart, in the order in which they are
            tried, yet without their values.
        genes: The coordinates, in order; each drives some tensor of some recipe.
        dtype: What recipes store.
        seed: Seed of stochastic operators.
        calibration: The recipes' texts, for operators that measure models.
        prior: What is known of the sources before a search.
    """

    base: str
    sources: tuple[Source, ...]
    space: GenomeSpace
    rules: tuple[tuple[Part, Rule], ...]
    genes: tuple[Gene, ...]
    dtype: Dtype
    seed: int
    calibration: CalibrationSettings | None = None
    prior: Prior | None = None

    def decode(self, genotype: Sequence[float]) -> MergeRecipe:
        """The merge recipe that a genotype stands for."""
        operator, post = self.operator(genotype), self.post(genotype)
        values = self._values(operator, genotype)
        if self.prior is not None:
            values = self.prior.applied(values, self._trust(genotype, self.prior))
        sources = tuple(
            self.sources[index].model_copy(update={"parameters": self._settings(values, index)})
            for index in self.taken(genotype)
        )
        # What is done to a merge is done before it is rounded.
        merge = self._recipe(operator, values, sources, "float32" if post else self.dtype)
        if post is None:
            return merge
        return self._recipe(
            post, self._values(post, genotype), (Source(recipe=merge),), self.dtype
        )

    def _gene(self, parameter: str, genotype: Sequence[float]) -> tuple[Gene, float] | None:
        """The one gene of a parameter and its coordinate, if the genome has it."""
        pairs = zip(self.genes, genotype, strict=True)
        return next((pair for pair in pairs if pair[0].parameter == parameter), None)

    def _trust(self, genotype: Sequence[float], prior: Prior) -> float:
        found = self._gene(TRUST, genotype)
        return found[0].value(found[1]) if found else prior.trust

    def operator(self, genotype: Sequence[float]) -> str:
        """The operator of the recipe that a genotype stands for."""
        found = self._gene(OPERATOR, genotype)
        return found[0].choice(found[1]) if found else self.space.operators[0]

    def post(self, genotype: Sequence[float]) -> str | None:
        """The operator that is applied to the merge of a genotype, if one is."""
        found = self._gene(POST, genotype)
        return self.space.post if found and found[0].choice(found[1]) != NOTHING else None

    def taken(self, genotype: Sequence[float]) -> tuple[int, ...]:
        """Indices of the sources that the recipe of a genotype merges, in order.

        Where the operator takes more or fewer sources than are chosen, those with the highest
        coordinates stay.
        """
        chosen = {
            gene.source: (coordinate, gene.choice(coordinate))
            for gene, coordinate in zip(self.genes, genotype, strict=True)
            if gene.parameter == PRESENCE
        }
        everyone = range(len(self.sources))
        if not chosen:
            return tuple(everyone)
        least, most = find_operator(self.operator(genotype)).sources
        wanted = sum(choice == KEPT for _, choice in chosen.values())
        count = min(max(wanted, least), most or len(everyone))
        return tuple(sorted(sorted(everyone, key=lambda index: -chosen[index][0])[:count]))

    def active(self, genotype: Sequence[float]) -> list[bool]:
        """Which genes the recipe of a genotype depends on; choices always count."""
        applied = {self.operator(genotype), self.post(genotype)}
        taken = self.taken(genotype)
        return [
            bool(gene.choices)
            or (
                not applied.isdisjoint(gene.operators or self.space.operators)
                and (gene.source is None or gene.source in taken)
            )
            for gene in self.genes
        ]

    def mean(self, genotypes: Sequence[Genotype]) -> Genotype:
        """The middle of some genotypes.

        Choices are those that most of them make, of equally frequent ones that of the earlier
        genotype; sources take part if they do in most recipes. Numbers are means over the
        genotypes on whose recipes they have a say.
        """
        active = [self.active(each) for each in genotypes]
        taken = [self.taken(each) for each in genotypes]
        found = []
        for index, gene in enumerate(self.genes):
            coordinates = [each[index] for each in genotypes]
            if gene.parameter == PRESENCE:
                made = [KEPT if gene.source in of else DROPPED for of in taken]
            else:
                made = [gene.choice(c) for c in coordinates if gene.choices]
            if made:
                found.append(gene.middle(max(made, key=made.count)))
            else:
                used = [c for c, of in zip(coordinates, active, strict=True) if of[index]]
                used = used or coordinates
                found.append(sum(used) / len(used))
        return tuple(found)

    def labels(self) -> list[dict[str, Any]]:
        """What each gene drives, in words.

        The keys are `parameter`, `source`, `layers` and `component`, and of choices `choices`.
        """
        layers = {part: rule.layers for part, rule in self.rules if rule.layers}
        return [
            {
                "parameter": self._parameter(gene),
                "source": "all" if gene.source is None else self.sources[gene.source].label,
                "layers": _in_words(gene, layers),
                "component": getattr(gene.component, "value", gene.component) or "others",
                **({"choices": list(gene.choices)} if gene.choices else {}),
            }
            for gene in self.genes
        ]

    def _parameter(self, gene: Gene) -> str:
        """A gene's parameter, and its operators where those of others have one of that name."""
        rivals = {other.operators for other in self.genes if other.parameter == gene.parameter}
        return gene.parameter + (f" of {', '.join(gene.operators)}" if len(rivals) > 1 else "")

    def _values(self, operator: str, genotype: Sequence[float]) -> Values:
        """The values of an operator's genes, for each part of the model."""
        parts = list(dict(self.rules))
        return {
            (gene.parameter, gene.source, *part): gene.value(coordinate)
            for gene, coordinate in zip(self.genes, genotype, strict=True)
            if not gene.choices and gene.parameter != TRUST
            if operator in (gene.operators or self.space.operators)
            for part in gene.drives(parts)
        }

    def _recipe(
        self, operator: str, values: Values, sources: tuple[Source, ...], dtype: Dtype
    ) -> MergeRecipe:
        known = parameters_of(self.space)[operator]
        fixed = {name: value for name, value in self.space.fixed.items() if name in known}
        labels = {source.label for source in sources}
        return MergeRecipe(
            base=self.base,
            sources=sources,
            operator=operator,
            parameters={**fixed, **self._settings(values, None)},
            dtype=dtype,
            seed=self.seed,
            calibration=self.calibration and self.calibration.of(labels),
        )

    def _settings(self, values: Values, source: int | None) -> dict[str, Setting]:
        """The parameters of one source (None: of all) as rules."""
        settings: dict[str, Setting] = {}
        for parameter in sorted({name for name, *_ in values}):
            mine = {
                (group, component): value
                for (name, of, group, component), value in values.items()
                if name == parameter and of == source
            }
            if mine:
                settings[parameter] = self._setting(mine)
        return settings

    def _setting(self, values: Mapping[Part, float]) -> Setting:
        if len(set(values.values())) == 1:
            return next(iter(values.values()))
        return tuple(rule.model_copy(update={"value": values[p]}) for p, rule in self.rules)


def _in_words(gene: Gene, layers: Mapping[Part, LayerRange]) -> str:
    """The layers that a gene drives."""
    found = [layers[part] for part in gene.drives(list(layers)) if part in layers]
    if found and gene.group is None:
        return "all"
    return next((f"{first}-{end - 1}" for first, end in found), "none")
