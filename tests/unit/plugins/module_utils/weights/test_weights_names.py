# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json

import pytest
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights import names

from tests.unit.plugins.module_utils.weights.builders import FIXTURES


@pytest.mark.parametrize("path", sorted(FIXTURES.glob("*/expected-*.json")), ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_names_are_those_of_the_reference(path):
    tensors = json.loads(path.read_text())["tensors"]
    pairs = {tensor["source_name"]: name for name, tensor in tensors.items() if tensor["source"] == "safetensors"}
    assert {source: names.engine_name(source) for source in pairs} == pairs


@pytest.mark.parametrize("name, expected", [
    ("model.layers.7.self_attn.q_a_proj.bias", "blk.7.attn_q_a.bias"),
    ("model.layers.7.input_layernorm.module.weight", "blk.7.attn_norm.module.weight"),
    ("model.layers.7.self_attn.fa_q.scale", "blk.7.self_attn.fa_q.scale"),
    ("model.layers.7.self_attn.rotary_emb.inv_freq", "blk.7.self_attn.rotary_emb.inv_freq"),
    ("model.layers.7.mlp.gate.weight", "blk.7.ffn_gate_inp.weight"),
    ("model.layers.7.mlp.gate.e_score_correction_bias", "blk.7.exp_probs_b.bias"),
    ("model.layers.7.mlp.gate_proj.weight_scale", "blk.7.ffn_gate.weight_scale"),
    ("model.norm.module.bias", "output_norm.module.bias"),
    ("lm_head.weight", "output.weight"),
    ("lm_head", "lm_head"),
    ("model.layers.x.mlp.gate.weight", "model.layers.x.mlp.gate.weight"),
    ("something.else", "something.else"),
])
def test_engine_name(name, expected):
    assert names.engine_name(name) == expected


@pytest.mark.parametrize("name, layer", [
    ("model.layers.0.x", 0), ("model.layers.61.mlp.gate.weight", 61), ("model.layers.07.x", None), ("model.layers.-1.x", None),
    ("model.layers.999999.x", None), ("model.layers.1", 1), ("model.norm.weight", None), ("model.layers.٣.x", None),
])
def test_layer_of(name, layer):
    assert names.layer_of(name) == layer


@pytest.mark.parametrize("name, label", [
    ("token_embd.weight", "embedding"), ("output.weight", "head"), ("output_norm.bias", "norm"), ("blk.3.attn_q_a_norm.weight", "norm"),
    ("blk.3.attn_q_a.weight", "attention"), ("blk.3.ffn_gate_inp.weight", "router"), ("blk.3.exp_probs_b.bias", "router"),
    ("blk.3.ffn_up_exps.weight", "experts"), ("blk.3.ffn_up.12.weight", "experts"), ("blk.3.ffn_up.weight", "dense"),
    ("blk.3.ffn_up_shexp.weight_scale", "shared"), ("blk.3.indexer.weight", "other"), ("rope_freqs.weight", "other"),
])
def test_tensor_class(name, label):
    assert names.tensor_class(name) == label
