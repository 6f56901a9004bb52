"""Builds a tiny model family and local tasks: real files, random weights, built in a second."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

WORDS = ["red", "green", "blue", "cat", "dog", "bird", "one", "two", "three", "sun", "moon", "sea"]


def load_tensors(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a model folder, read by safetensors itself."""
    return {k: t for file in folder.glob("*.safetensors") for k, t in load_file(file).items()}


def build_family(
    out: Path, *, layers: int = 2, tied: bool = True, dtype: str = "bfloat16", **sizes: int
) -> None:
    """Write `base`, the siblings `one`, `two` (sharded) and `three`, and the adapter `lora`."""
    base = _save_base(out / "base", layers, sizes, tied=tied, dtype=getattr(torch, dtype))
    for index, name in enumerate(("one", "two", "three"), start=1):
        sibling = LlamaForCausalLM.from_pretrained(out / "base", dtype=getattr(torch, dtype))
        rng = torch.Generator().manual_seed(index)
        with torch.no_grad():
            for parameter in sibling.parameters():
                noise = torch.randn(parameter.shape, generator=rng) * 0.05
                parameter.add_(noise.to(parameter.dtype))
        shard = "20KB" if name == "two" else "1GB"
        sibling.save_pretrained(out / name, max_shard_size=shard)
        _tokenizer().save_pretrained(out / name)
    _save_adapter(out / "lora", base, layers)


def _save_base(
    folder: Path, layers: int, sizes: dict[str, int], *, tied: bool, dtype: torch.dtype
) -> LlamaForCausalLM:
    tokenizer = _tokenizer()
    usual = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
    }
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        num_hidden_layers=layers,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **(usual | sizes),
    )
    with torch.random.fork_rng():
        torch.random.manual_seed(0)  # transformers draws from the global generator
        model = LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            # Larger than transformers' own start, so that answers differ between models.
            if parameter.dim() > 1:
                parameter.mul_(8)
    model.to(dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


def _tokenizer() -> PreTrainedTokenizerFast:
    characters = [*pre_tokenizers.ByteLevel.alphabet()]
    vocabulary = {"<|end|>": 0, **{c: i for i, c in enumerate(sorted(characters), start=1)}}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|end|>"
    )


def _save_adapter(folder: Path, base: LlamaForCausalLM, layers: int) -> None:
    folder.mkdir()
    rng = torch.Generator().manual_seed(9)
    tensors = {}
    for layer in range(layers):
        for module in ("self_attn.q_proj", "mlp.up_proj"):
            weight = base.get_submodule(f"model.layers.{layer}.{module}").weight
            prefix = f"base_model.model.model.layers.{layer}.{module}"
            tensors[f"{prefix}.lora_A.weight"] = torch.randn(4, weight.shape[1], generator=rng)
            tensors[f"{prefix}.lora_B.weight"] = (
                torch.randn(weight.shape[0], 4, generator=rng) * 0.1
            )
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "base",
        "r": 4,
        "lora_alpha": 8,
        "bias": "none",
        "target_modules": ["q_proj", "up_proj"],
    }
    (folder / "adapter_config.json").write_text(json.dumps(settings))


def build_tasks(out: Path, items: int = 40) -> None:
    """Write four local lm-eval tasks, one of each request type, and their documents."""
    out.mkdir(parents=True)
    pairs = [(a, b) for a in WORDS for b in WORDS if a != b][:items]
    _write_task(
        out,
        "tiny_choice",
        [
            {
                "question": f"{a} and {b} make",
                "choices": [f"{a}.", f"{b}.", "sky."],
                "label": i % 3,
            }
            for i, (a, b) in enumerate(pairs)
        ],
        output_type="multiple_choice",
        doc_to_text="{{question}}",
        doc_to_choice="choices",
        doc_to_target="label",
        metric_list=[_metric("acc")],
    )
    _write_task(
        out,
        "tiny_answer",
        [{"question": f"{a} {b}", "answer": b} for a, b in pairs],
        output_type="generate_until",
        doc_to_text="{{question}}",
        doc_to_target="{{answer}}",
        generation_kwargs={"until": ["\n", " "], "max_gen_toks": 4, "do_sample": False},
        metric_list=[_metric("exact_match")],
    )
    _write_task(
        out,
        "tiny_cloze",
        [{"text": a, "end": f"{b}."} for a, b in pairs],
        output_type="loglikelihood",
        doc_to_text="{{text}}",
        doc_to_target="{{end}}",
        metric_list=[_metric("acc")],
    )
    _write_task(
        out,
        "tiny_text",
        # Every other text is longer than the model's window, and all end differently: lm-eval
        # 0.4.13 mis-scores two windows that read the same tokens but score different numbers.
        [
            {
                "text": " ".join(
                    [a, b, *WORDS[i % 12 :], *(f"{n}{a}{b}" for n in range(i % 2 * 40))]
                )
            }
            for i, (a, b) in enumerate(pairs)
        ],
        output_type="loglikelihood_rolling",
        doc_to_text="",
        doc_to_target="{{text}}",
        metric_list=[
            {
                "metric": "byte_perplexity",
                "aggregation": "weighted_perplexity",
                "higher_is_better": False,
            }
        ],
    )


def _metric(name: str) -> dict[str, object]:
    return {"metric": name, "aggregation": "mean", "higher_is_better": True}


def _write_task(
    out: Path, name: str, documents: list[dict[str, object]], **settings: object
) -> None:
    data = out / f"{name}.jsonl"
    data.write_text("".join(json.dumps(document) + "\n" for document in documents))
    task = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "target_delimiter": " ",
        **settings,
    }
    # JSON is YAML.
    (out / f"{name}.yaml").write_text(json.dumps(task, indent=1))
