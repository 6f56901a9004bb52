"""Promise: a checkpoint becomes a live model that holds exactly its tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from tiny_family import build_family
from transformers import GPT2Config, GPT2LMHeadModel

from evomerge.checkpoints import open_checkpoint
from evomerge.errors import ModelError
from evomerge.evaluation.passes.tokens import Tokenizer
from evomerge.live_model import load_checkpoint, load_model, load_outline, stored_names

if TYPE_CHECKING:
    from pathlib import Path

CPU = torch.device("cpu")


@pytest.mark.parametrize("reference", ["one", "two", "base+lora"])
def test_a_live_model_holds_the_tensors_of_its_checkpoint(family: Path, reference: str) -> None:
    reference = reference.replace("+", f"+{family}/")
    checkpoint = open_checkpoint(reference, root=family)
    model, tokenizer = load_checkpoint(checkpoint, torch.float32, CPU)
    parameters = dict(model.named_parameters())
    assert parameters.keys() == checkpoint.headers.keys()
    for name, parameter in parameters.items():
        assert torch.equal(parameter, checkpoint.read(name).float()), name
        assert not parameter.requires_grad
    assert tokenizer("a")["input_ids"]


def test_a_checkpoint_saved_without_the_decoders_name_is_matched() -> None:
    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=20))
    stored = {name.removeprefix("transformer.") for name, _ in model.named_parameters()}
    names = stored_names(model, stored)
    assert names["transformer.h.0.attn.c_attn.weight"] == "h.0.attn.c_attn.weight"
    assert set(names.values()) == stored


def test_a_tied_model_stored_under_the_heads_name_is_matched(family: Path) -> None:
    checkpoint = open_checkpoint("one", root=family)
    model, _ = load_checkpoint(checkpoint, torch.float32, CPU)
    stored = {*checkpoint.headers, "lm_head.weight"} - {"model.embed_tokens.weight"}
    assert stored_names(model, stored)["model.embed_tokens.weight"] == "lm_head.weight"


def test_a_parameter_that_is_not_stored_is_named(family: Path) -> None:
    model, _ = load_checkpoint(open_checkpoint("one", root=family), torch.float32, CPU)
    with pytest.raises(ModelError, match=r"parameter model.embed_tokens.weight .* no such tensor"):
        stored_names(model, {"model.norm.weight"})


def test_an_untied_head_is_a_parameter_of_its_own(tmp_path: Path) -> None:
    build_family(tmp_path, layers=1, tied=False)
    checkpoint = open_checkpoint("one", root=tmp_path)
    model, _ = load_checkpoint(checkpoint, torch.float32, CPU)
    names = stored_names(model, checkpoint.headers)
    assert names["lm_head.weight"] == "lm_head.weight"
    assert len(set(names.values())) == len(checkpoint.headers)


def test_an_outline_says_of_a_model_what_the_model_says_of_itself(family: Path) -> None:
    outline, tokenizer = load_outline(family / "two")
    assert all(parameter.is_meta for parameter in outline.parameters())
    without, whole = (
        Tokenizer(*loaded)
        for loaded in ((outline, tokenizer), load_model(family / "two", torch.float32, CPU))
    )
    assert without.ends == whole.ends == {tokenizer.eos_token_id}
    assert (without.max_length, without.pad_id) == (whole.max_length, whole.pad_id)


def test_an_outline_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="transformers cannot load it"):
        load_outline(tmp_path)
