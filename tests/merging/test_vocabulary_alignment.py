"""A merge of models with different vocabularies is a model that works."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from vocabulary_family import BASE, ONE, TWO, build_model, build_models, tokens_of

from evomerge.checkpoints import open_checkpoint, tokenizer_files
from evomerge.errors import MergeError, ModelError, RecipeError
from evomerge.merging.export import export_checkpoint
from evomerge.merging.sources import SourceLibrary
from evomerge.merging.vocabulary.alignment import Alignment, align, result_files
from evomerge.merging.vocabulary.token_ids import (
    renumber,
    with_token_ids_of,
    with_vocabulary_size,
)
from evomerge.recipe.merge import MergeRecipe

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from evomerge.checkpoints import Checkpoint


def recipe_of(*sources: Any, **fields: Any) -> MergeRecipe:
    document = {"base": "base", "operator": "linear", "sources": sources or ["one", "two"]}
    return MergeRecipe.model_validate(document | fields)


def opener(root: Path) -> Callable[[str], Checkpoint]:
    return lambda reference: open_checkpoint(reference, root=root)


def config_of(alignment: Alignment) -> dict[str, Any]:
    """config.json of a merge; the base is called `base`."""
    return alignment.config(alignment.models["base"].config)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `base`, `one` and `two`; never write to it."""
    root = tmp_path_factory.mktemp("models")
    build_models(root)
    return root


def logits(folder: Path, ids: list[int]) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        found: torch.Tensor = model(torch.tensor([ids])).logits[0]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("source", ["union", "one"])
def test_with_all_the_weight_on_a_source_the_merge_computes_as_it_does(models, tmp_path, source):
    sources = [{"model": "one", "parameters": {"weight": 1}}, "two"]
    settings = {"source": source, "pad_to_multiple_of": 32}
    recipe = recipe_of(*sources, parameters={"weight": 0}, tokenizer=settings)
    export_checkpoint(recipe, SourceLibrary(models), tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    own = AutoTokenizer.from_pretrained(models / "one")
    words = ["<|im_start|>", "cat", "Ġwo", "he", "<|end|>"]
    theirs = logits(models / "one", own.convert_tokens_to_ids(words))
    ours = logits(tmp_path / "out", tokenizer.convert_tokens_to_ids(words))
    assert ours.shape[1] % 32 == 0
    tokens = sorted(own.get_vocab())
    torch.testing.assert_close(
        ours[:, tokenizer.convert_tokens_to_ids(tokens)],
        theirs[:, own.convert_tokens_to_ids(tokens)],
    )


def test_task_vectors_of_tokens_that_only_the_base_has_are_zero(models, tmp_path):
    recipe = recipe_of(
        operator="task_arithmetic", parameters={"weight": 0.5}, tokenizer={"source": "union"}
    )
    alignment = align(recipe, opener(models))
    row = alignment.plan.vocabulary()["hello"]
    rows = [each.read("lm_head.weight")[row] for each in alignment.models.values()]
    assert torch.equal(rows[0], rows[1])
    assert torch.equal(rows[0], rows[2])


def test_the_configuration_tells_the_new_size_and_ids(models):
    found = align(recipe_of(tokenizer={"source": "intersection"}), opener(models))
    config = config_of(found)
    assert config["vocab_size"] == len(found.plan.tokens) == 256 + 1 + 1
    assert (
        config["eos_token_id"] == found.plan.vocabulary()["<|end|>"] != tokens_of(BASE)["<|end|>"]
    )
    assert config["bos_token_id"] is None
    assert config["architectures"] == ["LlamaForCausalLM"]


def test_the_ids_of_special_tokens_are_those_of_the_tokenizer_that_is_taken(models):
    config = config_of(align(recipe_of(tokenizer={"source": "two"}), opener(models)))
    assert config["eos_token_id"] == tokens_of(TWO)["<|end|>"]


def test_padding_without_tokens_is_dropped_unless_it_is_asked_for(models):
    # The base has six rows more than tokens.
    found = align(recipe_of(tokenizer={"source": "base"}), opener(models))
    assert config_of(found)["vocab_size"] == len(tokens_of(BASE))


def test_tokens_without_an_embedding_are_not_there(tmp_path):
    build_model(tmp_path / "base", BASE, seed=1)
    build_model(tmp_path / "one", ONE, seed=2, rows=tokens_of(ONE)["<|im_start|>"])
    found = align(recipe_of("one", tokenizer={"source": "union"}), opener(tmp_path))
    assert "<|im_start|>" not in found.plan.vocabulary()
    assert "<|end|>" in found.plan.vocabulary()


def test_without_a_wish_the_files_are_those_of_the_base(models):
    files = result_files(recipe_of(), opener(models))
    assert files == {f.name: f.read_bytes() for f in tokenizer_files(models / "base")}


def test_a_template_can_be_asked_for_alone(models):
    files = result_files(recipe_of(chat_template="chatml"), opener(models))
    assert b"<|im_start|>" in files.pop("chat_template.jinja")
    assert files == result_files(recipe_of(), opener(models))


def test_auto_changes_nothing_where_no_model_has_a_template(models):
    files = result_files(recipe_of(chat_template="auto"), opener(models))
    assert files == result_files(recipe_of(), opener(models))


def test_a_recipe_without_a_tokenizer_is_not_aligned(models):
    with pytest.raises(RecipeError, match="tokenizer: is missing"):
        align(recipe_of(), opener(models))


def test_a_model_without_tokens_is_refused(tmp_path):
    build_model(tmp_path / "base", BASE, seed=1)
    (tmp_path / "base" / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"base: has no tokenizer\.json or vocab\.json"):
        align(recipe_of("base", tokenizer={}), opener(tmp_path))


def test_an_embedding_that_does_not_exist_is_refused(models):
    tokens = {"<x>": {"source": {"kind": "model_token", "model": "one", "token_id": 264}}}
    with pytest.raises(MergeError, match="token_id 264 is not in one, which has 264 embeddings"):
        align(recipe_of(tokenizer={"tokens": tokens}), opener(models))


def test_a_base_that_is_a_source_too_counts_once(models):
    twice = align(recipe_of("base", "one", tokenizer={}), opener(models))
    once = align(recipe_of("one", tokenizer={}), opener(models))
    assert twice.plan == once.plan


def test_the_size_is_written_where_the_configuration_has_it():
    nested = {"model_type": "x", "text_config": {"vocab_size": 5, "hidden_size": 5}}
    assert with_vocabulary_size(nested, 8) == {
        "model_type": "x",
        "text_config": {"vocab_size": 8, "hidden_size": 5},
    }
    assert with_vocabulary_size(nested | {"vocab_size": 5}, 8)["vocab_size"] == 8


def test_every_setting_that_names_tokens_by_id_is_renumbered():
    settings = {
        "eos_token_id": [1, 2],
        "pad_token_id": 2,
        "bos_token_id": None,
        "image_token_index": 3,
        "suppress_tokens": [3, 1],
        "text_config": {"eos_token_id": 1, "hidden_size": 1},
        "num_hidden_layers": 2,
    }
    assert renumber(settings, {1: 10, 3: 30}) == {
        "eos_token_id": [10],
        "pad_token_id": None,
        "bos_token_id": None,
        "image_token_index": 30,
        "suppress_tokens": [30, 10],
        "text_config": {"eos_token_id": 10, "hidden_size": 1},
        "num_hidden_layers": 2,
    }


def test_ids_are_taken_from_the_model_whose_tokenizer_is_taken():
    settings = {"pad_token_id": 1, "n_layer": 2, "text_config": {"eos_token_id": 5, "n": 1}}
    donor = {"bos_token_id": 7, "n_layer": 9, "text_config": {"eos_token_id": 6, "n": 2}}
    assert with_token_ids_of(settings, donor) == {
        "pad_token_id": None,
        "bos_token_id": 7,
        "n_layer": 2,
        "text_config": {"eos_token_id": 6, "n": 1},
    }
