"""Loads the model skeleton that candidates are merged into."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from evomerge.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def choose_device(wanted: str) -> torch.device:
    """The device that `auto`, `cpu`, `cuda` or `cuda:N` means here.

    Raises:
        ModelError: A GPU is asked for and there is none.
    """
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted != "cpu" and not torch.cuda.is_available():
        raise ModelError(f"device {wanted} is not available; use cpu or auto")
    return torch.device(wanted)


def choose_dtype(wanted: str, device: torch.device) -> torch.dtype:
    """The precision of forward passes; `auto` is float32 on a CPU and bfloat16 on a GPU."""
    if wanted == "auto":
        # Most CPUs emulate bfloat16, which is several times slower than float32.
        wanted = "float32" if device.type == "cpu" else "bfloat16"
    return getattr(torch, wanted)  # type: ignore[no-any-return]


def load_model(folder: Path, dtype: torch.dtype, device: torch.device) -> tuple[Any, Any]:
    """Load a causal language model and its tokenizer, never running code from the folder.

    Raises:
        ModelError: transformers cannot load it.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    safely: dict[str, Literal[False]] = {"trust_remote_code": False}
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, **safely
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, **safely)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        cause = str(error).strip().splitlines()[0]
        raise ModelError(f"{folder}: transformers cannot load it: {cause}") from error
    return model.to(device).eval().requires_grad_(requires_grad=False), tokenizer


def named_weights(model: Any) -> tuple[Mapping[str, Tensor], frozenset[str]]:
    """The model's tensors by the names they have in a checkpoint, and the names of repeats.

    A repeat, such as a head that is tied to the embedding, shares its memory with another tensor.
    """
    weights = dict(model.state_dict())
    owners = {name for name, _ in (*model.named_parameters(), *model.named_buffers())}
    return weights, frozenset(weights) - owners
