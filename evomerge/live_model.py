"""Loads models of transformers: a skeleton to merge candidates into, or a checkpoint to run."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from evomerge.checkpoints import AdaptedModel
from evomerge.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Container, Iterator
    from pathlib import Path

    from evomerge.checkpoints import Checkpoint

_SAFELY: dict[str, Literal[False]] = {"trust_remote_code": False}


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

    with _loading(folder):
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, **_SAFELY
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, **_SAFELY)
    return model.to(device).eval().requires_grad_(requires_grad=False), tokenizer


def load_tokenizer(folder: Path) -> Any:
    """Load a tokenizer, never running code from the folder.

    Raises:
        ModelError: transformers cannot load it.
    """
    from transformers import AutoTokenizer

    with _loading(folder):
        return AutoTokenizer.from_pretrained(folder, **_SAFELY)


def load_outline(folder: Path) -> tuple[Any, Any]:
    """A causal language model without weights, for what it says of itself, and its tokenizer.

    Raises:
        ModelError: transformers cannot load it.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    with _loading(folder), torch.device("meta"):
        config = AutoConfig.from_pretrained(folder, **_SAFELY)
        model = AutoModelForCausalLM.from_config(config, **_SAFELY)
        if (folder / "generation_config.json").exists():
            model.generation_config = GenerationConfig.from_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder, **_SAFELY)
    return model, tokenizer


def blank_model(like: Any, config: dict[str, Any]) -> Any:
    """A causal language model with other layers, whose weights are still to be written.

    Args:
        like: A model of the same family, whose precision, device and ways to generate it has.
        config: What its config.json would say.

    Raises:
        ModelError: transformers cannot build it.
    """
    from transformers import AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    with _loading("a model with other layers"), no_init_weights():
        found = type(like.config).from_dict(config)
        model = AutoModelForCausalLM.from_config(found, dtype=like.dtype, **_SAFELY)
    model.generation_config = like.generation_config
    return model.to(like.device).eval().requires_grad_(requires_grad=False)


@contextmanager
def _loading(what: Path | str) -> Iterator[None]:
    """Let transformers load quietly; what it raises becomes one line."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        cause = str(error).strip().splitlines()[0]
        raise ModelError(f"{what}: transformers cannot load it: {cause}") from error


def load_checkpoint(
    checkpoint: Checkpoint, dtype: torch.dtype, device: torch.device
) -> tuple[Any, Any]:
    """Load a checkpoint, adapted or not, as a causal language model with its tokenizer.

    Raises:
        ModelError: transformers cannot load it, or runs its weights in another layout.
    """
    model, tokenizer = load_model(checkpoint.folder, dtype, device)
    if isinstance(checkpoint, AdaptedModel):
        stored = stored_names(model, checkpoint.headers)
        for name, parameter in model.named_parameters():
            parameter.copy_(checkpoint.read(stored[name]))
    return model, tokenizer


def stored_names(model: Any, stored: Container[str]) -> dict[str, str]:
    """The name in a checkpoint of each parameter of a live model, by its live name.

    The two differ where a checkpoint was saved without the name of the decoder in front, or holds
    the head of a model that ties it to the embedding.

    Raises:
        ModelError: A parameter is not in the checkpoint.
    """
    prefix = f"{model.base_model_prefix}."
    sharing: dict[int, list[str]] = {}
    for name, tensor in model.state_dict().items():
        sharing.setdefault(tensor.data_ptr(), []).append(name)
    names = {}
    for name, parameter in model.named_parameters():
        alike = [name, *sharing[parameter.data_ptr()]]
        known = [*alike, *(each.removeprefix(prefix) for each in alike)]
        found = next((each for each in known if each in stored), None)
        if found is None:
            raise ModelError(
                f"parameter {name} of the loaded model: the checkpoint has no such tensor; "
                "this architecture stores its weights in another layout than it runs them"
            )
        names[name] = found
    return names


def named_weights(model: Any, stored: Container[str]) -> dict[str, Tensor]:
    """A live model's weights by the names that a checkpoint stores them under.

    transformers renames tensors and fuses experts when it loads some architectures; what is
    returned are views of the live tensors, so that writing to them changes the model. Of names
    that share memory, such as a head that is tied to the embedding, only one is returned; stored
    tensors that the model does not use are left out.

    Args:
        model: The model, as `from_pretrained` gave it.
        stored: Names of the checkpoint's tensors.

    Raises:
        ModelError: A parameter is not made of stored tensors alone.
    """
    from transformers.core_model_loading import revert_weight_conversion

    with _KeepViews():
        views = revert_weight_conversion(model, dict(model.state_dict()))
    # Base models are stored without the name of the decoder in front.
    prefix = f"{model.base_model_prefix}."
    views |= {name.removeprefix(prefix): view for name, view in views.items()}
    own = dict(model.named_parameters())
    weights: dict[tuple[int, torch.Size], tuple[str, Tensor]] = {}
    for name in sorted(views, key=lambda name: (name not in own, name)):
        if name in stored:
            weights.setdefault((views[name].data_ptr(), views[name].shape), (name, views[name]))
    reached = {view.untyped_storage().data_ptr() for _, view in weights.values()}
    for name, parameter in own.items():
        if parameter.untyped_storage().data_ptr() not in reached:
            raise ModelError(
                f"parameter {name} of the loaded model: the checkpoint has no such tensor; "
                "this architecture stores its weights in another layout than it runs them"
            )
    return dict(weights.values())


class _KeepViews(TorchFunctionMode):
    """Leaves out the copies that transformers makes when it takes a fused tensor apart."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.contiguous:
            return args[0]
        return func(*args, **(kwargs or {}))
