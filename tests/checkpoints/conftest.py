"""Tiny models, tokenizers and adapters, built from seeds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers

from evomerge.checkpoints import ModelFolder

if TYPE_CHECKING:
    from collections.abc import Callable


def fill(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Give every parameter random values that depend on `seed` alone."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in sorted(model.named_parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


def _save_tokenizer(folder: Path, words: tuple[str, ...] = ("hello", "world")) -> None:
    vocabulary = {"<unk>": 0} | {word: i for i, word in enumerate(words, start=1)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def _save_llama(folder: Path, *, seed: int = 0, **settings: Any) -> Path:
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {
        "num_hidden_layers": 2,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 64,
        "max_position_embeddings": 128,
    }
    save_settings = {k: settings.pop(k) for k in ("max_shard_size",) if k in settings}
    model = fill(LlamaForCausalLM(LlamaConfig(**(shape | settings))), seed)
    model.save_pretrained(folder, **save_settings)
    _save_tokenizer(folder)
    return folder


def _save_gpt2(folder: Path, *, seed: int = 0) -> Path:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(n_layer=2, n_embd=32, n_head=4, vocab_size=64, n_positions=64)
    fill(GPT2LMHeadModel(config), seed).save_pretrained(folder)
    return folder


def _edit_json(file: Path, **changes: Any) -> None:
    """Set keys of a JSON file; `None` removes one."""
    content = json.loads(file.read_text()) | changes
    removed = {key for key, value in changes.items() if value is None}
    file.write_text(json.dumps({k: v for k, v in content.items() if k not in removed}))


def _save_folder(folder: Path, tensors: dict[str, torch.Tensor], **config: Any) -> Path:
    """Write a model folder by hand, without transformers."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"} | config
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep every test off the network."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer Llama with a tokenizer; read-only."""
    return _save_llama(tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture(scope="session")
def sharded_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same Llama in several shards; read-only."""
    folder = tmp_path_factory.mktemp("models") / "sharded"
    return _save_llama(folder, max_shard_size="40KB")


@pytest.fixture
def folder(llama_folder: Path, tmp_path: Path) -> Path:
    """A copy of the Llama to spoil."""
    return Path(shutil.copytree(llama_folder, tmp_path / "model"))


@pytest.fixture
def shards(sharded_folder: Path, tmp_path: Path) -> Path:
    """A copy of the sharded Llama to spoil."""
    return Path(shutil.copytree(sharded_folder, tmp_path / "shards"))


@pytest.fixture
def llama(llama_folder: Path) -> ModelFolder:
    return ModelFolder(llama_folder)


# The builders as fixtures, because test modules cannot import this file.


@pytest.fixture(scope="session")
def save_llama() -> Callable[..., Path]:
    return _save_llama


@pytest.fixture(scope="session")
def save_gpt2() -> Callable[..., Path]:
    return _save_gpt2


@pytest.fixture(scope="session")
def save_folder() -> Callable[..., Path]:
    return _save_folder


@pytest.fixture(scope="session")
def save_tokenizer() -> Callable[..., None]:
    return _save_tokenizer


@pytest.fixture(scope="session")
def edit_json() -> Callable[..., None]:
    return _edit_json
