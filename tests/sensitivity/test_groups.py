"""Promise: tensors are gathered by layer, and what is outside the layers by module."""

from __future__ import annotations

import pytest

from evomerge.sensitivity.groups import by_layer, group_labels, layer_group, runs


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("model.layers.7.mlp.up_proj.weight", "model.layers.7"),
        ("model.layers.12.mlp.experts.5.w1.weight", "model.layers.12"),
        ("h.3.attn.c_attn.bias", "h.3"),
        ("0.weight", "0"),
        ("model.embed_tokens.weight", "model.embed_tokens"),
        ("model.norm.weight", "model.norm"),
        ("lm_head.weight", "lm_head"),
        ("scale", "scale"),
    ],
)
def test_a_group_is_a_layer_or_a_module(name: str, group: str) -> None:
    assert layer_group(name) == group


def test_groups_are_in_the_order_of_a_forward_pass() -> None:
    names = [
        "lm_head.weight",
        "model.norm.weight",
        "model.layers.10.mlp.up_proj.weight",
        "model.layers.2.mlp.up_proj.weight",
        "model.layers.2.self_attn.q_proj.weight",
        "model.embed_tokens.weight",
    ]
    groups = by_layer({name: len(name) for name in names})
    assert list(groups) == [
        "model.embed_tokens",
        "model.layers.2",
        "model.layers.10",
        "model.norm",
        "lm_head",
    ]
    assert groups["model.layers.2"] == [len(names[3]), len(names[4])]
    assert group_labels(groups) == ["embed_tokens", "2", "10", "norm", "lm_head"]


def test_labels_that_would_be_the_same_are_written_in_full() -> None:
    assert group_labels(["encoder.0", "decoder.0", "shared"]) == [
        "encoder.0",
        "decoder.0",
        "shared",
    ]


def test_runs_are_of_consecutive_numbers() -> None:
    assert runs([]) == []
    assert runs([5, 1, 2, 3, 7, 8]) == [(1, 3), (5, 5), (7, 8)]
