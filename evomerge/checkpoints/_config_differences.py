"""Whether two config.json describe the same computation.

A value that one side leaves out takes a default of transformers that is not known here, so it is
compared only where both sides have it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evomerge.checkpoints._finding import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from evomerge.checkpoints.protocol import Checkpoint

# One row per fact; families use different names for it.
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_SIZES = (
    ("hidden_size", "n_embd", "d_model"),
    _LAYERS,
    ("num_attention_heads", "n_head", "n_heads", "num_heads"),
    ("num_key_value_heads",),
    ("head_dim",),
    ("intermediate_size", "n_inner", "ffn_dim"),
    ("num_local_experts", "num_experts"),
    ("num_experts_per_tok",),
)
_NUMERICS = (
    ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon", "norm_eps"),
    ("hidden_act", "hidden_activation", "activation_function"),
    ("attn_logit_softcapping",),
    ("final_logit_softcapping",),
    ("query_pre_attn_scalar",),
    ("attention_multiplier",),
    ("embedding_multiplier",),
    ("residual_multiplier",),
    ("logits_scaling",),
)
_NOT_SCALING = {"rope_theta", "rope_type", "type", "partial_rotary_factor"}
_TOLERATED = (("max_position_embeddings", "n_positions", "max_seq_len"), ("sliding_window",))


def compare_configs(
    base: Checkpoint, source: Checkpoint, *, one_depth: bool = True
) -> Iterator[Finding]:
    """Yield what differs in architecture, sizes, numerics and positions.

    The number of layers counts if `one_depth` is set.
    """
    ours, theirs = base.config.get("architectures"), source.config.get("architectures")
    if ours != theirs:
        yield Finding(
            severity="error",
            where=source.reference,
            message=f"architectures differ: {theirs} against {ours} in {base.reference}",
            remedy="merge models of one architecture, or leave this one out",
        )
    yield from _compare_settings(base, source, one_depth=one_depth)


def _compare_settings(
    base: Checkpoint, source: Checkpoint, *, one_depth: bool
) -> Iterator[Finding]:
    ours, theirs = _decoder(base.config), _decoder(source.config)
    sizes = _SIZES if one_depth else [names for names in _SIZES if names is not _LAYERS]
    for names in (*sizes, *_NUMERICS, *_TOLERATED):
        name, x, y = names[0], _first(ours, names), _first(theirs, names)
        if x is not None and y is not None and x != y:
            yield _difference(base, source, name, (x, y), is_error=names not in _TOLERATED)
    ours, theirs = _positions(ours), _positions(theirs)
    for name in ours:
        if name in theirs and ours[name] != theirs[name]:
            yield _difference(base, source, name, (ours[name], theirs[name]), is_error=True)


def _difference(
    base: Checkpoint, source: Checkpoint, name: str, values: tuple[Any, Any], *, is_error: bool
) -> Finding:
    ours, theirs = values
    return Finding(
        severity="error" if is_error else "warning",
        where=source.reference,
        message=f"{name} differs: {theirs!r} against {ours!r} in {base.reference}",
        remedy="merge models that share this setting, or leave this one out"
        if is_error
        else f"none needed; the merged model takes {ours!r} from {base.reference}",
    )


def _decoder(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the settings of the decoder, which models with vision or audio nest."""
    nested = config.get("text_config")
    return {**config, **nested} if isinstance(nested, dict) else config


def _first(config: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((config[name] for name in names if config.get(name) is not None), None)


def _positions(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the known rotary settings by one name each, whichever transformers wrote them.

    transformers 5 has everything in `rope_parameters`, by type of layer where these differ;
    earlier versions have `rope_theta`, `rope_local_base_freq` and `rope_scaling`.
    """
    parameters = config.get("rope_parameters") or config.get("rope_scaling")
    if not isinstance(parameters, dict):
        parameters = {}
    by_layer_type = {k: v for k, v in parameters.items() if isinstance(v, dict)}
    sliding = by_layer_type.get("sliding_attention", {})
    full = by_layer_type.get("full_attention", parameters)
    kind = full.get("rope_type") or full.get("type") or "default"
    # The default type scales nothing, whatever is written beside it.
    scaling = sorted(full.keys() - _NOT_SCALING) if kind != "default" else []
    found = {
        "rope_theta": full.get("rope_theta", config.get("rope_theta")),
        "rope_local_base_freq": sliding.get("rope_theta", config.get("rope_local_base_freq")),
        "partial_rotary_factor": full.get(
            "partial_rotary_factor", _first(config, ("partial_rotary_factor", "rotary_pct"))
        ),
        "rope type": kind,
        **{f"rope {name}": full[name] for name in scaling},
    }
    return {name: value for name, value in found.items() if value is not None}
