"""Models are read as if they had been trained with the vocabulary of the merge."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from evomerge.checkpoints import TensorHeader
from evomerge.errors import MergeError, ModelError
from evomerge.merging.vocabulary.plan import plan_vocabulary
from evomerge.merging.vocabulary.remapped import Embeddings, Remapped
from evomerge.merging.vocabulary.rows import vocabulary_tensors
from evomerge.recipe.vocabulary import TokenizerSettings

EMBEDDING, HEAD, NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"


@dataclass
class Memory:
    """A checkpoint in memory."""

    reference: str
    tensors: dict[str, Tensor]
    vocab_size: int

    is_released: bool = False

    folder = Path("nowhere")

    @property
    def config(self) -> dict[str, Any]:
        return {"vocab_size": self.vocab_size}

    @property
    def headers(self) -> dict[str, TensorHeader]:
        return {
            name: TensorHeader(
                dtype=tensor.dtype, shape=tuple(tensor.shape), file=self.folder, start=0, end=0
            )
            for name, tensor in self.tensors.items()
        }

    def read(self, name: str) -> Tensor:
        return self.tensors[name]

    def release(self) -> None:
        self.is_released = True

    def identity(self) -> str:
        return f"{self.reference} {[tensor.tolist() for tensor in self.tensors.values()]}"


def model(name: str, rows: list[float], dtype: torch.dtype = torch.float32) -> Memory:
    embedding = torch.tensor([[value, -value] for value in rows], dtype=dtype)
    tensors = {EMBEDDING: embedding, HEAD: embedding * 2, NORM: torch.ones(2, dtype=dtype)}
    return Memory(name, tensors, len(rows))


def remap(
    models: dict[str, Memory], vocabularies: dict[str, dict[str, int]], **settings: Any
) -> dict[str, Remapped]:
    plan = plan_vocabulary(vocabularies, "base", TokenizerSettings.model_validate(settings))
    embeddings = Embeddings(plan, models)
    return {name: Remapped(each, name, embeddings) for name, each in models.items()}


def column(remapped: Remapped, name: str = EMBEDDING) -> list[float]:
    return remapped.read(name)[:, 0].tolist()


MODELS = {
    "base": model("base", [1, 2, 3]),
    "one": model("one", [10, 20, 30]),
    "two": model("two", [100, 200, 300, 400]),
}
VOCABULARIES = {
    "base": {"a": 0, "b": 1, "c": 2},
    "one": {"b": 0, "d": 1, "a": 2},
    "two": {"d": 0, "a": 1, "e": 3},
}


def test_rows_go_where_their_tokens_are_and_missing_ones_are_filled():
    found = remap(MODELS, VOCABULARIES, source="union")
    # a, b, c, d, e; the mean of d is (20 + 100) / 2.
    assert column(found["base"]) == [1, 2, 3, 60, 400]
    assert column(found["one"]) == [30, 10, 3, 20, 400]
    assert column(found["two"]) == [200, 2, 3, 100, 400]


def test_the_head_is_moved_as_the_embedding_is():
    found = remap(MODELS, VOCABULARIES, source="union")
    for each in found.values():
        assert torch.equal(each.read(HEAD), 2 * each.read(EMBEDDING))


def test_rows_without_a_token_are_the_mean_of_all_others():
    found = remap(MODELS, VOCABULARIES, source="base", pad_to_multiple_of=5)
    assert column(found["base"]) == [1, 2, 3, 2, 2]
    assert column(found["two"]) == [200, 2, 3, pytest.approx(205 / 3), pytest.approx(205 / 3)]


def test_named_embeddings_zeros_and_force():
    tokens = {
        "a": {"source": "one", "force": True},
        "b": {"source": {"kind": "zero"}},
        "x": {"source": {"kind": "model_token", "model": "two", "token_id": 2}},
    }
    found = remap(MODELS, VOCABULARIES, source="base", tokens=tokens)
    assert column(found["base"]) == [30, 2, 3, 300]
    assert column(found["one"]) == [30, 10, 3, 300]
    assert column(found["two"]) == [30, 0, 3, 300]


def test_an_id_beyond_the_embeddings_is_refused():
    source = {"kind": "model_token", "model": "two", "token_id": 4}
    message = r"tokens\.'x': token_id 4 is not in two, which has 4 embeddings"
    with pytest.raises(MergeError, match=message):
        remap(MODELS, VOCABULARIES, source="base", tokens={"x": {"source": source}})


def test_other_tensors_are_as_they_were():
    found = remap(MODELS, VOCABULARIES, source="union")
    assert found["one"].read(NORM) is MODELS["one"].tensors[NORM]
    assert found["one"].headers[NORM] == MODELS["one"].headers[NORM]


def test_memory_is_given_back_by_the_checkpoint_that_was_read():
    models = {"base": model("base", [1]), "one": model("one", [1])}
    remap(models, {"base": {"a": 0}, "one": {"a": 0}})["one"].release()
    assert [each.is_released for each in models.values()] == [False, True]


def test_headers_tell_the_new_shape_and_the_stored_dtype():
    models = MODELS | {"one": model("one", [10, 20, 30], torch.bfloat16)}
    header = remap(models, VOCABULARIES, source="union")["one"].headers[HEAD]
    assert header.shape == (5, 2)
    assert header.dtype == torch.bfloat16


def test_what_is_averaged_is_not_rounded_to_the_stored_dtype():
    models = {
        name: model(name, rows, torch.bfloat16)
        for name, rows in {"base": [1.0], "one": [1.0], "two": [1.0078125]}.items()
    }
    vocabularies = {"base": {"a": 0}, "one": {"b": 0}, "two": {"b": 0}}
    found = remap(models, vocabularies, source="union")
    assert column(found["base"]) == [1, 1.00390625]  # between two numbers of bfloat16


def test_a_vocabulary_that_all_share_changes_no_bit():
    models = {name: model(name, [0.1, 0.2], torch.bfloat16) for name in ("base", "one")}
    same = {"a": 0, "b": 1}
    found = remap(models, {"base": same, "one": same}, source="union")
    for each in found.values():
        assert each.read(EMBEDDING).dtype == torch.bfloat16
        assert torch.equal(each.read(EMBEDDING), models["base"].read(EMBEDDING))


def test_the_fingerprint_changes_with_the_vocabulary_and_with_who_gives_rows():
    def identity(models: dict[str, Memory], **settings: Any) -> str:
        return remap(models, VOCABULARIES, **settings)["base"].identity()

    first = identity(MODELS, source="union")
    assert identity(MODELS, source="union") == first
    other = MODELS | {"two": model("two", [100, 200, 300, 401])}
    assert len({first, identity(MODELS, source="base"), identity(other, source="union")}) == 3


def test_rows_of_another_size_are_refused():
    wide = model("two", [1, 2, 3, 4])
    wide.tensors[EMBEDDING] = torch.ones(4, 3)
    with pytest.raises(ModelError, match=r"two: tensor .* rows of shape \(3,\), other models of"):
        remap(MODELS | {"two": wide}, VOCABULARIES, source="union")["base"].read(EMBEDDING)


def test_embeddings_of_positions_are_no_vocabulary():
    tensors = {"wte.weight": torch.ones(4, 2), "wpe.weight": torch.ones(4, 2)}
    tensors |= {"lm_head.bias": torch.ones(4), "classifier.weight": torch.ones(3, 2)}
    assert vocabulary_tensors(Memory("m", tensors, 4)) == {"wte.weight", "lm_head.bias"}


def test_an_embedding_with_other_rows_than_the_configuration_says_is_refused():
    odd = Memory("m", {EMBEDDING: torch.ones(5, 2)}, 4)
    with pytest.raises(ModelError, match=r"m: tensor .* has shape \(5, 2\), config.json"):
        vocabulary_tensors(odd)


def test_a_vocabulary_in_the_second_axis_is_refused():
    odd = Memory("m", {EMBEDDING: torch.ones(4, 2), "final_logits_bias": torch.ones(1, 4)}, 4)
    with pytest.raises(ModelError, match=r"'final_logits_bias' has shape \(1, 4\)"):
        vocabulary_tensors(odd)


@pytest.mark.parametrize("size", [None, 0, True, "4"])
def test_a_model_that_does_not_tell_its_vocabulary_is_refused(size):
    with pytest.raises(ModelError, match=r"config\.json has no vocab_size"):
        vocabulary_tensors(Memory("m", {EMBEDDING: torch.ones(4, 2)}, size))


def test_a_model_without_an_embedding_is_refused():
    with pytest.raises(ModelError, match="has no embedding of 4 rows"):
        vocabulary_tensors(Memory("m", {NORM: torch.ones(4)}, 4))


@given(st.permutations(range(4)), st.sampled_from(["base", "union", "intersection"]))
def test_a_source_with_permuted_ids_gives_the_same_tensors(order, source):
    rows = [5.0, 6.0, 7.0, 8.0]
    tokens = {"a": 0, "c": 1, "d": 2, "e": 3}
    turned_rows = [rows[old] for old in order]
    turned_tokens = {token: order.index(old) for token, old in tokens.items()}
    # Two has no token that is new to both others, so the order of new tokens stays.
    vocabularies = VOCABULARIES | {"one": {"a": 0, "d": 1, "e": 2}}
    plain = remap(
        MODELS | {"two": model("two", rows)}, vocabularies | {"two": tokens}, source=source
    )
    turned = remap(
        MODELS | {"two": model("two", turned_rows)},
        vocabularies | {"two": turned_tokens},
        source=source,
    )
    for name, each in plain.items():
        assert torch.equal(each.read(HEAD), turned[name].read(HEAD))
