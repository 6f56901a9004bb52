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
_SIZES = (
    ("hidden_size", "n_embd", "d_model"),
    ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
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
    ("rotary_pct", "partial_rotary_factor"),
    ("attn_logit_softcapping",),
    ("final_logit_softcapping",),
    ("query_pre_attn_scalar",),
    ("attention_multiplier",),
    ("embedding_multiplier",),
    ("residual_multiplier",),
    ("logits_scaling",),
)
_TOLERATED = (("max_position_embeddings", "n_positions", "max_seq_len"), ("sliding_window",))


def compare_configs(base: Checkpoint, source: Checkpoint) -> Iterator[Finding]:
    """Yield what differs in architecture, sizes, numerics and positions."""
    if base.config["architectures"] != source.config["architectures"]:
        yield Finding(
            severity="error",
            where=source.reference,
            message=f"architectures differ: {source.config['architectures']} against "
            f"{base.config['architectures']} in {base.reference}",
            remedy="merge models of one architecture, or leave this one out",
        )
    ours, theirs = _decoder(base.config), _decoder(source.config)
    for names in (*_SIZES, *_NUMERICS, *_TOLERATED):
        name, x, y = names[0], _first(ours, names), _first(theirs, names)
        if x is not None and y is not None and x != y:
            yield _difference(base, source, name, (x, y), is_error=names not in _TOLERATED)
    ours, theirs = _positions(ours), _positions(theirs)
    for name in ("rope_theta", "rope_local_base_freq"):
        if None not in (ours[name], theirs[name]) and ours[name] != theirs[name]:
            yield _difference(base, source, name, (ours[name], theirs[name]), is_error=True)
    name = "rope_scaling"
    if ours[name] != theirs[name]:
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
    """Return the rotary settings in one form, whichever version of transformers wrote them.

    transformers 5 has everything in `rope_parameters`, by type of layer where these differ;
    earlier versions have `rope_theta`, `rope_local_base_freq` and `rope_scaling`.
    """
    parameters = config.get("rope_parameters") or config.get("rope_scaling") or {}
    by_layer_type = {k: v for k, v in parameters.items() if isinstance(v, dict)}
    sliding = by_layer_type.get("sliding_attention", {})
    scaling = dict(by_layer_type.get("full_attention", parameters))
    theta = scaling.pop("rope_theta", None)
    scaling_type = scaling.pop("rope_type", None) or scaling.pop("type", None) or "default"
    scaling.pop("type", None)  # some files have both
    # The default type scales nothing, whatever else is written beside it.
    scales = scaling_type != "default"
    return {
        "rope_theta": config.get("rope_theta") if theta is None else theta,
        "rope_local_base_freq": sliding.get("rope_theta", config.get("rope_local_base_freq")),
        "rope_scaling": {"rope_type": scaling_type, **scaling} if scales else None,
    }
