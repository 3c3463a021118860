# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The engine's contract against the recording of the real engine (tests/fixtures/weights/engine-asks.json)."""

from __future__ import annotations

import json

import pytest
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights import engine, merge
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights.checks import full_name
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights.model import parse_model, read_config

from tests.unit.plugins.module_utils.weights.builders import FIXTURES, R1_CONFIG

RECORD = json.loads((FIXTURES / "engine-asks.json").read_text())
FOLDER = FIXTURES / "tiny-msmodelslim" / "w8a8"
FILES = {"config.json", "configuration_deepseek.py", "generation_config.json", "tokenizer.json", "tokenizer_config.json"}


@pytest.fixture(scope="module")
def plan():
    return merge.prepare(merge.Options(str(FOLDER), str(FIXTURES / "tiny-msmodelslim" / "gguf"), "/nowhere/out")).plan


@pytest.fixture
def tensors(plan):
    return {item.name: engine.Tensor(item.dtype, item.shape, item.ggml_type) for item in plan.tensors()}


@pytest.fixture
def config():
    return dict(read_config(str(FOLDER)), torch_dtype="float16")


def found(tensors, config, files=FILES, version="4.43.2", pairs=False):
    model = parse_model(config, "config.json")
    return engine.check(engine.Weights(tensors, config, files, pairs, True), model, version)


def names_of(asks):
    return [full_name(layer, f"{module}.{ask.suffix}") for layer, module, ask in asks]


def test_the_engine_s_own_requests(tensors, config):
    asked = [item["name"] for item in RECORD["asked"]]
    wanted = names_of(engine.wanted(parse_model(config, "config.json"), set(tensors)))
    # output.weight is asked twice; within the pair gate/up of the shared experts the engine alternates.
    assert sorted(wanted) == sorted(set(asked)) and len(wanted) == 134
    modules = [name.rsplit(".", 1)[0] for name in asked[:-1] if not name.endswith("ggml_type")]
    ours = [name.rsplit(".", 1)[0] for name in wanted if not name.endswith("ggml_type")]
    assert list(dict.fromkeys(ours)) == list(dict.fromkeys(modules))


def test_its_words_when_one_is_missing(tensors, config):
    said = {item["name"]: item["if_missing"] for item in RECORD["asked"]}
    for layer, module, ask in engine.wanted(parse_model(config, "config.json"), set(tensors)):
        name = full_name(layer, f"{module}.{ask.suffix}")
        text = ask.missing.format(name=name, module=full_name(layer, module))
        assert text.startswith("loads silently") if said[name] == "loads silently" else text == said[name]


def test_a_good_merge_has_no_problem(tensors, config):
    assert found(tensors, config) == []


@pytest.mark.parametrize("name", [item["name"] for item in RECORD["asked"]])
def test_each_tensor_is_missed(tensors, config, name):
    tensors.pop(name)
    problems = found(tensors, config)
    assert problems and all(item["severity"] == "error" for item in problems)
    # A dense or shared linear without its deq_scale is dynamic; all others are named.
    assert any(name in item["observed"] or name in item["expected"] for item in problems)


def test_the_words_of_a_problem(tensors, config):
    for layer in range(3):
        tensors.pop(f"blk.{layer}.attn_norm.bias")
    assert found(tensors, config) == [{
        "id": "engine_tensor_missing", "severity": "error",
        "observed": "the engine asks for blk.0.attn_norm.bias, blk.1.attn_norm.bias, blk.2.attn_norm.bias, which the merge does not have",
        "expected": "attn_norm.bias in every layer that has the module (without it: KeyError: 'Key blk.0.attn_norm.bias not found in Safetensor files')",
        "repair": "Export with the norm biases (msModelSlim quant_deepseek_w8a8.py with anti-outlier, not --disable_anti and no modelslim_v1 recipe)",
    }]


@pytest.mark.parametrize("name, tensor, ident", [
    ("blk.0.attn_q_a.deq_scale", engine.Tensor("F32", (255,)), "engine_shape"),
    ("blk.0.attn_q_a.deq_scale", engine.Tensor("I64", (256,)), "engine_deq_scale_i64"),
    ("blk.0.attn_q_a.weight", engine.Tensor("F8_E4M3", (256, 256)), "engine_dtype"),
    ("blk.0.attn_q_a.quant_bias", engine.Tensor("F32", (256,)), "engine_dtype"),
    ("blk.0.attn_q_a.input_scale", engine.Tensor("BF16", (2,)), "engine_shape"),
    ("blk.0.ffn_gate.weight_scale", engine.Tensor("BF16", (256, 2)), "engine_shape"),
    ("blk.1.ffn_gate_exps.weight", engine.Tensor("U8", (100,)), "engine_shape"),
    ("blk.1.ffn_gate_exps.weight", engine.Tensor("F32", (110592,)), "engine_dtype"),
    ("blk.1.ffn_gate_exps.ggml_type", engine.Tensor("I64", (2,), 12), "engine_shape"),
    ("blk.1.exp_probs_b.bias", engine.Tensor("BF16", (4,)), "engine_shape"),
    ("token_embd.weight", engine.Tensor("BF16", (320, 128)), "engine_shape"),
    ("blk.2.attn_kv_b.weight", engine.Tensor("I8", (256, 256)), "engine_dtype"),
])
def test_what_the_engine_never_checks(tensors, config, name, tensor, ident):
    tensors[name] = tensor
    problems = found(tensors, config)
    assert [item["id"] for item in problems] == [ident]
    assert name in problems[0]["observed"]


@pytest.mark.parametrize("name, tensor", [
    ("blk.1.ffn_gate_exps.ggml_type", engine.Tensor("I32", (1,), 12)),
    ("blk.1.ffn_gate_exps.weight", engine.Tensor("U8", (3, 36864))),
    ("blk.0.ffn_gate.weight_scale", engine.Tensor("F32", (256, 1))),
    ("blk.0.attn_q_a.weight_scale", engine.Tensor("BF16", (256, 1))),
    ("blk.0.attn_norm.module.weight", engine.Tensor("BF16", (256,))),
    ("blk.3.eh_proj.weight", engine.Tensor("BF16", (256, 512))),
])
def test_what_the_engine_takes(tensors, config, name, tensor):
    tensors[name] = tensor
    assert found(tensors, config) == []


@pytest.mark.parametrize("change, files, version, ident", [
    pytest.param({"quantize": None}, FILES, "4.43.2", "engine_quantize", id="no-quantize"),
    pytest.param({"quantize": "W8A8_DYNAMIC"}, FILES, "4.43.2", "engine_quantize", id="quantize-capitals"),
    pytest.param({"torch_dtype": "bfloat16"}, FILES, "4.43.2", "engine_torch_dtype", id="bfloat16"),
    pytest.param({"torch_dtype": None}, FILES, "4.43.2", "engine_torch_dtype", id="no-torch-dtype"),
    pytest.param({"rope_scaling": None}, FILES, "4.43.2", "engine_rope_scaling", id="no-rope"),
    pytest.param({"rope_scaling": {"type": "linear"}}, FILES, "4.43.2", "engine_rope_scaling", id="other-rope"),
    pytest.param({"architectures": None}, FILES, "4.43.2", "engine_architectures", id="no-architectures"),
    pytest.param({"architectures": ["DeepseekV2ForCausalLM"]}, FILES, "4.43.2", "engine_architectures", id="v2"),
    pytest.param({"auto_map": None}, FILES, "4.43.2", "engine_auto_map", id="no-auto-map"),
    pytest.param({"auto_map": None}, FILES, "4.57.1", "engine_auto_map", id="no-auto-map-deepseekv2-is-never-known"),
    pytest.param({"auto_map": {"AutoConfig": ["x"]}}, FILES, "4.43.2", "engine_auto_map_file", id="odd-auto-map"),
    pytest.param({}, FILES - {"configuration_deepseek.py"}, "4.43.2", "engine_auto_map_file", id="no-python-file"),
    pytest.param({}, FILES - {"configuration_deepseek.py"}, "4.57.1", "engine_auto_map_file", id="no-python-file-4.57"),
    pytest.param({}, FILES - {"tokenizer.json"}, "4.43.2", "engine_tokenizer_missing", id="no-tokenizer"),
    pytest.param({}, FILES - {"tokenizer_config.json"}, "4.43.2", "engine_tokenizer_missing", id="no-tokenizer-config"),
])
def test_config_and_files(tensors, config, change, files, version, ident):
    config.update(change)
    assert [item["id"] for item in found(tensors, config, files, version)] == [ident]


def test_deepseek_v3_is_known_since_4_51(tensors, config):
    config.update(auto_map=None, model_type="deepseek_v3")
    assert found(tensors, config, version="4.51.3") == []
    assert [item["id"] for item in found(tensors, config, version="4.43.2")] == ["engine_auto_map"]


@pytest.mark.parametrize("version, ids", [("4.43.2", ["engine_tokenizer_merges"]), ("4.45.0", []), ("4.57.1", [])])
def test_merges_as_pairs(tensors, config, version, ids):
    assert [item["id"] for item in found(tensors, config, version=version, pairs=True)] == ids


@pytest.mark.parametrize("raw, pairs", [
    (b'{"model": {"merges": [["a", "b"]]}}', True), (b'{"model": {"merges": ["a b"]}}', False), (b'{"model": {"merges": []}}', False),
    (b'{"vocab": {"merges": 5}, "merges" : [\n [ "a"', True), (b"{}", False),
])
def test_form_of_merges(raw, pairs):
    assert engine.merges_are_pairs(raw) is pairs


def test_another_format_is_one_problem(tensors, config):
    only = {name: tensor for name, tensor in tensors.items() if tensor.dtype == "BF16"}
    assert [item["id"] for item in found(only, config)] == ["engine_format"]


def test_warnings_do_not_fail(tensors, config):
    weights = engine.as_weights(tensors, config, {"tokenizer.json": b"{}", "tokenizer_config.json": b"{}", "configuration_deepseek.py": b""})
    problems = engine.check(weights, parse_model(config, "config.json"), "4.43.2")
    assert [(item["id"], item["severity"]) for item in problems] == [("engine_chat_template", "warning"), ("engine_generation_config", "warning")]


def test_r1_asks():
    model = parse_model(R1_CONFIG, "config.json")
    wanted = names_of(engine.wanted(model, set(_static_names(model))))
    # 2 outside + norm 2; attention 25 and norms 4 a layer; 3 dense linears of 3; 6 + 2 + 9 in a MoE layer.
    assert len(wanted) == len(set(wanted)) == 4 + 61 * 29 + 3 * 9 + 58 * 17


def _static_names(model):
    for layer in range(model.num_hidden_layers):
        for module in ("attn_q_a", "attn_q_b", "attn_kv_a_mqa", "attn_output"):
            yield f"blk.{layer}.{module}.deq_scale"
