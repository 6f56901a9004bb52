"""How differently models answer: distances of their logits on each other's texts.

Liu et al. 2025, https://arxiv.org/abs/2502.12420, the cross-task part, read through the authors'
follow-up, https://arxiv.org/abs/2503.20641.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from evomerge.live_model import choose_device, load_checkpoint
from evomerge.sensitivity.statistics import statistic_key, window_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evomerge.checkpoints import Checkpoint
    from evomerge.sensitivity.cache import Measured, StatisticsCache
    from evomerge.sensitivity.calibration import Calibration, Document
    from evomerge.sensitivity.statistics import Progress


def logit_distances(
    sources: Sequence[tuple[Checkpoint, Calibration]],
    cache: StatisticsCache,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    progress: Progress | None = None,
) -> Tensor:
    """Mean distance of two models' logits, for all pairs of sources.

    Two models are in memory at a time.

    Args:
        sources: Models of one family, each with texts of what it is good at.
        cache: Where the distances of a pair are kept.
        device: `cpu`, `cuda`, `cuda:N` or `auto`.
        dtype: Precision of the passes.
        progress: Told the pairs done, and of how many.

    Returns:
        g, shape `(M, M)`, float32: `g[i, j]` is the mean over texts of source j, and over their
        tokens, of the Euclidean distance between the logits of i and of j. Zero for i = j.

    Raises:
        ModelError: A model cannot be loaded or the cache not be written.
        EvaluationError: There is no usable text.
    """
    distances = torch.zeros(len(sources), len(sources))
    pairs = [(i, j) for j in range(len(sources)) for i in range(j)]
    for done, (i, j) in enumerate(pairs, start=1):
        pair = sources[i], sources[j]
        parts = [part for model, texts in pair for part in (model.identity(), texts.digest())]
        measure = partial(_measure, pair, choose_device(device), getattr(torch, dtype))
        found = cache.fetch(statistic_key("logits", *parts, dtype), measure)["distance"]
        distances[j, i], distances[i, j] = found
        if progress:
            progress(done, len(pairs))
    return distances


def _measure(
    pair: Sequence[tuple[Checkpoint, Calibration]], device: torch.device, dtype: torch.dtype
) -> Measured:
    """Distances of two models on the texts of the first, and of the second."""
    loaded = [load_checkpoint(checkpoint, dtype, device) for checkpoint, _ in pair]
    models = [model for model, _ in loaded]
    distances = [
        _distance(models, calibration.documents(tokenizer, window_of(model)))
        for (model, tokenizer), (_, calibration) in zip(loaded, pair, strict=True)
    ]
    return {"distance": (2,)}, [("distance", torch.tensor(distances))]


@torch.inference_mode()
def _distance(models: Sequence[Any], texts: Sequence[Document]) -> float:
    total = 0.0
    for text in texts:
        ids = text.ids[None].to(models[0].device)
        one, other = (model(input_ids=ids, use_cache=False).logits[0].float() for model in models)
        total += float((one - other).norm(dim=1).mean(dtype=torch.float64))
    return total / len(texts)
