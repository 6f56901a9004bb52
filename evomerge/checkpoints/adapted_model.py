"""A checkpoint and a PEFT LoRA adapter, read as if they had been merged.

LoRA (Hu et al. 2021, https://arxiv.org/abs/2106.09685) adds `B A * scaling` to a weight.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from blake3 import blake3

from evomerge.checkpoints._adapter_settings import MERGE_WITH_PEFT, parse_settings
from evomerge.checkpoints._adapter_tensors import PREFIX, open_tensors, split_tensors
from evomerge.checkpoints._confinement import confined
from evomerge.checkpoints.headers import TensorHeader
from evomerge.checkpoints.json_files import parse_object, read_bytes
from evomerge.errors import ModelError
from evomerge.layout import Component, locate

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from evomerge.checkpoints.protocol import Checkpoint

# The decoders of transformers whose layers are Conv1D: weights are stored as (in, out), and PEFT
# goes by that, whatever fan_in_fan_out says.
_CONV1D_MODELS = frozenset({"gpt2", "openai-gpt"})


class AdaptedModel:
    """A base checkpoint with a low-rank update on some of its tensors.

    An updated tensor equals what PEFT's `merge_and_unload` makes of a float32 model, bit for bit.
    Only the tensor being read is ever in memory.

    Args:
        base: The checkpoint below; it may be adapted itself.
        adapter: Folder with adapter_config.json and adapter_model.safetensors.
        reference: How the user named the pair; put together from both if left out.

    Raises:
        ModelError: The adapter is incomplete, of an unknown kind, or does not fit the base.
    """

    def __init__(self, base: Checkpoint, adapter: Path, *, reference: str | None = None) -> None:
        self.base = base
        self.adapter = adapter.absolute()
        self.reference = f"{base.reference}+{adapter}" if reference is None else reference
        config_file = confined(self.adapter, "adapter_config.json")
        config_bytes = read_bytes(config_file)
        self._settings = parse_settings(parse_object(config_bytes, config_file), config_file)
        self._config_digest = blake3(config_bytes).hexdigest()
        self._file = open_tensors(self.adapter)
        self._modules = self._match_modules()
        self.headers: Mapping[str, TensorHeader] = MappingProxyType(
            {name: self._header(name, header) for name, header in base.headers.items()}
        )

    def __repr__(self) -> str:
        return f"AdaptedModel({self.reference!r})"

    @property
    def folder(self) -> Path:
        """The folder of the base."""
        return self.base.folder

    @property
    def config(self) -> Mapping[str, Any]:
        """The config.json of the base."""
        return self.base.config

    @property
    def declared_base(self) -> str | None:
        """The model that the adapter says it was trained on."""
        return self._settings.declared_base

    def read(self, name: str) -> torch.Tensor:
        """Return one tensor: updated and in float32, or the base's own."""
        update = self.low_rank(name)
        weight = self.base.read(name)
        if update is None:
            return weight
        b, a, scaling = update
        product = b @ a
        delta = (product.T if self._is_transposed(name) else product) * scaling
        return weight.to(torch.float32) + delta

    def low_rank(self, name: str) -> tuple[torch.Tensor, torch.Tensor, float] | None:
        """Return the update of one tensor, or `None` if the adapter leaves it alone.

        Returns:
            B, shape `(out, rank)`, and A, shape `(rank, in)`, both float32, and the scaling.
            The tensor itself has shape `(out, in)`, or `(in, out)` in GPT-2.
        """
        module = self._modules.get(name)
        if module is None:
            return None
        b, a = (self._file.read(h).to(torch.float32, copy=True) for h in self._pair(module))
        return b, a, self._settings.scaling(module)

    def release(self) -> None:
        """Give back the memory of what was read; tensors read before stay valid."""
        self.base.release()
        self._file.release()

    def identity(self) -> str:
        """Return a fingerprint of the base and of the adapter's files, as when opened."""
        parts = [self.base.identity(), self._config_digest, self._file.fingerprint()]
        return blake3("\n".join(parts).encode()).hexdigest()

    def _pair(self, module: str) -> tuple[TensorHeader, TensorHeader]:
        stem = f"{PREFIX}{module}"
        return self._file.headers[f"{stem}.lora_B.weight"], self._file.headers[
            f"{stem}.lora_A.weight"
        ]

    def _header(self, name: str, header: TensorHeader) -> TensorHeader:
        if name not in self._modules:
            return header
        return TensorHeader(
            dtype=torch.float32,
            shape=header.shape,
            file=header.file,
            start=header.start,
            end=header.end,
        )

    def _is_transposed(self, name: str) -> bool:
        # The head of these models is an ordinary linear layer.
        is_conv1d_model = self.config.get("model_type") in _CONV1D_MODELS
        return is_conv1d_model and locate(name).component is not Component.HEAD

    def _match_modules(self) -> dict[str, str]:
        """Return the adapted module by the name of the base tensor that it updates."""
        file = self._file.file
        if self._settings.fan_in_fan_out and self.config.get("model_type") not in _CONV1D_MODELS:
            raise ModelError(
                f"{file.parent}: fan_in_fan_out is set, but a model of type "
                f"{self.config.get('model_type')!r} stores its weights as (out, in); set it to "
                "false."
            )
        modules, unmatched = {}, []
        adapted, whole = split_tensors(self._file)
        for copied, header in whole.items():
            self._check_copy(copied, header)
        for module in adapted:
            name = self._tensor_name(module)
            if name is None:
                unmatched.append(module)
            else:
                self._check_shapes(module, name)
                modules[name] = module
        if unmatched:
            shown = ", ".join(repr(module) for module in unmatched[:3])
            raise ModelError(
                f"{file}: {len(unmatched)} adapted modules are not in {self.base.reference}: "
                f"{shown}; the adapter belongs to {self.declared_base or 'another model'!r}."
            )
        return modules

    def _tensor_name(self, module: str) -> str | None:
        # Some checkpoints are saved without the name of the decoder in front, some with it.
        without_decoder = module.partition(".")[2]
        candidates = (module, without_decoder, f"model.{module}", f"transformer.{module}")
        return next(
            (f"{c}.weight" for c in candidates if f"{c}.weight" in self.base.headers), None
        )

    def _check_copy(self, name: str, header: TensorHeader) -> None:
        """Check that a tensor saved whole is only a copy of the base's."""
        original = self.base.headers.get(name)
        is_copy = (
            original is not None
            and original.shape == header.shape
            and torch.equal(
                self._file.read(header).to(torch.float32), self.base.read(name).to(torch.float32)
            )
        )
        if not is_copy:
            raise ModelError(
                f"{self._file.file}: holds a whole tensor {name!r} that is not the one of "
                f"{self.base.reference}; {MERGE_WITH_PEFT}."
            )

    def _check_shapes(self, module: str, name: str) -> None:
        where = f"{self._file.file}: {module!r}"
        b, a = self._pair(module)
        shape = self.base.headers[name].shape
        if not (b.dtype.is_floating_point and a.dtype.is_floating_point):
            raise ModelError(f"{where}: is quantised ({a.dtype}); only float adapters are merged.")
        rank = self._settings.rank_of(module)
        if len(b.shape) != 2 or len(a.shape) != 2 or b.shape[1] != rank or a.shape[0] != rank:
            raise ModelError(
                f"{where}: lora_B {b.shape} and lora_A {a.shape} do not have rank {rank}, which "
                "adapter_config.json gives; use the config that was saved with these tensors."
            )
        updated = (b.shape[0], a.shape[1])
        if (updated[::-1] if self._is_transposed(name) else updated) != shape:
            raise ModelError(
                f"{where}: updates shape {updated}, but {name!r} of {self.base.reference} has "
                f"{shape}; the adapter belongs to {self.declared_base or 'another model'!r}."
            )
