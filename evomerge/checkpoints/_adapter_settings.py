"""The settings of a PEFT LoRA adapter, as far as they decide what the merged tensors are.

PEFT keeps adding variants of LoRA. A setting that is not known here to leave the merge alone is
refused, so that an adapter is never merged as something it is not.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from evomerge.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

Number = TypeVar("Number", int, float)

# Settings of training, of loading, or of choosing modules: the stored tensors already show them.
_WITHOUT_EFFECT = frozenset(
    {
        "auto_mapping", "base_model_name_or_path", "corda_config", "ensure_weight_tying",
        "eva_config", "exclude_modules", "inference_mode", "layers_pattern",
        "layers_to_transform", "lora_dropout", "lora_ga_config", "megatron_config",
        "megatron_core", "peft_version", "qalora_group_size", "revision", "runtime_config",
        "target_modules", "task_type",
    }
)  # fmt: skip
_UNDERSTOOD = frozenset(
    {
        "alpha_pattern", "bias", "fan_in_fan_out", "init_lora_weights", "loftq_config",
        "lora_alpha", "peft_type", "r", "rank_pattern", "use_rslora",
    }
)  # fmt: skip
_REFUSED = {
    "use_dora": "DoRA",
    "modules_to_save": "whole modules beside the low-rank ones (modules_to_save)",
    "trainable_token_indices": "trained token embeddings (trainable_token_indices)",
    "lora_bias": "biases of its own (lora_bias)",
    "target_parameters": "parameters outside linear layers (target_parameters)",
    "layer_replication": "replicated layers (layer_replication)",
    "use_qalora": "a quantised base (use_qalora)",
    "loftq_config": "a quantised base (loftq_config)",
    "quantization_config": "a quantised base (quantization_config)",
}
# Other ways of initialising also change the base, so the adapter does not fit the base on disk.
_INITIALISATIONS = frozenset(
    {"", "true", "false", "none", "gaussian", "eva", "orthogonal", "mica"}
)
MERGE_WITH_PEFT = "merge it with PEFT (merge_and_unload) and use the resulting model"


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterSettings:
    """What scales the low-rank products of one adapter.

    Attributes:
        rank: Rank of modules that no pattern names.
        alpha: Numerator of the scaling of modules that no pattern names.
        ranks: Other ranks, by regular expression for the end of a module's name.
        alphas: Other numerators, likewise.
        rank_stabilised: Divide by the root of the rank instead of the rank.
        fan_in_fan_out: The weights are stored as (in, out).
        declared_base: The model that the adapter says it was trained on.
    """

    rank: int
    alpha: float
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]
    rank_stabilised: bool
    fan_in_fan_out: bool
    declared_base: str | None

    def rank_of(self, module: str) -> int:
        """Return the rank of one module."""
        return _lookup(self.ranks, module, default=self.rank)

    def scaling(self, module: str) -> float:
        """Return the factor on the low-rank product of one module."""
        rank, alpha = self.rank_of(module), _lookup(self.alphas, module, default=self.alpha)
        return alpha / math.sqrt(rank) if self.rank_stabilised else alpha / rank


def parse_settings(config: Mapping[str, Any], file: Path) -> AdapterSettings:
    """Check the content of an adapter_config.json.

    Raises:
        ModelError: The adapter is none that can be merged tensor by tensor, or a value is wrong.
    """
    if config.get("peft_type") != "LORA":
        raise ModelError(
            f"{file}: peft_type is {config.get('peft_type')!r}, only 'LORA' can be merged; "
            f"{MERGE_WITH_PEFT}."
        )
    _check_variants(config, file)
    declared = config.get("base_model_name_or_path")
    return AdapterSettings(
        rank=_positive_integer(config.get("r", 8), f"{file}: r"),
        alpha=_number(config.get("lora_alpha", 8), f"{file}: lora_alpha"),
        ranks=_patterns(config, "rank_pattern", file, _positive_integer),
        alphas=_patterns(config, "alpha_pattern", file, _number),
        rank_stabilised=bool(config.get("use_rslora")),
        fan_in_fan_out=bool(config.get("fan_in_fan_out")),
        declared_base=declared if isinstance(declared, str) and declared else None,
    )


def _check_variants(config: Mapping[str, Any], file: Path) -> None:
    for key, what in _REFUSED.items():
        if config.get(key):
            raise ModelError(f"{file}: the adapter has {what}; {MERGE_WITH_PEFT}.")
    if config.get("bias", "none") != "none":
        raise ModelError(
            f"{file}: bias is {config['bias']!r}, only 'none' can be merged; {MERGE_WITH_PEFT}."
        )
    initialisation = config.get("init_lora_weights")
    if str(initialisation).lower() not in _INITIALISATIONS:
        raise ModelError(
            f"{file}: init_lora_weights={initialisation!r} changed the base too; save the adapter "
            "again with PEFT's path_initial_model_for_weight_conversion."
        )
    for key in sorted(config.keys() - _WITHOUT_EFFECT - _UNDERSTOOD):
        if config[key]:
            raise ModelError(
                f"{file}: {key!r} is set, and what it does to a merge is not known; "
                f"{MERGE_WITH_PEFT}."
            )


def _patterns(
    config: Mapping[str, Any], key: str, file: Path, parse: Callable[[object, str], Number]
) -> dict[str, Number]:
    patterns = config.get(key) or {}
    if not isinstance(patterns, dict):
        raise ModelError(f"{file}: {key} must map module names to numbers.")
    try:
        for pattern in patterns:
            re.compile(_anchored(pattern))
    except re.error as error:
        raise ModelError(f"{file}: {key} has an invalid regular expression: {error}.") from error
    return {pattern: parse(value, f"{file}: {key}") for pattern, value in patterns.items()}


def _lookup(patterns: Mapping[str, Number], module: str, *, default: Number) -> Number:
    # peft.utils.other.get_pattern_key: the first pattern that matches decides.
    for pattern, value in patterns.items():
        if re.match(_anchored(pattern), module):
            return value
    return default


def _anchored(pattern: str) -> str:
    return rf"(.*\.)?({pattern})$"


def _positive_integer(value: object, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ModelError(f"{where}: expected an integer of at least 1, found {value!r}.")
    return value


def _number(value: object, where: str) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e30:
        return value  # the comparison refuses NaN, infinity and integers too large for a float
    raise ModelError(f"{where}: expected a finite number, found {value!r}.")
