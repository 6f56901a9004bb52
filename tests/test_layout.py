"""A tensor's place is told from its name, in every common family."""

from __future__ import annotations

import subprocess
import sys

import pytest

from evomerge.layout import Component, Place, layer_count, locate

A, M, N, E, H, X = (
    Component.ATTENTION,
    Component.MLP,
    Component.NORM,
    Component.EMBEDDING,
    Component.HEAD,
    Component.OTHER,
)

LLAMA = [
    ("model.embed_tokens.weight", None, E),
    ("model.layers.0.self_attn.q_proj.weight", 0, A),
    ("model.layers.11.self_attn.o_proj.bias", 11, A),
    ("model.layers.3.mlp.gate_proj.weight", 3, M),
    ("model.layers.3.input_layernorm.weight", 3, N),
    ("model.layers.3.post_attention_layernorm.weight", 3, N),
    ("model.layers.3.self_attn.rotary_emb.inv_freq", 3, A),
    ("model.norm.weight", None, N),
    ("lm_head.weight", None, H),
]
QWEN = [
    ("model.layers.3.self_attn.q_norm.weight", 3, N),
    ("model.layers.3.self_attn.k_norm.weight", 3, N),
    ("model.layers.3.self_attn.k_proj.bias", 3, A),
    ("model.layers.3.linear_attn.in_proj_qkvz.weight", 3, A),
    ("model.layers.3.mlp.shared_expert_gate.weight", 3, M),
    ("model.layers.7.mlp.shared_expert.up_proj.weight", 7, M),
    ("model.layers.7.mlp.experts.127.up_proj.weight", 7, M),
    ("model.layers.7.mlp.experts.gate_up_proj", 7, M),
]
GEMMA = [
    ("model.layers.3.pre_feedforward_layernorm.weight", 3, N),
    ("model.layers.3.post_feedforward_layernorm.weight", 3, N),
    ("model.language_model.layers.4.self_attn.v_proj.weight", 4, A),
    ("language_model.model.layers.4.self_attn.k_norm.weight", 4, N),
    ("language_model.lm_head.weight", None, H),
    ("model.embed_tokens_per_layer.weight", None, E),
    ("model.per_layer_model_projection.weight", None, E),
    ("model.per_layer_projection_norm.weight", None, N),
]
MIXTRAL = [
    ("model.layers.7.block_sparse_moe.experts.5.w1.weight", 7, M),
    ("model.layers.7.block_sparse_moe.gate.weight", 7, M),
    ("model.layers.7.self_attn.q_proj.weight", 7, A),
]
PHI = [
    ("model.layers.2.self_attn.qkv_proj.weight", 2, A),
    ("model.layers.2.mlp.gate_up_proj.weight", 2, M),
    ("model.layers.2.self_attn.dense.weight", 2, A),
    ("model.layers.2.mlp.fc1.bias", 2, M),
    ("model.final_layernorm.weight", None, N),
]
OLMO2 = [
    ("model.layers.1.post_attention_layernorm.weight", 1, N),
    ("model.layers.1.post_feedforward_layernorm.weight", 1, N),
    ("model.layers.1.self_attn.q_norm.weight", 1, N),
    ("model.layers.1.self_attn.v_proj.weight", 1, A),
]
INTERNLM2 = [
    ("model.tok_embeddings.weight", None, E),
    ("model.layers.0.attention.wqkv.weight", 0, A),
    ("model.layers.0.feed_forward.w1.weight", 0, M),
    ("model.layers.0.attention_norm.weight", 0, N),
    ("model.layers.0.ffn_norm.weight", 0, N),
    ("output.weight", None, H),
]
DEEPSEEK = [
    ("model.layers.0.self_attn.kv_a_proj_with_mqa.weight", 0, A),
    ("model.layers.0.self_attn.kv_a_layernorm.weight", 0, N),
    ("model.layers.1.mlp.shared_experts.down_proj.weight", 1, M),
    ("model.layers.1.mlp.gate.e_score_correction_bias", 1, M),
]
GPT2 = [
    ("wte.weight", None, E),
    ("transformer.wpe.weight", None, E),
    ("h.0.attn.c_attn.weight", 0, A),
    ("transformer.h.5.attn.c_proj.bias", 5, A),
    ("transformer.h.5.ln_1.bias", 5, N),
    ("transformer.h.5.mlp.c_fc.weight", 5, M),
    ("transformer.ln_f.weight", None, N),
    ("ln_f.bias", None, N),
]
GPT_NEOX = [
    ("gpt_neox.embed_in.weight", None, E),
    ("gpt_neox.layers.1.attention.query_key_value.weight", 1, A),
    ("gpt_neox.layers.1.attention.dense.bias", 1, A),
    ("gpt_neox.layers.1.attention.rotary_emb.inv_freq", 1, A),
    ("gpt_neox.layers.1.post_attention_layernorm.bias", 1, N),
    ("gpt_neox.layers.1.mlp.dense_h_to_4h.weight", 1, M),
    ("gpt_neox.final_layer_norm.weight", None, N),
    ("embed_out.weight", None, H),
]
FALCON_AND_BLOOM = [
    ("transformer.word_embeddings.weight", None, E),
    ("word_embeddings_layernorm.weight", None, N),
    ("transformer.h.2.self_attention.dense.weight", 2, A),
    ("transformer.h.2.self_attention.query_key_value.weight", 2, A),
    ("transformer.h.2.ln_attn.weight", 2, N),
    ("transformer.h.2.ln_mlp.weight", 2, N),
    ("transformer.h.2.input_layernorm.weight", 2, N),
    ("transformer.h.2.mlp.dense_4h_to_h.weight", 2, M),
]
OPT = [
    ("model.decoder.embed_tokens.weight", None, E),
    ("model.decoder.embed_positions.weight", None, E),
    ("model.decoder.project_in.weight", None, E),
    ("model.decoder.layers.0.self_attn.out_proj.weight", 0, A),
    ("model.decoder.layers.0.self_attn_layer_norm.weight", 0, N),
    ("model.decoder.layers.0.fc1.weight", 0, M),
    ("model.decoder.layers.0.final_layer_norm.weight", 0, N),
    ("model.decoder.final_layer_norm.weight", None, N),
]
MPT_AND_DBRX = [
    ("transformer.blocks.3.norm_1.weight", 3, N),
    ("transformer.blocks.3.attn.Wqkv.weight", 3, A),
    ("transformer.blocks.3.ffn.up_proj.weight", 3, M),
    ("transformer.norm_f.weight", None, N),
    ("transformer.blocks.3.norm_attn_norm.attn.Wqkv.weight", 3, A),
    ("transformer.blocks.3.norm_attn_norm.norm_2.weight", 3, N),
]
OTHERS = [
    ("model.layers.0.mystery.weight", 0, X),
    ("model.rotary_emb.inv_freq", None, X),
    ("model.layers.0.temporal_block.conv_1d.weight", 0, X),
    ("backbone.layers.0.mixer.in_proj.weight", 0, A),
    ("backbone.embeddings.weight", None, E),
    ("blocks.0.ln1.weight", 0, N),
    ("score.weight", None, H),
    ("0.attn.weight", 0, A),
    ("", None, X),
]
EXPERTS = [
    ("experts.3.w1.weight", None, M),
    ("model.experts.3.up_proj.weight", None, M),
    ("model.layers.5.mlp.experts.3.up_proj.weight", 5, M),
    ("model.layers.5.self_attention.experts.3.weight", 5, A),
    ("model.layers.5.mlp.router.weight", 5, M),
    ("backbone.layers.5.mixer.experts.3.up_proj.weight", 5, M),
    ("backbone.layers.5.mixer.gate.weight", 5, M),
    ("backbone.layers.5.mixer.q_proj.weight", 5, A),
    ("model.layers.5.block_sparse_moe.router.layer.weight", 5, M),
]
BERT = [
    ("bert.embeddings.LayerNorm.weight", None, N),
    ("bert.embeddings.token_type_embeddings.weight", None, E),
    ("bert.encoder.layer.3.attention.self.query.bias", 3, A),
    ("bert.encoder.layer.3.attention.output.dense.weight", 3, A),
    ("bert.encoder.layer.3.attention.output.LayerNorm.bias", 3, N),
    ("bert.encoder.layer.3.intermediate.dense.weight", 3, M),
    ("bert.encoder.layer.3.output.dense.weight", 3, M),
    ("bert.pooler.dense.weight", None, H),
    ("cls.predictions.transform.dense.weight", None, H),
    ("cls.predictions.bias", None, H),
    ("classifier.0.weight", None, H),
    ("vocab_projector.bias", None, H),
]
T5 = [
    ("shared.weight", None, E),
    ("encoder.block.4.layer.0.SelfAttention.q.weight", 4, A),
    ("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", 0, A),
    ("encoder.block.4.layer.1.DenseReluDense.wi_0.weight", 4, M),
    ("decoder.block.4.layer.1.EncDecAttention.v.weight", 4, A),
    ("decoder.block.4.layer.2.layer_norm.weight", 4, N),
    ("decoder.final_layer_norm.weight", None, N),
]
BESIDE_THE_LANGUAGE_MODEL = [
    ("vision_tower.vision_model.encoder.layers.3.mlp.fc1.weight", None, X),
    ("model.vision_tower.encoder.layers.3.layer_norm1.weight", None, X),
    ("model.visual.blocks.3.attn.qkv.weight", None, X),
    ("visual.merger.mlp.0.weight", None, X),
    ("model.multi_modal_projector.linear_1.weight", None, X),
    ("mm_projector.2.weight", None, X),
    ("audio_tower.layers.3.fc1.weight", None, X),
    ("mtp.layers.0.mlp.up_proj.weight", None, X),
    ("model.layers.3.mlp.vision_moe.experts.0.up_proj.weight", 3, M),
]
FAMILIES = (
    *(LLAMA, QWEN, GEMMA, MIXTRAL, PHI, OLMO2, INTERNLM2, DEEPSEEK),
    *(GPT2, GPT_NEOX, FALCON_AND_BLOOM, OPT, MPT_AND_DBRX, OTHERS),
    *(EXPERTS, BERT, T5, BESIDE_THE_LANGUAGE_MODEL),
)


@pytest.mark.parametrize(
    ("name", "layer", "component"), [row for family in FAMILIES for row in family]
)
def test_a_name_gives_layer_and_component(name, layer, component):
    assert locate(name) == Place(layer, component)


def test_the_layers_are_counted():
    assert layer_count(["h.9.attn.weight", "h.3.attn.weight", "wte.weight"]) == 10


@pytest.mark.parametrize("names", [[], ["lm_head.weight"]])
def test_without_layers_the_count_is_zero(names):
    assert layer_count(names) == 0


def test_a_component_is_its_own_word():
    assert [component.value for component in Component] == [
        *("attention", "mlp", "norm", "embedding", "head", "other")
    ]
    assert Component.ATTENTION == "attention"


def test_reading_names_needs_no_torch():
    program = "import sys, evomerge.layout; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
