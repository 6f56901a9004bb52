"""Promise: packs hold every sequence once and whole, and none of them notices the others."""

from __future__ import annotations

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from tiny_architectures import CAUSAL, SIZES

from evomerge.errors import RecipeError
from evomerge.refinement.heads import Head
from evomerge.refinement.losses.chunked import chunked_loss
from evomerge.refinement.losses.cross_entropy import CrossEntropy
from evomerge.refinement.texts.packing import WINDOW, Batch, Pack, keeps_apart, lay_out, pack
from evomerge.refinement.texts.sequences import Sequence


def sequences(*lengths: int) -> list[Sequence]:
    """Sequences of random tokens, of which about half are supervised."""
    rng = torch.Generator().manual_seed(0)
    made = []
    for index, length in enumerate(lengths):
        supervised = torch.rand(length, generator=rng) < 0.5
        supervised[0], supervised[-1] = False, length > 1
        ids = torch.randint(3, 32, (length,), generator=rng)
        made.append(Sequence(ids=ids, supervised=supervised, index=index))
    return made


LENGTHS = st.lists(st.integers(min_value=1, max_value=12), min_size=1, max_size=40)


@given(lengths=LENGTHS, seed=st.integers(0, 9))
def test_every_sequence_is_in_exactly_one_pack_and_no_pack_is_too_long(
    lengths: list[int], seed: int
) -> None:
    packs = pack(sequences(*lengths), 12, seed=seed)
    found = sorted(sequence.index for each in packs for sequence in each.sequences)
    assert found == list(range(len(lengths)))
    assert max(map(len, packs)) <= 12


@given(lengths=LENGTHS)
def test_no_two_packs_could_be_one(lengths: list[int]) -> None:
    sizes = sorted(map(len, pack(sequences(*lengths), 12, seed=0)))
    assert len(sizes) == 1 or sizes[0] + sizes[1] > 12


def batch_of(*supervised: list[int]) -> Batch:
    """Rows of one sequence each, whose tokens are counted up, with some places supervised."""
    made = [
        Sequence(
            ids=torch.arange(3, 7) + 4 * row,
            supervised=torch.tensor([place in places for place in range(4)]),
            index=row,
        )
        for row, places in enumerate(supervised)
    ]
    return lay_out([Pack(sequences=(each,)) for each in made])


def test_a_token_is_predicted_by_the_place_before_it() -> None:
    batch = batch_of([2, 3], [1, 3])
    # The last place of a prompt predicts the first token of its response.
    assert batch.predicting().tolist() == [1, 2, 4, 6]
    assert batch.labels().tolist() == [5, 6, 8, 10]


def test_nothing_wanted_is_predicted_nowhere() -> None:
    batch = batch_of([], [])
    assert batch.predicting().shape == batch.labels().shape == (0,)


def test_the_first_token_of_a_sequence_is_not_predicted() -> None:
    assert batch_of([0], [0]).predicting().shape == (0,)


def test_only_the_places_that_predict_have_a_gradient() -> None:
    batch = batch_of([2, 3], [1, 3])
    rng = torch.Generator().manual_seed(0)
    hidden = torch.randn(2, 4, 4, generator=rng).requires_grad_()
    head = Head(weight=torch.randn(12, 4, generator=rng))
    places = hidden.flatten(0, 1)[batch.predicting()]
    chunked_loss(places, head, CrossEntropy(batch.labels()), torch.ones(4)).backward()
    assert hidden.grad is not None
    learned = hidden.grad.flatten(0, 1).any(dim=1).nonzero()[:, 0]
    assert learned.tolist() == [1, 2, 4, 6]


@given(lengths=LENGTHS)
def test_a_row_holds_its_sequences_whole_with_positions_that_begin_anew(
    lengths: list[int],
) -> None:
    packs = pack(sequences(*lengths), 12, seed=0)
    batch = lay_out(packs)
    assert batch.indices == tuple(s.index for each in packs for s in each.sequences)
    for row, each in enumerate(packs):
        start = 0
        for sequence in each.sequences:
            place = (row, slice(start, start + len(sequence)))
            assert torch.equal(batch.ids[place], sequence.ids)
            assert torch.equal(batch.supervised[place], sequence.supervised)
            assert batch.positions[place].tolist() == list(range(len(sequence)))
            start += len(sequence)
        assert not batch.supervised[row, start:].any()


def test_what_predicts_a_label_is_the_token_before_it_in_the_same_sequence() -> None:
    batch = lay_out(pack(sequences(5, 3, 8, 2, 7, 1), 10, seed=1))
    before, positions = batch.predicting(), batch.positions.flatten()
    assert torch.equal(batch.ids.flatten()[before + 1], batch.labels())
    assert torch.equal(positions[before] + 1, positions[before + 1])


def test_the_first_token_of_a_sequence_is_never_supervised_by_the_one_before() -> None:
    wrong = [
        Sequence(ids=torch.ones(3).long(), supervised=torch.ones(3).bool(), index=n)
        for n in range(2)
    ]
    batch = lay_out([Pack(sequences=tuple(wrong))])
    assert batch.supervised.tolist() == [[False, True, True, False, True, True]]


def test_packs_follow_from_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        packs = pack(sequences(*range(1, 13)), 12, seed=seed, epoch=epoch)
        return [sequence.index for each in packs for sequence in each.sequences]

    assert order(1, 2) == order(1, 2)
    assert len({tuple(order(*names)) for names in ((1, 2), (1, 3), (2, 2))}) == 3


def test_packs_of_many_sequences_are_nearly_full() -> None:
    rng = torch.Generator().manual_seed(1)
    lengths = torch.randint(10, 1000, (3 * WINDOW,), generator=rng).tolist()
    packs = pack(sequences(*lengths), 2048, seed=0)
    assert sum(map(len, packs)) > 0.98 * 2048 * len(packs)


def test_a_sequence_longer_than_a_pack_is_refused() -> None:
    with pytest.raises(RecipeError, match="a sequence of 9 tokens does not fit a pack of 8"):
        pack(sequences(3, 9), 8, seed=0)


def model_of(name: str, attention: str) -> transformers.PreTrainedModel:
    kind, config, values = CAUSAL[name]
    with torch.random.fork_rng():
        torch.random.manual_seed(0)
        model = getattr(transformers, kind)._from_config(
            getattr(transformers, config)(**values), attn_implementation=attention
        )
    return model.eval()


@pytest.mark.parametrize(
    ("name", "attention"),
    [("Llama", "sdpa"), ("Gemma3", "sdpa"), ("Gemma2", "eager"), ("GPT2", "sdpa")],
)
@pytest.mark.parametrize("rows", [1, 2, 3])
@torch.no_grad()
def test_a_packed_sequence_has_the_logits_of_one_that_is_alone(
    name: str, attention: str, rows: int
) -> None:
    model = model_of(name, attention)
    for parameter in model.parameters():
        parameter.mul_(4)  # so that what is seen makes a difference
    packs = pack(sequences(9, 6, 14, 3, 8, 5, 11)[: 2 * rows + 1], 16, seed=0)[:rows]
    batch = lay_out(packs)
    read = {"input_ids": batch.ids, "position_ids": batch.positions, "use_cache": False}
    logits = model(**read).logits
    for row, each in enumerate(packs):
        start = 0
        for sequence in each.sequences:
            alone = model(input_ids=sequence.ids[None]).logits[0]
            found = logits[row, start : start + len(sequence)]
            torch.testing.assert_close(found, alone, atol=1e-5, rtol=1e-5)
            start += len(sequence)
    assert keeps_apart(model)


@torch.no_grad()
def test_a_model_that_mixes_the_sequences_of_a_pack_is_found() -> None:
    config = transformers.OPTConfig(**SIZES | {"ffn_dim": 24, "word_embed_proj_dim": 16})
    with torch.random.fork_rng():
        torch.random.manual_seed(0)
        model = transformers.OPTForCausalLM(config).eval()
    assert not keeps_apart(model)
