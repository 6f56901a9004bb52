"""Paths through layers: whose layers run at each depth, how often, and how much they add.

The data-flow space of Akiba et al., "Evolutionary Optimization of Model Merging Recipes", 2024,
section 3.2, https://arxiv.org/abs/2403.13187: weights stay as they are, and what is searched is
which layers a token passes. Here every layer group is a step: one source's layers there, left out,
once or several times in a row. Where the authors scale what reaches a layer, a scale is here of
what the layer adds: layers that normalise what they read cannot tell, and it can be stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from evomerge.errors import RecipeError
from evomerge.genome.genes import Gene
from evomerge.genome.genome import Genome
from evomerge.layout import Component, locate
from evomerge.recipe.merge import MergeRecipe, Rule
from evomerge.recipe.ranges import bounds_of
from evomerge.recipe.stack import Slab

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from evomerge.genome.genes import Genotype, Part
    from evomerge.recipe.merge import Source
    from evomerge.recipe.space import LayerPath

LAYERS_OF, TIMES, SCALE = "layers of", "times", "scale"
"""What the genes of a step are called."""

WRITERS = (
    "o_proj",
    "out_proj",
    "down_proj",
    "c_proj",
    "attention.dense.",
    "attn.dense.",
    "dense_4h_to_h",
    "fc_out",
    "output_linear",
    ".fc2.",
    ".wo.",
    ".w2",
)
"""Parts of the names of the matrices whose results a layer adds to the hidden state."""

BLOCKS = (Component.ATTENTION, Component.MLP)
"""Of each of these at least one tensor is such a matrix, or the names are strange to us."""

NORMS_AFTER = ("post_feedforward_layernorm", "post_mlp_layernorm")
"""Parts of the names of norms behind those matrices, which undo any scale."""


class Step(NamedTuple):
    """A run of layers of a path.

    Attributes:
        source: Index of the source whose layers they are.
        layers: Half-open range of its layers.
        scale: Factor on what they add.
    """

    source: int
    layers: tuple[int, int]
    scale: float


def path_genes(
    path: LayerPath, sources: Sequence[Source], parts: Iterable[Part]
) -> Iterator[Gene]:
    """The genes of a path: whose layers, how often, and the scale, for each layer group."""
    labels = tuple(source.label for source in sources)
    for group in sorted({group for group, _ in parts}):
        if len(labels) > 1:
            yield _choice(LAYERS_OF, group, labels)
        yield _choice(TIMES, group, tuple(map(str, range(path.repeats + 1))))
        if path.scale is not None:
            bounds = bounds_of(path.scale)
            yield Gene(
                parameter=SCALE,
                source=None,
                group=group,
                component="all",
                low=bounds.low,
                high=bounds.high,
                log=bounds.log,
            )


def _choice(parameter: str, group: int, choices: tuple[str, ...]) -> Gene:
    return Gene(parameter=parameter, source=None, group=group, component="all", choices=choices)


def writers_of(tensors: Sequence[str]) -> tuple[str, ...]:
    """The parts of names that tell what a model's layers add.

    Raises:
        RecipeError: They are not known of every attention and every MLP, or norms undo scales.
    """
    norm = next((each for each in NORMS_AFTER if any(each in name for name in tensors)), None)
    if norm:
        raise RecipeError(
            f"genome.path.scale: {norm} follows what the layers add and undoes any scale; leave "
            "scale out"
        )
    found = tuple(each for each in WRITERS if any(each in name for name in tensors))
    known = {locate(name) for name in tensors if any(each in name for each in found)}
    blocks = {place for place in map(locate, tensors) if place.component in BLOCKS}
    if not found or any(place.layer is not None for place in blocks - known):
        raise RecipeError(
            "genome.path.scale: which tensors of this model's layers add to the hidden state is "
            "not known; leave scale out"
        )
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class PathGenome(Genome):
    """Which path through the sources' layers each point of the unit cube stands for.

    The embedding is that of the lowest step's source; the last norm and the head are of the
    highest step's. A path that leaves all layers out has the first group once.

    Attributes:
        writers: What the names contain of tensors that scales are of; none if there are no scales.
    """

    writers: tuple[str, ...] = ()

    def decode(self, genotype: Sequence[float]) -> MergeRecipe:
        """The merge recipe that a genotype stands for."""
        steps = self.steps(genotype)
        scale = tuple(self._rules(steps))
        return MergeRecipe(
            base=self.base,
            sources=tuple(self.sources[index] for index in _passed(steps)),
            operator=self.space.operators[0],
            parameters={SCALE: scale} if scale else {},
            stack=tuple(Slab(layers={self._label(step): step.layers}) for step in steps),
            dtype=self.dtype,
            seed=self.seed,
        )

    def steps(self, genotype: Genotype | Sequence[float]) -> list[Step]:
        """The path of a genotype, bottom up; what follows without a seam is one step."""
        steps: list[Step] = []
        for step, times in self._groups(genotype):
            for _ in range(times):
                last = steps[-1] if steps else None
                if last and last.layers[1] == step.layers[0] and _alike(last, step):
                    steps[-1] = step._replace(layers=(last.layers[0], step.layers[1]))
                else:
                    steps.append(step)
        return steps or [next(self._groups(genotype))[0]]

    def taken(self, genotype: Sequence[float]) -> tuple[int, ...]:
        """Indices of the sources that a path passes, in order."""
        return _passed(self.steps(genotype))

    def active(self, genotype: Sequence[float]) -> list[bool]:
        """Which genes the path depends on; choices always count."""
        times = [times for _, times in self._groups(genotype)]
        return [bool(gene.choices) or times[gene.group or 0] > 0 for gene in self.genes]

    def _groups(self, genotype: Sequence[float]) -> Iterator[tuple[Step, int]]:
        """Of each layer group the step that it can be, and how often it is."""
        pairs = {
            (gene.parameter, gene.group): (gene, coordinate)
            for gene, coordinate in zip(self.genes, genotype, strict=True)
        }
        labels = [source.label for source in self.sources]
        layers = {group: rule.layers for (group, _), rule in self.rules if rule.layers}
        for group, bounds in sorted(layers.items()):
            times, coordinate = pairs[TIMES, group]
            whose = pairs.get((LAYERS_OF, group))
            scale = pairs.get((SCALE, group))
            step = Step(
                source=labels.index(whose[0].choice(whose[1])) if whose else 0,
                layers=bounds,
                scale=scale[0].value(scale[1]) if scale else 1.0,
            )
            yield step, int(times.choice(coordinate))

    def _rules(self, steps: Sequence[Step]) -> Iterator[Rule]:
        bottom = 0
        for step in steps if self.writers else ():
            top = bottom + step.layers[1] - step.layers[0]
            for name in self.writers:
                yield Rule(value=step.scale, layers=(bottom, top), tensor=name)
            bottom = top
        if self.writers:
            yield Rule(value=1.0)

    def _label(self, step: Step) -> str:
        return self.sources[step.source].label


def _passed(steps: Sequence[Step]) -> tuple[int, ...]:
    return tuple(sorted({step.source for step in steps}))


def _alike(first: Step, second: Step) -> bool:
    return (first.source, first.scale) == (second.source, second.scale)
