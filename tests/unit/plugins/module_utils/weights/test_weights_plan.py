# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
import os
import struct
import subprocess
import sys

import pytest
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights import checks, engine, folder, gguf, merge, plan
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights.errors import WeightsError
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights.model import parse_model, read_config

from tests.unit.plugins.module_utils.weights import builders
from tests.unit.plugins.module_utils.weights.builders import CHECKOUT, FIXTURES


def made(pair="tiny-msmodelslim", form="w8a8", block=4096, sides=None, gguf_path=None, **more):
    path = FIXTURES / pair / form
    return plan.make_plan(3, folder.inspect(str(path), 3), gguf.read_set(str(gguf_path or FIXTURES / pair / "gguf")), sides or {}, block, **more)


@pytest.mark.parametrize("block", [4096, 65536])
def test_expert_files_can_share_blocks(block):
    found = made(block=block)
    stacks = [item for item in found.files if item.name.endswith("_exps.safetensors")]
    assert len(stacks) == 6
    for item in stacks:
        assert len(item.tensors) == 1 and len(item.tensors[0].pieces) == 1
        piece = item.tensors[0].pieces[0]
        assert (item.data_start - piece.offset) % block == 0
        assert len(item.header()) == item.data_start and item.data_start % 8 == 0


def test_files():
    found = made()
    names = [item.name for item in found.files]
    assert names == ["npuops-model.safetensors", "npuops-blk-00000.safetensors"] + [
        f"npuops-blk-{layer:05d}{stack}.safetensors" for layer in (1, 2) for stack in ("", "-ffn_gate_exps", "-ffn_up_exps", "-ffn_down_exps")]
    assert len(set(names)) == len(names)
    layer = next(item for item in found.files if item.name == "npuops-blk-00001.safetensors")
    assert [tensor.name for tensor in layer.tensors if tensor.name.endswith("ggml_type")] == [
        "blk.1.ffn_down_exps.ggml_type", "blk.1.ffn_gate_exps.ggml_type", "blk.1.ffn_up_exps.ggml_type"]
    widths = [plan.DTYPE_BITS[tensor.dtype] for tensor in layer.tensors]
    assert widths == sorted(widths, reverse=True)  # so that every tensor is aligned to its dtype


def test_the_digest_is_of_what_decides_the_bytes(tmp_path):
    first = made()
    assert made().digest == first.digest
    assert made(sides={"config.json": b"{}"}).digest != first.digest
    assert made(sides={"config.json": b"{ }"}).digest != made(sides={"config.json": b"{}"}).digest
    builders.copy_pair("tiny-msmodelslim", tmp_path)
    for name in ("w8a8", "gguf"):
        for path in (tmp_path / name).iterdir():
            info = (FIXTURES / "tiny-msmodelslim" / name / path.name).stat()
            os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))

    def moved():
        return plan.make_plan(3, folder.inspect(str(tmp_path / "w8a8"), 3), gguf.read_set(str(tmp_path / "gguf")), {})

    assert moved().digest == first.digest  # mounted elsewhere, the same files
    os.utime(sorted((tmp_path / "gguf").iterdir())[1], ns=(1, 1))
    changed = [item.name for item, other in zip(moved().files, first.files) if item.digest != other.digest]
    assert changed == ["npuops-blk-00001-ffn_gate_exps.safetensors", "npuops-blk-00001-ffn_up_exps.safetensors", "npuops-blk-00001-ffn_down_exps.safetensors"]


def small_gguf(path, tensors):
    builders.write_gguf(path, {"general.architecture": "deepseek2"}, tensors)
    return gguf.read_set(str(path))


def one_by_one(experts=3, skip=(), other=None):
    tensors = {}
    for layer in (1, 2):
        for stack in ("ffn_gate", "ffn_up", "ffn_down"):
            for expert in range(experts):
                if (layer, stack, expert) not in skip:
                    kind = 14 if (layer, stack, expert) == other else 12
                    tensors[f"blk.{layer}.{stack}.{expert}.weight"] = (kind, (256, 256), bytes([expert]) * gguf.tensor_bytes(kind, (256, 256)))
    return tensors


def test_experts_one_by_one_are_stacked(tmp_path):
    found = made(gguf_path=small_gguf(tmp_path / "old.gguf", one_by_one()).path)
    tensor = next(item for item in found.tensors() if item.name == "blk.2.ffn_up_exps.weight")
    raw = (tmp_path / "old.gguf").read_bytes()
    assert b"".join(raw[piece.offset:piece.offset + piece.size] for piece in tensor.pieces) == b"".join(bytes([expert]) * 36864 for expert in range(3))
    assert (tensor.dtype, tensor.shape) == ("U8", (110592,))
    scalar = next(item for item in found.tensors() if item.name == "blk.2.ffn_up_exps.ggml_type")
    assert (scalar.dtype, scalar.shape, scalar.data) == ("I64", (), struct.pack("<q", 12))
    model = parse_model(read_config(str(FIXTURES / "tiny-msmodelslim" / "w8a8")), "")
    read = gguf.read_set(str(tmp_path / "old.gguf"))
    assert checks.check_gguf(model, read, plan.expert_stacks(read, 3)) == []


@pytest.mark.parametrize("tensors, message", [
    pytest.param(one_by_one(skip={(2, "ffn_up", 1)}), "expert 1 of blk.2.ffn_up_exps is missing. Bring the GGUF again", id="missing"),
    pytest.param(one_by_one(other=(1, "ffn_up", 1)), "the experts of blk.1.ffn_up_exps differ in type or shape and cannot be stacked. "
                                                     "Use a GGUF with stacked experts", id="types"),
    pytest.param(dict(one_by_one(), **{"blk.1.ffn_up_exps.weight": (12, (256, 256, 3), None)}),
                 "has the experts of blk.1.ffn_up_exps both stacked and one by one. Bring the GGUF again", id="both"),
])
def test_experts_that_cannot_be_stacked(tmp_path, tensors, message):
    with pytest.raises(WeightsError) as caught:
        plan.expert_stacks(small_gguf(tmp_path / "old.gguf", tensors), 3)
    assert str(caught.value) == f"{tmp_path / 'old.gguf'}: {message}"


def test_f32_experts_have_their_type_too(tmp_path):
    tensors = {f"blk.1.{stack}.weight": (0, (8, 8, 2), bytes(512)) for stack in ("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps")}
    found = made(gguf_path=small_gguf(tmp_path / "f32.gguf", tensors).path)
    assert [item.data for item in found.tensors() if item.name == "blk.1.ffn_up_exps.ggml_type"] == [struct.pack("<q", 0)]


def test_the_mtp_layer_of_the_gguf_is_left_out(tmp_path):
    tensors = dict(one_by_one(), **{f"blk.3.{stack}.weight": (12, (256, 256, 3), None) for stack in ("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps")})
    found = made(gguf_path=small_gguf(tmp_path / "mtp.gguf", tensors).path)
    assert not [item.name for item in found.tensors() if item.name.startswith("blk.3.")]
    assert found.left_out["gguf_only"] == 3


def test_two_names_for_one(tmp_path):
    builders.copy_pair("tiny-msmodelslim", tmp_path)
    next((tmp_path / "w8a8").glob("*index.json")).unlink()
    builders.write_safetensors(tmp_path / "w8a8" / "zz.safetensors", {"blk.0.attn_norm.weight": ("BF16", (256,), None)})
    with pytest.raises(WeightsError, match="would both be called blk.0.attn_norm.weight. Bring the export again"):
        plan.make_plan(3, folder.inspect(str(tmp_path / "w8a8"), 3), gguf.read_set(str(tmp_path / "gguf")), {})


# Checks before the first byte


def problems_of(tmp_path, change=None, change_config=None, form="w8a8", pair="tiny-msmodelslim", other=None, **more):
    w8a8, gguf_path = builders.copy_pair(pair, tmp_path, form)
    if change_config:
        config = json.loads((w8a8 / "config.json").read_text())
        config.update(change_config)
        (w8a8 / "config.json").write_text(json.dumps(config))
    if change:
        change(w8a8, gguf_path)
    options = merge.Options(str(w8a8), str(other or gguf_path), str(tmp_path / "out"), **dict({"safetensors_format": form}, **more))
    return [item for item in merge.prepare(options).problems if item["severity"] == "error"]


def without(*victims):
    """Write the export again without some tensors (a name, or all that end with it)."""
    def change(w8a8, _gguf):
        for path in w8a8.glob("*.safetensors"):
            tensors = {name: tensor for name, tensor in builders.read_safetensors(path).items() if not name.endswith(victims)}
            builders.write_safetensors(path, tensors)
        next(w8a8.glob("*index.json")).unlink()
    return change


def resized(name, shape):
    def change(w8a8, _gguf):
        for path in w8a8.glob("*.safetensors"):
            tensors = builders.read_safetensors(path)
            if name in tensors:
                tensors[name] = (tensors[name][0], shape, None)
                builders.write_safetensors(path, tensors)
    return change


@pytest.mark.parametrize("change, config, ident, words", [
    pytest.param(without("layers.2.self_attn.o_proj.weight"), None, "tensors_missing",
                 "the safetensors folder lacks 1 tensors of the model (as the engine names them: blk.2.attn_output.weight)", id="tensor"),
    pytest.param(without("layers.1.mlp.gate.e_score_correction_bias"), None, "tensors_missing",
                 "the safetensors folder lacks 1 tensors of the model (as the engine names them: blk.1.exp_probs_b.bias)", id="router-bias"),
    pytest.param(without("layers.2.mlp.experts.1.up_proj.weight"), None, "experts_differ",
                 "the safetensors folder's experts are not those of config.json: model.layers.2.mlp.experts.*.up_proj.weight: 2", id="expert"),
    pytest.param(without("layers.2.self_attn.o_proj.deq_scale"), None, "scales_missing",
                 "1 quantized weights have no scale: blk.2.attn_output.weight", id="scale"),
    pytest.param(resized("model.layers.1.self_attn.q_a_proj.weight", (256, 128)), None, "shapes_differ",
                 "1 tensors have other shapes than config.json gives: model.layers.1.self_attn.q_a_proj.weight is [256, 128], not [256, 256]", id="shape"),
    pytest.param(None, {"num_hidden_layers": 2}, "gguf_of_another_model", "is of another model than config.json: block_count is 3, config.json gives 2",
                 id="layers"),
    pytest.param(None, {"n_routed_experts": 4}, "gguf_of_another_model", "is of another model than config.json: expert_count is 3, config.json gives 4",
                 id="experts"),
    pytest.param(None, {"first_k_dense_replace": 2}, "gguf_of_another_model", "leading_dense_block_count is 1, config.json gives 2", id="dense"),
    pytest.param(None, {"hidden_size": 512}, "gguf_of_another_model", "embedding_length is 256, config.json gives 512", id="hidden"),
])
def test_incomplete_or_unlike_halves(tmp_path, change, config, ident, words):
    problems = problems_of(tmp_path, change, config)
    assert ident in [item["id"] for item in problems]
    assert words in next(item["observed"] for item in problems if item["id"] == ident)
    assert all(item["expected"] and item["repair"] for item in problems)


def test_no_experts_on_the_safetensors_side_are_fine(tmp_path):
    def change(w8a8, _gguf):
        for path in w8a8.glob("*.safetensors"):
            builders.write_safetensors(path, {name: item for name, item in builders.read_safetensors(path).items() if ".experts." not in name})
        next(w8a8.glob("*index.json")).unlink()

    assert problems_of(tmp_path, change) == []


@pytest.mark.parametrize("form, wanted", [("w8a8", "fp8"), ("fp8", "w8a8"), ("fp8", "bf16")])
def test_the_format_is_what_the_user_says(tmp_path, form, wanted):
    problems = problems_of(tmp_path, pair="tiny-a", form=form, safetensors_format=wanted)
    assert [item["id"] for item in problems] == ["safetensors_format"]
    assert problems[0]["repair"] == f"Set safetensors_format: {form}, or give the folder of the {wanted} weights"


def test_the_gguf_of_another_architecture(tmp_path):
    builders.write_gguf(tmp_path / "llama.gguf", {"general.architecture": "llama"}, {"a": (0, (4,), bytes(16))})
    problems = problems_of(tmp_path, other=tmp_path / "llama.gguf")
    assert [item["id"] for item in problems] == ["gguf_of_another_model"]
    assert problems[0]["observed"].endswith("general.architecture is 'llama', not 'deepseek2'")


def test_the_gguf_of_another_model(tmp_path):
    problems = problems_of(tmp_path, other=FIXTURES / "tiny-deepseek-v3" / "gguf")
    assert [item["id"] for item in problems] == ["gguf_of_another_model"]
    assert "expert_count is 4, config.json gives 3; vocab_size is 384, config.json gives 320" in problems[0]["observed"]


def test_the_gguf_of_a_model_of_the_same_shapes(tmp_path):
    assert [item["id"] for item in problems_of(tmp_path, other=FIXTURES / "tiny-a" / "gguf")] == ["halves_differ"]


def test_a_rotated_export(tmp_path):
    def change(w8a8, _gguf):
        (w8a8 / "optional").mkdir()
        (w8a8 / "optional" / "quarot.safetensors").write_bytes(b"")

    problems = problems_of(tmp_path, change)
    assert [(item["id"], item["observed"]) for item in problems] == [
        ("rotated_export", "the safetensors export was rotated: optional/quarot.safetensors is there")]


@pytest.mark.parametrize("name, good", [("blk.3.nextn.eh_proj.weight", True), ("blk.3.attn_norm.weight", False)])
def test_a_gguf_that_counts_its_mtp_layer(name, good):
    path = FIXTURES / "tiny-msmodelslim"
    model = parse_model(read_config(str(path / "w8a8")), "")
    read = gguf.read_set(str(path / "gguf"))
    counted = read._replace(metadata=dict(read.metadata, **{"deepseek2.block_count": 4}), tensors=dict(read.tensors, **{name: (0, None)}))
    assert (checks.check_gguf(model, counted, plan.expert_stacks(read, 3)) == []) is good


def test_the_gguf_lacks_a_stack(tmp_path):
    model = parse_model(json.loads((FIXTURES / "tiny-msmodelslim" / "w8a8" / "config.json").read_text()), "")
    tensors = builders.gguf_tensors(model)
    tensors.pop("blk.2.ffn_up_exps.weight")
    tensors["blk.1.ffn_up_exps.weight"] = (12, (256, 256, 2), None)
    builders.write_gguf(tmp_path / "less.gguf", builders.gguf_metadata(model), tensors)
    problems = {item["id"]: item["observed"] for item in problems_of(tmp_path, other=tmp_path / "less.gguf")}
    assert problems["gguf_experts_missing"] == "the GGUF lacks 1 stacks of experts: blk.2.ffn_up_exps.weight"
    assert problems["gguf_experts_differ"] == ("the GGUF's experts are not those of config.json: blk.1.ffn_up_exps.weight is 2 x [256, 256] Q4_K, "
                                               "not 3 x [256, 256]")


@pytest.mark.parametrize("output", ["w8a8", "w8a8/out", "gguf/a/b", "."])
def test_the_output_lies_in_no_input(tmp_path, output):
    w8a8, gguf_path = builders.copy_pair("tiny-a", tmp_path)
    found = checks.check_paths(str(w8a8), str(gguf_path), str(tmp_path / output))
    assert {item["id"] for item in found} == {"output_in_input"}
    assert checks.check_paths(str(w8a8), str(next(gguf_path.iterdir())), str(tmp_path / "merged")) == []
    assert checks.check_paths(str(w8a8), str(next(gguf_path.iterdir())), str(gguf_path))
    (tmp_path / "link").symlink_to(w8a8)
    assert checks.check_paths(str(w8a8), str(gguf_path), str(tmp_path / "link" / "out"))
    assert checks.check_paths(str(w8a8), str(gguf_path), str(tmp_path / "w8a8-merged")) == []


# Formats of the quantizer's other versions (names and dtypes recorded from the real tools)


def rewritten(change):
    def rewrite(w8a8, _gguf):
        for path in w8a8.glob("*.safetensors"):
            builders.write_safetensors(path, change(builders.read_safetensors(path)))
        next(w8a8.glob("*index.json")).unlink()
    return rewrite


def ascend_v1(tensors):
    """Since June 2025: static linears have weight_scale, weight_offset and bias too; --mindie_format doubles the norms."""
    more = {}
    for name, (dtype, shape, raw) in tensors.items():
        if name.endswith(".deq_scale"):
            prefix = name[:-len("deq_scale")]
            more[prefix + "weight_scale"] = more[prefix + "weight_offset"] = ("BF16", [shape[0], 1], bytes(2 * shape[0]))
            more[prefix + "bias"] = ("BF16", shape, bytes(2 * shape[0]))
        if "layernorm." in name:
            head, suffix = name.rsplit(".", 1)
            more[f"{head}.module.{suffix}"] = (dtype, shape, raw)
    return dict(tensors, **more)


def float16(tensors):
    """An export with torch_dtype float16: deq_scale as int64."""
    return {name: ("I64", shape, b"".join(raw[at:at + 4] + b"\0\0\0\0" for at in range(0, len(raw), 4))) if name.endswith("deq_scale") else (dtype, shape, raw)
            for name, (dtype, shape, raw) in tensors.items()}


def prepared(tmp_path, change, **more):
    w8a8, gguf_path = builders.copy_pair("tiny-msmodelslim", tmp_path, stand_in=True)
    change(w8a8, gguf_path)
    return merge.prepare(merge.Options(str(w8a8), str(gguf_path), str(tmp_path / "out"), engine="ktransformers",
                                       config_overrides={"torch_dtype": "float16"}, **more))


def test_exports_since_june_2025(tmp_path):
    found = prepared(tmp_path, rewritten(ascend_v1))
    assert found.errors() == []
    names = {item.name for item in found.plan.tensors()}
    assert {"blk.0.attn_q_a.weight_scale", "blk.0.attn_q_a.bias", "blk.2.attn_norm.module.bias"} <= names


def test_deq_scale_as_int64(tmp_path):
    kept = prepared(tmp_path / "keep", rewritten(float16))
    assert [item["id"] for item in kept.errors()] == ["engine_deq_scale_i64"] * 4
    assert kept.errors()[0]["repair"] == "Set deq_scale_i64: restore, which turns them back into F32 bit for bit"
    restored = prepared(tmp_path / "restore", rewritten(float16), deq_scale_i64="restore")
    assert restored.errors() == []
    merge.execute(restored, merge.Progress())
    plain = prepared(tmp_path / "plain", lambda *_paths: None)
    merge.execute(plain, merge.Progress())
    for path in (tmp_path / "plain" / "out").glob("*.safetensors"):
        assert builders.read_safetensors(tmp_path / "restore" / "out" / path.name) == builders.read_safetensors(path)


def test_recipe_exports_have_no_norm_bias(tmp_path):
    found = prepared(tmp_path, without("norm.bias"))
    assert {item["id"] for item in found.errors()} == {"engine_tensor_missing"}
    assert any("output_norm.bias" in item["observed"] for item in found.errors())


def test_dynamic_attention(tmp_path):
    def dynamic(tensors):
        new = {}
        for name, (dtype, shape, raw) in tensors.items():
            if name.endswith(".deq_scale"):
                prefix = name[:-len("deq_scale")]
                new[prefix + "weight_scale"] = new[prefix + "weight_offset"] = ("BF16", [shape[0], 1], bytes(2 * shape[0]))
            elif not name.endswith((".quant_bias", ".input_scale", ".input_offset")):
                new[name] = (dtype, shape, raw)
        return new

    found = prepared(tmp_path, rewritten(dynamic))
    assert any("blk.0.attn_q_a.deq_scale" in item["observed"] for item in found.errors())
    assert any(item["repair"] == "Export the attention static (msModelSlim without --dynamic)" for item in found.errors())


def test_bf16_in_one_file_without_an_index(tmp_path):
    config = json.loads((FIXTURES / "tiny-msmodelslim" / "w8a8" / "config.json").read_text())
    model = parse_model(config, "")
    tensors = {name: ("BF16", shape, None) for name, (_dtype, shape, _data) in builders.w8a8_tensors(model).items()
               if name.endswith((".weight", "e_score_correction_bias"))}
    (tmp_path / "bf16").mkdir()
    (tmp_path / "bf16" / "config.json").write_text(json.dumps(config))
    builders.write_safetensors(tmp_path / "bf16" / "model.safetensors", tensors)
    builders.write_split_gguf(tmp_path / "gguf", builders.gguf_metadata(model), builders.gguf_tensors(model), 1)
    found = merge.prepare(merge.Options(str(tmp_path / "bf16"), str(tmp_path / "gguf"), str(tmp_path / "out"), "bf16"))
    assert (found.problems, found.halves.equal) == ([], 6)
    assert found.plan.left_out == {"mtp": 26, "expert_weights": 18, "expert_scales": 0, "gguf_only": len(builders.gguf_tensors(model)) - 6}
    merge.execute(found, merge.Progress())
    assert len({tensor.name for tensor in found.plan.tensors()}) == 3 + 3 * 9 + 3 + 2 * 5 + 2 * 6
    asked = merge.prepare(merge.Options(str(tmp_path / "bf16"), str(tmp_path / "gguf"), str(tmp_path / "out"), "bf16", engine="ktransformers"))
    assert "engine_format" in [item["id"] for item in asked.errors()]


def test_engine_problems_of_the_pairs_are_the_recorded_ones(tmp_path):
    """The recording's last line but two: with auto_map, float16 and rope_scaling added, the engine misses output_norm.bias."""
    for pair in ("tiny-a", "tiny-deepseek-v3"):
        w8a8, gguf_path = builders.copy_pair(pair, tmp_path / pair, stand_in=True)
        overrides = {"auto_map": {"AutoConfig": "configuration_deepseek.DeepseekV3Config"}, "torch_dtype": "float16", "quantize": "w8a8_dynamic",
                     "rope_scaling": {"type": "yarn", "factor": 40}}
        found = merge.prepare(merge.Options(str(w8a8), str(gguf_path), str(tmp_path / "out"), engine="ktransformers", config_overrides=overrides))
        assert [item["observed"] for item in found.errors()] == ["the engine asks for output_norm.bias, which the merge does not have"]


# Full size


AT_FULL_SIZE = """
import json, sys, time
sys.path.insert(0, {collections!r})
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights import merge
options = merge.Options({w8a8!r}, {gguf!r}, {output!r}, engine="ktransformers", transformers_version="4.57.1", config_overrides={{"torch_dtype": "float16"}})
times = []
for _attempt in range(6):
    start = time.process_time()
    prepared = merge.prepare(options)
    times.append(time.process_time() - start)
print(json.dumps(dict(merge.summary(prepared), seconds=min(times), peak_mb=merge.job.peak_memory(),
                      halves=list(prepared.halves)[:2], problems=[item["id"] for item in prepared.problems + prepared.engine_problems])))
"""


def test_a_plan_of_r1_takes_seconds_and_little_memory(tmp_path):
    w8a8, gguf_path = builders.write_r1(tmp_path)
    code = AT_FULL_SIZE.format(collections=str(CHECKOUT / "collections"), w8a8=str(w8a8), gguf=str(gguf_path), output=str(tmp_path / "out"))
    found = json.loads(subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True).stdout)
    assert found["seconds"] < 5  # of CPU; 0.8 s where nothing else runs: what is caught here is a plan that grows with the square of the tensors
    assert found["peak_mb"] < 150
    assert found["halves"] == [120, 120]
    assert (found["files"], found["tensors"]) == (239, 2786)
    assert found["left_out"] == {"mtp": 2347, "expert_weights": 44544, "expert_scales": 89088, "gguf_only": 494}
    assert set(found["problems"]) <= {"disk_space", "engine_chat_template", "engine_generation_config"}
    model = parse_model(builders.R1_CONFIG, "")
    assert found["tensors"] == len(engine.wanted(model, {f"blk.{layer}.{module}.deq_scale" for layer in range(61) for module in builders.STATIC}))
