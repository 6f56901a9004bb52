"""Promise: what a teacher is recorded to predict is what it predicts, whatever is read with it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers
from tiny_architectures import CAUSAL

from evomerge.errors import CompatibilityError, EvaluationError, ModelError
from evomerge.refinement.predictions.kept import Kept
from evomerge.refinement.teachers import teacher as module
from evomerge.refinement.teachers.teacher import Teacher
from evomerge.refinement.texts.sequences import Sequence

TOP = Kept(vocabulary=32, k=5)
SAMPLED = Kept(vocabulary=32, kind="sampled", k=8)


def sequences() -> list[Sequence]:
    rng = torch.Generator().manual_seed(0)
    made = []
    for index, length in enumerate((9, 4, 12)):
        supervised = torch.arange(length) >= length // 2
        ids = torch.randint(3, 32, (length,), generator=rng)
        made.append(Sequence(ids=ids, supervised=supervised, index=index))
    return made


def model_of(name: str) -> Any:
    kind, config, values = CAUSAL[name]
    with torch.random.fork_rng():
        torch.random.manual_seed(0)
        model = getattr(transformers, kind)(getattr(transformers, config)(**values))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)
    return model.eval()


@pytest.mark.parametrize("name", sorted(CAUSAL))
@torch.no_grad()
def test_every_family_predicts_what_its_own_logits_say(name: str) -> None:
    model = model_of(name)
    found = Teacher(model).predict(sequences(), TOP)
    for sequence, rows in zip(sequences(), found, strict=True):
        logits = model(input_ids=sequence.ids[None]).logits[0].float()
        predicting = sequence.supervised.nonzero()[:, 0] - 1
        expected = logits.log_softmax(dim=1)[predicting]
        torch.testing.assert_close(rows.log_probs, expected.topk(5).values, atol=1e-4, rtol=1e-4)
        nll = -expected.gather(1, sequence.ids[sequence.supervised][:, None])[:, 0]
        torch.testing.assert_close(rows.nll, nll, atol=1e-4, rtol=1e-4)
    again = model(input_ids=sequences()[0].ids[None]).logits
    assert again.shape == (1, 9, 32), "the model itself is as it was"


@pytest.mark.parametrize("kept", [TOP, SAMPLED], ids=lambda kept: kept.kind)
def test_the_size_of_chunks_and_batches_does_not_matter(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = Teacher(model_of("Llama"))
    whole = teacher.predict(sequences(), kept)
    monkeypatch.setitem(module.CHUNK_BYTES, "cpu", 32 * 12 * 2)
    for sequence, rows in zip(sequences(), whole, strict=True):
        (alone,) = teacher.predict([sequence], kept)
        width = alone.ids.shape[1]
        assert torch.equal(alone.ids, rows.ids[:, :width])
        torch.testing.assert_close(alone.log_probs, rows.log_probs[:, :width])
        assert torch.isneginf(rows.log_probs[:, width:]).all()


def test_draws_are_named_by_their_sequence() -> None:
    """All predictions are alike here: only draws tell sequences apart."""
    model = model_of("Llama")
    model.lm_head.weight.data.zero_()
    teacher, (first, *_) = Teacher(model), sequences()
    other = replace(first, ids=first.ids.flip(0))
    one, again, two = (teacher.predict([each], SAMPLED)[0].ids for each in (first, first, other))
    assert torch.equal(one, again)
    assert one.shape != two.shape or not torch.equal(one, two)


def test_rows_of_the_head_beyond_the_tokenizer_have_no_probability() -> None:
    model = model_of("Llama")
    short = [Sequence(ids=torch.tensor([3, 4]), supervised=torch.tensor([False, True]), index=0)]
    (rows,) = Teacher(model).predict(short, Kept(vocabulary=20, k=20))
    torch.testing.assert_close(rows.log_probs.exp().sum(dim=1), torch.ones(1))
    assert rows.vocabulary == 20
    assert torch.isneginf(rows.tail).all()


def test_a_token_that_the_teacher_does_not_know_is_refused() -> None:
    message = r"token \d+ is not in the teacher's voc.* of 8;.* name another model under teachers"
    with pytest.raises(CompatibilityError, match=message):
        Teacher(model_of("Llama")).predict(sequences(), Kept(vocabulary=8))


def test_a_broken_teacher_is_refused() -> None:
    model = model_of("Llama")
    model.lm_head.weight.data[3] = torch.nan
    with pytest.raises(EvaluationError, match="NaN"):
        Teacher(model).predict(sequences(), TOP)


def test_a_decoder_alone_is_refused() -> None:
    with pytest.raises(ModelError, match="LlamaModel: its output head is"):
        Teacher(model_of("Llama").model)
