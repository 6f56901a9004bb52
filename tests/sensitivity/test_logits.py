"""Promise: distances between models' answers are means over the texts of one of them."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch

from evomerge.checkpoints import Checkpoint, open_checkpoint
from evomerge.live_model import load_checkpoint
from evomerge.sensitivity.calibration import Calibration
from evomerge.sensitivity.logits import logit_distances

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from evomerge.sensitivity.cache import StatisticsCache


def naive_distance(one: Any, other: Any, tokenizer: Any, texts: tuple[str, ...]) -> float:
    means = []
    for text in texts:
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        with torch.no_grad():
            rows = zip(one(input_ids=ids).logits[0], other(input_ids=ids).logits[0], strict=True)
        distances = [float(((a - b) ** 2).sum() ** 0.5) for a, b in rows]
        means.append(sum(distances) / len(distances))
    return sum(means) / len(means)


def test_each_row_is_a_model_and_each_column_the_texts_it_is_asked(
    opened: Callable[[str], Checkpoint], cache: StatisticsCache
) -> None:
    names = ("one", "two", "three")
    texts = (("red cat", "sun"), ("the moon",), ("two birds", "sea", "dog"))
    models = [load_checkpoint(opened(n), torch.float32, torch.device("cpu")) for n in names]
    found = logit_distances(
        [(opened(n), Calibration(texts=t)) for n, t in zip(names, texts, strict=True)], cache
    )
    for i in range(3):
        assert found[i, i] == 0
        for j in range(3):
            expected = naive_distance(models[i][0], models[j][0], models[i][1], texts[j])
            assert float(found[i, j]) == pytest.approx(expected, rel=1e-4)
    assert not torch.allclose(found, found.T, rtol=1e-3)


def test_known_distances_read_no_model(
    family: Path, tmp_path: Path, calibration: Calibration, cache: StatisticsCache
) -> None:
    for name in ("one", "two"):
        shutil.copytree(family / name, tmp_path / name)
    sources = [(open_checkpoint(n, root=tmp_path), calibration) for n in ("one", "two")]
    seen: list[tuple[int, int]] = []
    first = logit_distances(sources, cache, progress=lambda *done: seen.append(done))
    shutil.rmtree(tmp_path / "one")
    assert torch.equal(logit_distances(sources, cache), first)
    assert seen == [(1, 1)]
