"""Promise: before a cache is built, its size and what it keeps of the teacher are known."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from recordings import VOCABULARY, recording

from evomerge.refinement.cache.shards import bytes_per_row
from evomerge.refinement.predictions.kept import Kept
from evomerge.refinement.teachers import estimate as module
from evomerge.refinement.teachers.estimate import estimate
from evomerge.refinement.teachers.teacher import Teacher

if TYPE_CHECKING:
    from pathlib import Path


def test_an_estimate_tells_size_kept_mass_and_the_smallest_k_that_is_enough(family: Path) -> None:
    it = recording(family, ["red and green", "blue", "the sun"])
    teacher = Teacher(it.model)
    found = estimate(teacher, it.sequences, VOCABULARY)
    rows = teacher.predict(it.sequences, Kept(vocabulary=VOCABULARY, k=32))
    tails = torch.cat([each.tail for each in rows]).exp()
    nll = torch.cat([each.nll for each in rows])
    by_k = {each.k: each for each in found.sizes}
    assert list(by_k) == [8, 16, 32, 64, 128]
    assert by_k[32].mass == pytest.approx(1 - float(tails.mean()), abs=1e-5)
    assert by_k[32].bytes == it.rows * bytes_per_row(32, VOCABULARY)
    assert found.nll == pytest.approx(float(nll.mean()))
    assert found.rows == it.rows
    wanted = [k for k, each in by_k.items() if each.mass >= 0.995]
    assert found.enough == (wanted[0] if wanted else None)


def test_a_peaked_teacher_needs_few_tokens_and_a_flat_one_draws(family: Path) -> None:
    it = recording(family, ["red and green"])
    it.model.lm_head.weight.mul_(20)
    assert estimate(Teacher(it.model), it.sequences, VOCABULARY).enough == 8
    it.model.lm_head.weight.zero_()
    flat = estimate(Teacher(it.model), it.sequences, VOCABULARY)
    assert flat.enough is None
    assert flat.sizes[-1].mass == pytest.approx(128 / 257)


def test_only_a_few_sequences_are_tried(family: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    it = recording(family, ["red and green", "blue", "the sun"])
    monkeypatch.setattr(module, "SAMPLES", 2)
    assert estimate(Teacher(it.model), it.sequences, VOCABULARY).sequences == 2
