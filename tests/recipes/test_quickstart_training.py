"""Training touches only the top layers' updates, repeats, and is written without loss of form."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch
from experts import write_adapter, write_checkpoint
from safetensors.torch import load_file
from training import Example, LayerwiseTrainer, TrainingPlan
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

if TYPE_CHECKING:
    from pathlib import Path

    from training import LowRank

PLAN = TrainingPlan(layers=1, rank=2, alpha=4, epochs=3, batch_size=2)
EXAMPLES = [
    Example(tokens=(1, 2, 3, 4), answer_length=1),
    Example(tokens=(5, 6, 7), answer_length=2),
    Example(tokens=(8, 9, 10, 11, 12), answer_length=1),
]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quickstart") / "base"
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng():
        torch.random.manual_seed(0)  # transformers draws from the global generator
        LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return folder


def trained(base: Path, seed: int = 0) -> dict[str, LowRank]:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    rng = torch.Generator().manual_seed(seed)
    return LayerwiseTrainer(model, PLAN.layers).train(EXAMPLES, PLAN, rng)


def test_training_leaves_the_base_model_as_it_was(base: Path):
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    LayerwiseTrainer(model, PLAN.layers).train(EXAMPLES, PLAN, torch.Generator())
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_only_the_top_layers_are_trained(base: Path):
    updates = trained(base)
    assert len(updates) == 7
    assert all(name.startswith("model.layers.2.") for name in updates)
    assert all(update.up.abs().sum() > 0 for update in updates.values())


def test_the_same_seed_trains_the_same_expert(base: Path):
    first, second = trained(base), trained(base)
    assert all(torch.equal(first[name].up, second[name].up) for name in first)


def test_lower_activations_do_not_depend_on_the_batch(base: Path):
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    trainer = LayerwiseTrainer(model, PLAN.layers)
    together = trainer.lower_activations(EXAMPLES)
    alone = [trainer.lower_activations([example])[0] for example in EXAMPLES]
    torch.testing.assert_close(together, alone)


def test_a_sharded_expert_loads_like_a_whole_one(base: Path, tmp_path: Path):
    updates = trained(base)
    write_checkpoint(tmp_path / "whole", base, updates)
    write_checkpoint(tmp_path / "sharded", base, updates, shards=2)
    whole = load_file(tmp_path / "whole" / "model.safetensors")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) == 2
    sharded = AutoModelForCausalLM.from_pretrained(tmp_path / "sharded", dtype="auto")
    assert all(torch.equal(sharded.state_dict()[name], whole[name]) for name in whole)


def test_an_expert_keeps_the_tensors_of_the_base_model(base: Path, tmp_path: Path):
    write_checkpoint(tmp_path / "expert", base, trained(base))
    before = load_file(base / "model.safetensors")
    after = load_file(tmp_path / "expert" / "model.safetensors")
    forms = [{name: (t.dtype, t.shape) for name, t in part.items()} for part in (before, after)]
    assert forms[0] == forms[1]
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert len(changed) == 7


def test_an_adapter_adds_what_the_checkpoint_has_added(base: Path, tmp_path: Path):
    peft = pytest.importorskip("peft")
    updates = trained(base)
    write_adapter(tmp_path / "adapter", updates, PLAN)
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "base", "no path of the machine that built it"
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    merged = peft.PeftModel.from_pretrained(model, tmp_path / "adapter").merge_and_unload()
    for name, update in updates.items():
        delta = update.scale * update.up.detach() @ update.down.detach()
        found = merged.state_dict()[name] - before[name]
        torch.testing.assert_close(found, delta, atol=1e-3, rtol=0.05)
