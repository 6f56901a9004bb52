"""Measures a family of models by their weights alone: how far and where each moved from the base.

One pass over the files. In memory are one tensor of the models that are adapters, and one chunk
of every model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

import torch

from evomerge.errors import CompatibilityError, ModelError
from evomerge.sensitivity.groups import by_layer
from evomerge.sensitivity.moments import DeltaMoments, add_up, measure_deltas

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from evomerge.checkpoints import Checkpoint

CHUNK = 1 << 16
"""Entries of each model that are looked at together, so that they stay in the cache."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FamilyStatistics:
    """What the weights of a family tell.

    Attributes:
        tensors: Moments of each tensor that all models have in one shape, by name.
        left_out: Names of the base's other tensors; integers are among them.
    """

    tensors: Mapping[str, DeltaMoments]
    left_out: tuple[str, ...]

    def whole(self) -> DeltaMoments:
        """Moments of the whole models."""
        return add_up(self.tensors.values())

    def layers(self) -> dict[str, DeltaMoments]:
        """Moments of each group of tensors, in the order of a forward pass."""
        return {group: add_up(parts) for group, parts in by_layer(self.tensors).items()}


def measure_family(
    base: Checkpoint,
    sources: Sequence[Checkpoint],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> FamilyStatistics:
    """Measure the task vectors of `sources`.

    Args:
        base: The base model.
        sources: At least one model.
        progress: Told the entries done, and of how many.

    Raises:
        CompatibilityError: No tensor is the same in name and shape in all models.
        ModelError: A tensor cannot be read, or is not finite.
    """
    names = _shared_names(base, sources)
    if not names:
        alone = [each for each in sources if not _shared_names(base, [each])]
        stranger, others = (alone[0], base.reference) if alone else (base, "all of the others")
        raise CompatibilityError(
            f"{stranger.reference}: shares no tensor with {others}; give models of one family"
        )
    sizes = {name: math.prod(base.headers[name].shape) for name in names}
    total, done, tensors = sum(sizes.values()), 0, {}
    for name in names:
        tensors[name] = _measure_tensor(name, base, sources)
        done += sizes[name]
        if progress:
            progress(done, total)
    left_out = tuple(name for name in base.headers if name not in tensors)
    return FamilyStatistics(tensors=tensors, left_out=left_out)


def _shared_names(base: Checkpoint, sources: Sequence[Checkpoint]) -> list[str]:
    return [name for name in base.headers if _is_shared(name, base, sources)]


def _is_shared(name: str, base: Checkpoint, sources: Sequence[Checkpoint]) -> bool:
    header = base.headers[name]
    found = [source.headers.get(name) for source in sources]
    return header.dtype.is_floating_point and all(
        other is not None and other.shape == header.shape and other.dtype.is_floating_point
        for other in found
    )


def _measure_tensor(name: str, base: Checkpoint, sources: Sequence[Checkpoint]) -> DeltaMoments:
    flat_base = base.read(name).reshape(-1)
    flats = [source.read(name).reshape(-1) for source in sources]
    parts = []
    for start in range(0, max(1, flat_base.numel()), CHUNK):
        where = slice(start, start + CHUNK)
        origin = flat_base[where].double()
        deltas = torch.stack([flat[where].double() for flat in flats]) - origin
        parts.append(measure_deltas(origin, deltas))
    moments = add_up(parts)
    if not torch.isfinite(moments.products).all():
        _refuse_nonfinite(name, [base, *sources])
    return moments


def _refuse_nonfinite(name: str, models: Sequence[Checkpoint]) -> NoReturn:
    found = [m.reference for m in models if not torch.isfinite(m.read(name)).all()]
    raise ModelError(
        f"{found[0]}: tensor {name} has NaN or infinite entries; no merge with it can work, so "
        "leave the model out or fetch it again"
    )
