"""Two experts averaged and refined: what the experts predict teaches more than the texts do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from distillation_toy import RATES, World

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.slow
def test_distillation_brings_a_merge_nearer_to_its_experts_than_their_texts_do(
    tmp_path: Path,
) -> None:
    world = World(tmp_path, seed=0, refine_texts=200)
    merged = world.distances(world.merge).from_experts()
    distilled, alone = (
        world.distances(world.refined("lora", taught=taught, rate=RATES["lora", taught][-1]))
        for taught in (True, False)
    )
    assert distilled.from_experts() < 0.5 * merged
    assert distilled.from_experts() < alone.from_experts()
