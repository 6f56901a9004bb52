"""A tensor's place is told from its name, in every common family of decoders."""

from __future__ import annotations

import pytest

from evomerge.checkpoints import Component, Place, layer_count, locate

A, M, N, E, H, X = (
    Component.ATTENTION,
    Component.MLP,
    Component.NORM,
    Component.EMBEDDING,
    Component.HEAD,
    Component.OTHER,
)


@pytest.mark.parametrize(
    ("name", "layer", "component"),
    [
        ("model.embed_tokens.weight", None, E),
        ("model.layers.0.self_attn.q_proj.weight", 0, A),
        ("model.layers.11.self_attn.o_proj.bias", 11, A),
        ("model.layers.3.self_attn.q_norm.weight", 3, N),
        ("model.layers.3.self_attn.k_norm.weight", 3, N),
        ("model.layers.3.mlp.gate_proj.weight", 3, M),
        ("model.layers.3.input_layernorm.weight", 3, N),
        ("model.layers.3.post_attention_layernorm.weight", 3, N),
        ("model.layers.3.pre_feedforward_layernorm.weight", 3, N),
        ("model.layers.3.post_feedforward_layernorm.weight", 3, N),
        ("model.norm.weight", None, N),
        ("lm_head.weight", None, H),
        ("model.layers.2.self_attn.qkv_proj.weight", 2, A),
        ("model.layers.2.mlp.gate_up_proj.weight", 2, M),
        ("model.layers.7.block_sparse_moe.experts.5.w1.weight", 7, M),
        ("model.layers.7.block_sparse_moe.gate.weight", 7, M),
        ("model.layers.7.mlp.experts.gate_up_proj", 7, M),
        ("model.layers.7.mlp.shared_expert.up_proj.weight", 7, M),
        ("model.language_model.layers.4.self_attn.v_proj.weight", 4, A),
        ("wte.weight", None, E),
        ("transformer.wpe.weight", None, E),
        ("h.0.attn.c_attn.weight", 0, A),
        ("transformer.h.5.ln_1.bias", 5, N),
        ("transformer.h.5.mlp.c_fc.weight", 5, M),
        ("transformer.ln_f.weight", None, N),
        ("gpt_neox.embed_in.weight", None, E),
        ("gpt_neox.layers.1.attention.query_key_value.weight", 1, A),
        ("gpt_neox.layers.1.attention.rotary_emb.inv_freq", 1, A),
        ("gpt_neox.layers.1.mlp.dense_h_to_4h.weight", 1, M),
        ("gpt_neox.final_layer_norm.weight", None, N),
        ("embed_out.weight", None, H),
        ("transformer.word_embeddings.weight", None, E),
        ("word_embeddings_layernorm.weight", None, N),
        ("transformer.h.2.self_attention.dense.weight", 2, A),
        ("transformer.h.2.ln_attn.weight", 2, N),
        ("transformer.h.2.input_layernorm.weight", 2, N),
        ("model.decoder.embed_tokens.weight", None, E),
        ("model.decoder.embed_positions.weight", None, E),
        ("model.decoder.layers.0.self_attn.out_proj.weight", 0, A),
        ("model.decoder.layers.0.self_attn_layer_norm.weight", 0, N),
        ("model.decoder.layers.0.fc1.weight", 0, M),
        ("model.decoder.final_layer_norm.weight", None, N),
        ("transformer.blocks.3.norm_1.weight", 3, N),
        ("transformer.blocks.3.attn.Wqkv.weight", 3, A),
        ("transformer.blocks.3.ffn.up_proj.weight", 3, M),
        ("transformer.norm_f.weight", None, N),
        ("model.layers.0.mystery.weight", 0, X),
        ("", None, X),
    ],
)
def test_a_name_gives_layer_and_component(name, layer, component):
    assert locate(name) == Place(layer=layer, component=component)


def test_every_tensor_of_real_models_has_a_place(llama):
    assert all(locate(name).component is not X for name in llama.headers)


def test_the_layers_are_counted(llama):
    assert layer_count(llama.headers) == 2
    assert layer_count(["h.9.attn.weight", "h.3.attn.weight"]) == 10


def test_without_layers_the_count_is_zero():
    assert layer_count([]) == 0
    assert layer_count(["lm_head.weight"]) == 0


def test_a_component_is_its_own_word():
    assert Component.ATTENTION == "attention"
