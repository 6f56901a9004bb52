"""Measures one model on calibration texts, once: what calibrated operators and priors need."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from blake3 import blake3
from torch import Tensor

from evomerge.errors import EvaluationError
from evomerge.live_model import choose_device, load_checkpoint, stored_names
from evomerge.sensitivity.activations import activation, gram, linear_widths
from evomerge.sensitivity.gradients import fisher, sensitivity

if TYPE_CHECKING:
    from evomerge.checkpoints import Checkpoint
    from evomerge.sensitivity.cache import Measured, StatisticsCache
    from evomerge.sensitivity.calibration import Calibration, Document

VERSION = 1
"""Part of every key: raised when a statistic changes its meaning."""

BLOCK_BYTES = 8_000_000_000
"""Sums that are in memory at a time; where more are needed, the texts are run repeatedly."""

Kind = Literal["fisher", "sensitivity", "gram", "activation"]
Progress = Callable[[int, int], None]
"""Told how much is done, and of how much."""

Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Statistic:
    """How one statistic is measured.

    Attributes:
        shapes: The shape of each of its tensors, by live parameter name.
        measure: Measures those of some parameters.
    """

    shapes: Callable[[Any], Mapping[str, Shape]]
    measure: Callable[[Any, Sequence[str], Iterable[Document]], dict[str, Tensor]]


def _parameter_shapes(model: Any) -> dict[str, Shape]:
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


_STATISTICS: Mapping[Kind, _Statistic] = {
    "fisher": _Statistic(shapes=_parameter_shapes, measure=fisher),
    "sensitivity": _Statistic(
        shapes=lambda model: dict.fromkeys(_parameter_shapes(model), ()), measure=sensitivity
    ),
    "gram": _Statistic(
        shapes=lambda model: {n: (width, width) for n, width in linear_widths(model).items()},
        measure=gram,
    ),
    "activation": _Statistic(
        shapes=lambda model: {n: (width,) for n, width in linear_widths(model).items()},
        measure=activation,
    ),
}


def statistic(
    kind: Kind,
    checkpoint: Checkpoint,
    calibration: Calibration,
    cache: StatisticsCache,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    progress: Progress | None = None,
) -> Mapping[str, Tensor]:
    """Measure a model, or read what was measured before.

    Args:
        kind: `fisher`, mean squared gradient of the loss, of each parameter's shape;
            `sensitivity`, mean sum of |weight x gradient| of each parameter, shape `()`;
            `gram`, `X^T X` of each linear layer's inputs, shape `(in, in)`;
            `activation`, mean |x| of each linear layer's inputs, shape `(in,)`.
        checkpoint: The model.
        calibration: The texts.
        cache: Where statistics are kept.
        device: `cpu`, `cuda`, `cuda:N` or `auto`.
        dtype: Precision of the passes. Sums are in float32 at least.
        progress: Told the runs of a text done, and of how many.

    Returns:
        Float32 tensors by the name of the checkpoint's tensor, read from disk when looked up.

    Raises:
        ModelError: The model cannot be loaded or the cache not be written.
        EvaluationError: There is no usable text, or the result is not finite.
    """

    def measure() -> Measured:
        model, tokenizer = load_checkpoint(
            checkpoint, getattr(torch, dtype), choose_device(device)
        )
        texts = calibration.documents(tokenizer, window_of(model))
        stored = stored_names(model, checkpoint.headers)
        shapes = dict(sorted(_STATISTICS[kind].shapes(model).items(), key=lambda i: stored[i[0]]))
        blocks = list(_blocks(shapes, BLOCK_BYTES))

        def run() -> Iterator[tuple[str, Tensor]]:
            for number, names in enumerate(blocks):
                counted = _counted(texts, number, len(blocks), progress)
                block = _STATISTICS[kind].measure(model, names, counted)
                for name in names:
                    _check_finite(checkpoint, kind, stored[name], block[name])
                    yield stored[name], block.pop(name)

        return {stored[name]: shape for name, shape in shapes.items()}, run()

    identity = [checkpoint.identity(), calibration.digest(), dtype]
    return cache.fetch(statistic_key(kind, *identity), measure)


def statistic_key(kind: str, *parts: str) -> str:
    """The cache's key of a statistic that depends on `parts`."""
    return f"{kind}-{blake3(json.dumps([VERSION, kind, *parts]).encode()).hexdigest()[:32]}"


def window_of(model: Any) -> int | None:
    """Most tokens a model of transformers reads at once; `None` if it has no limit."""
    return getattr(model.config, "max_position_embeddings", None)


def _counted(
    texts: Sequence[Document], block: int, blocks: int, progress: Progress | None
) -> Iterator[Document]:
    """Hand out texts and report, after each, how many runs are done."""
    for number, text in enumerate(texts, start=1):
        yield text
        if progress:
            progress(block * len(texts) + number, blocks * len(texts))


def _blocks(shapes: Mapping[str, Shape], most: int) -> Iterator[list[str]]:
    """Split names into runs whose float32 sums fit `most` bytes; a large one is alone."""
    block: list[str] = []
    held = 0
    for name, shape in shapes.items():
        size = 4 * torch.Size(shape).numel()
        if block and held + size > most:
            yield block
            block, held = [], 0
        block.append(name)
        held += size
    if block:
        yield block


def _check_finite(checkpoint: Checkpoint, kind: Kind, name: str, values: Tensor) -> None:
    if not torch.isfinite(values).all():
        raise EvaluationError(
            f"{checkpoint.reference}: the {kind} of {name} is not finite; the model overflows on "
            "these texts, so look at its weights or measure in float32"
        )
