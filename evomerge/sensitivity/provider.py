"""Hands merges what they must know of their models: each statistic as an operator takes it.

Statistics are measured when they are asked for first, and kept: on disk by content, and in the
process by name.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from blake3 import blake3

from evomerge.errors import CompatibilityError, RecipeError
from evomerge.recipe.stack import BASE
from evomerge.sensitivity.cache import StatisticsCache
from evomerge.sensitivity.calibration import Calibration, read_texts
from evomerge.sensitivity.family import measure_family
from evomerge.sensitivity.groups import by_layer, layer_group
from evomerge.sensitivity.logits import logit_distances
from evomerge.sensitivity.statistics import statistic

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping

    from torch import Tensor

    from evomerge.checkpoints import Checkpoint
    from evomerge.merging.sources import SourceLibrary
    from evomerge.recipe.merge import MergeRecipe
    from evomerge.sensitivity.statistics import Kind, Progress


@dataclass(frozen=True, slots=True)
class Calibrator:
    """Measures the models of recipes; what `SourceLibrary` calls for operators that ask.

    Attributes:
        cache: Where statistics are kept.
        device: Where models run: `cpu`, `cuda`, `cuda:N` or `auto`.
        progress: Told the runs of a text done and of how many, for each statistic anew.
    """

    cache: StatisticsCache = field(default_factory=StatisticsCache)
    device: str = "auto"
    progress: Progress | None = None
    _found: dict[Hashable, Any] = field(default_factory=dict)

    def __call__(self, recipe: MergeRecipe, library: SourceLibrary) -> RecipeStatistics:
        """The statistics of a recipe; none is measured yet.

        Raises:
            RecipeError: A file of texts cannot be used.
        """
        labels = [BASE, *(source.label for source in recipe.sources)]
        texts = {label: self.texts(recipe, label, library.root) for label in labels}
        return RecipeStatistics(self, recipe, library, {k: v for k, v in texts.items() if v})

    def texts(self, recipe: MergeRecipe, label: str, root: Path) -> Calibration | None:
        """The texts that a recipe gives for a source, or for `base`."""
        settings = recipe.calibration.under(root) if recipe.calibration else None
        file = settings.file(label) if settings else None
        if settings is None or file is None:
            return None
        texts = self.keep(file, lambda: read_texts(Path(file)))
        return Calibration(texts=texts, samples=settings.samples, max_tokens=settings.max_tokens)

    def keep(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What was made under a key before, or is made now."""
        if key not in self._found:
            # A live model is merged into without gradients, which some statistics need.
            with torch.inference_mode(mode=False):
                self._found[key] = make()
        return self._found[key]


@dataclass(frozen=True, slots=True)
class RecipeStatistics:
    """The statistics of one recipe's models.

    Attributes:
        calibrator: Measures and keeps them.
        recipe: The recipe.
        library: Opens its models.
        calibrations: The texts by the name of a source, and of `base`.
    """

    calibrator: Calibrator
    recipe: MergeRecipe
    library: SourceLibrary
    calibrations: Mapping[str, Calibration]

    def texts(self) -> str:
        """Return a fingerprint of the texts and of who is measured on which."""
        parts = {label: texts.digest() for label, texts in self.calibrations.items()}
        return blake3(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def __call__(self, kind: str, source: int | None, name: str) -> Tensor | None:
        """Return a statistic of a tensor as `operators.parameters.INPUTS` describes it.

        Args:
            kind: Which one.
            source: Index of the source it is of, None for the base.
            name: The tensor's name in that model.

        Raises:
            ModelError: A model cannot be run.
            EvaluationError: The texts cannot be used, or a statistic is not finite.
            CompatibilityError: The model stores its linear layers transposed.
        """
        match kind:
            case "fisher" | "gram" | "activation":
                found = self._measured(kind, source)
                if kind != "fisher":
                    self._refuse_transposed(source, found)
                return found.get(name)
            case "fisher_norm":
                return self._fisher_norm(source)
            case "sensitivity":
                return _from_own_layer(self._layer_sensitivities(source), name)
            case "importance":
                return _from_own_layer(self._layer_importances(source), name)
            case _:
                distances: Tensor = self._distances()
                return distances[0 if source is None else source]

    def _model(self, source: int | None) -> tuple[str, Checkpoint]:
        """A source, or the base, and the name of its texts."""
        if source is None:
            return BASE, self.library.model(self.recipe.base)
        entry = self.recipe.sources[source]
        return entry.label, self.library.model(entry.measured_as or entry.model or "")

    def _calibration(self, label: str) -> Calibration:
        if label not in self.calibrations:
            raise RecipeError(f"calibration.texts: has no file for {label}, which is measured")
        return self.calibrations[label]

    def _measured(self, kind: Kind, source: int | None) -> Mapping[str, Tensor]:
        (label, model), own = self._model(source), self.calibrator
        calibration = self._calibration(label)
        found: Mapping[str, Tensor] = own.keep(
            (kind, model.identity(), calibration.digest()),
            lambda: statistic(
                kind, model, calibration, own.cache, device=own.device, progress=own.progress
            ),
        )
        return found

    def _fisher_norm(self, source: int | None) -> Tensor:
        (label, model), found = self._model(source), self._measured("fisher", source)

        def norm() -> Tensor:
            squares = [each.double().square().sum() for each in found.values()]
            return torch.stack(squares).sum().sqrt()

        key = ("fisher_norm", model.identity(), self._calibration(label).digest())
        result: Tensor = self.calibrator.keep(key, norm)
        return result

    def _layer_sensitivities(self, source: int | None) -> dict[str, float]:
        found = self._measured("sensitivity", source)
        label, model = self._model(source)
        key = ("layers", model.identity(), self._calibration(label).digest())
        layers: dict[str, float] = self.calibrator.keep(
            key,
            lambda: {
                group: math.fsum(map(float, parts)) for group, parts in by_layer(found).items()
            },
        )
        return layers

    def _layer_importances(self, source: int | None) -> dict[str, float]:
        base, model = self._model(None)[1], self._model(source)[1]
        found = self._measured("fisher", None)

        def measure() -> dict[str, float]:
            moved = measure_family(base, [model], progress=self.calibrator.progress).layers()
            sums = by_layer({k: (float(v.double().sum()), v.numel()) for k, v in found.items()})
            return {
                group: float(moved[group].products[0, 0])
                * math.fsum(total for total, _ in parts)
                / sum(entries for _, entries in parts)
                for group, parts in sums.items()
                if group in moved
            }

        key = ("importance", base.identity(), model.identity(), self._calibration(BASE).digest())
        layers: dict[str, float] = self.calibrator.keep(key, measure)
        return layers

    def _distances(self) -> Any:
        models = [self._model(index) for index in range(len(self.recipe.sources))]
        pairs = [(model, self._calibration(label)) for label, model in models]
        key = ("distance", *((model.identity(), texts.digest()) for model, texts in pairs))
        own = self.calibrator
        return own.keep(
            key,
            lambda: logit_distances(pairs, own.cache, device=own.device, progress=own.progress),
        )

    def _refuse_transposed(self, source: int | None, found: Mapping[str, Tensor]) -> None:
        model = self._model(source)[1]

        def check() -> None:
            for name, header in model.headers.items():
                if name in found and header.shape[-1] != found[name].shape[-1]:
                    raise CompatibilityError(
                        f"{model.reference}: stores its linear layers with inputs first, as "
                        f"{name} of shape {header.shape}; {self.recipe.operator} reads them with "
                        "inputs last"
                    )

        self.calibrator.keep(("layout", model.identity()), check)


def _from_own_layer(layers: Mapping[str, float], name: str) -> Tensor:
    """The values of all layers, that of a tensor's own layer first, shape `(L,)`, float64."""
    own = layer_group(name)
    others = [value for group, value in layers.items() if group != own]
    return torch.tensor([layers.get(own, 0.0), *others], dtype=torch.float64)
