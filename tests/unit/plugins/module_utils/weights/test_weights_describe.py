# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import os
import shutil

import pytest
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights import info, merge

from tests.unit.plugins.module_utils.weights import builders
from tests.unit.plugins.module_utils.weights.builders import FIXTURES


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    target = tmp_path_factory.mktemp("merged")
    w8a8, gguf = builders.copy_pair("tiny-msmodelslim", target, stand_in=True)
    prepared = merge.prepare(merge.Options(str(w8a8), str(gguf), str(target / "out"), engine="ktransformers", config_overrides={"torch_dtype": "float16"}))
    assert prepared.errors() == []
    merge.execute(prepared, merge.Progress())
    return target / "out"


@pytest.fixture
def merged(original, tmp_path):
    shutil.copytree(original, tmp_path / "out")
    return tmp_path / "out"


def engine_ids(path):
    """Errors only: the sample's tokenizer_config.json has no chat template, which is a warning."""
    return [item["id"] for item in info.describe(str(path), "ktransformers")["engine_problems"] if item["severity"] == "error"]


def test_gguf():
    found = info.describe(str(FIXTURES / "tiny-a" / "gguf"))
    assert {key: found[key] for key in ("found", "reason", "kind", "architecture", "layers", "experts", "format", "tensors", "files", "missing_shards")} == {
        "found": True, "reason": None, "kind": "gguf", "architecture": "deepseek2", "layers": 3, "experts": 3, "format": "gguf", "tensors": 52, "files": 3,
        "missing_shards": []}
    assert found["quantization"]["experts"] == {"Q4_K": 5, "Q6_K": 1}
    assert found["bytes"] == sum(path.stat().st_size for path in (FIXTURES / "tiny-a" / "gguf").iterdir())


def test_one_gguf_file():
    assert info.describe(str(FIXTURES / "tiny-a" / "gguf" / "tiny-a-Q4_K_M-00001-of-00003.gguf"))["tensors"] == 52


@pytest.mark.parametrize("pair, form, dtype", [("tiny-a", "fp8", "F8_E4M3"), ("tiny-a", "w8a8", "I8"), ("tiny-msmodelslim", "w8a8", "I8")])
def test_safetensors(pair, form, dtype):
    found = info.describe(str(FIXTURES / pair / form))
    assert (found["found"], found["reason"], found["kind"], found["format"]) == (True, None, "safetensors", form)
    assert (found["architecture"], found["layers"], found["experts"]) == ("DeepseekV3ForCausalLM", 3, 3)
    assert found["quantization"]["experts"][dtype] == 18 and "mtp" in found["quantization"]
    assert (found["problems"], found["engine_problems"], found["merged"]) == ([], [], None)


def test_merged(merged, original):
    found = info.describe(str(original), "ktransformers")
    assert (found["found"], found["reason"], found["kind"], found["tensors"]) == (True, None, "merged", 134)
    assert [item["id"] for item in found["engine_problems"]] == ["engine_chat_template"]
    assert found["quantization"]["experts_ggml"] == {"Q4_K": 5, "Q6_K": 1}
    assert found["merged"]["complete"] is True and found["merged"]["stats"]["bytes_copied"] > 0
    # cp does not keep times: the copy is not the merge that the manifest speaks of.
    os.utime(merged / "config.json", ns=(1, 1))
    assert info.describe(str(merged))["merged"]["reason"] == "config.json was changed since it was merged"


def test_nothing(tmp_path):
    assert info.describe(str(tmp_path))["reason"] == f"{tmp_path} holds neither .safetensors nor .gguf files"
    found = info.describe(str(tmp_path / "x"))
    assert (found["found"], found["kind"], found["reason"]) == (False, "empty", f"{tmp_path / 'x'} does not exist")


def test_a_missing_gguf_part(tmp_path):
    _w8a8, gguf = builders.copy_pair("tiny-a", tmp_path)
    (gguf / "tiny-a-Q4_K_M-00002-of-00003.gguf").unlink()
    found = info.describe(str(gguf))
    assert (found["found"], found["missing_shards"], found["reason"]) == (True, ["00002"], "GGUF files number 00002 are missing")


def test_a_missing_shard(tmp_path):
    w8a8, _gguf = builders.copy_pair("tiny-msmodelslim", tmp_path)
    (w8a8 / "mtp.safetensors").unlink()
    found = info.describe(str(w8a8))
    assert (found["found"], found["missing_shards"], found["reason"]) == (True, ["mtp.safetensors"], "safetensors files are missing: mtp.safetensors")


def test_a_damaged_file(tmp_path):
    w8a8, _gguf = builders.copy_pair("tiny-msmodelslim", tmp_path)
    os.truncate(w8a8 / "mtp.safetensors", 100)
    found = info.describe(str(w8a8))
    assert (found["found"], found["kind"]) == (False, "safetensors")
    assert found["reason"].startswith(f"{w8a8 / 'mtp.safetensors'}: byte 0: the header claims 3192 bytes, the file has 92")
    assert [item["id"] for item in found["problems"]] == ["unreadable"]


def test_without_config(tmp_path):
    w8a8, _gguf = builders.copy_pair("tiny-msmodelslim", tmp_path)
    (w8a8 / "config.json").unlink()
    found = info.describe(str(w8a8))
    assert (found["found"], found["format"], found["layers"]) == (True, "w8a8", None)
    assert [item["id"] for item in found["problems"]] == ["config"]


@pytest.mark.parametrize("path", ["tiny-a/gguf", "tiny-a/w8a8"])
def test_the_engine_needs_a_merged_folder(path):
    assert engine_ids(FIXTURES / path) == ["engine_not_merged"]


# What the engine would do with a folder that somebody has touched: tests/fixtures/weights/engine-asks.json, "negative"


def test_a_truncated_file(merged):
    os.truncate(merged / "npuops-blk-00000.safetensors", 90000)
    assert engine_ids(merged)[0] == "engine_file_unreadable" and "engine_tensor_missing" in engine_ids(merged)


def test_an_lfs_pointer(merged):
    (merged / "z.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert engine_ids(merged) == ["engine_file_unreadable"]


def test_the_same_name_below(merged):
    (merged / "below").mkdir()
    (merged / "npuops-blk-00000.safetensors").rename(merged / "below" / "npuops-model.safetensors")
    assert engine_ids(merged)[0] == "engine_file_name_twice" and "engine_tensor_missing" in engine_ids(merged)


def test_another_name_below_is_read(merged):
    (merged / "below").mkdir()
    (merged / "npuops-blk-00000.safetensors").rename(merged / "below" / "own-name.safetensors")
    assert engine_ids(merged) == []


def test_a_stray_tensor(merged):
    builders.write_safetensors(merged / "zz.safetensors", {"blk.0.attn_norm.weight": ("BF16", (256,), bytes(512))})
    assert engine_ids(merged) == ["engine_tensor_twice"]


def test_no_config(merged):
    (merged / "config.json").unlink()
    assert engine_ids(merged) == ["config"]


def test_a_ggml_type_of_other_bytes(merged):
    path = merged / "npuops-blk-00001.safetensors"
    tensors = builders.read_safetensors(path)
    tensors["blk.1.ffn_up_exps.ggml_type"] = ("I64", [], (14).to_bytes(8, "little"))
    builders.write_safetensors(path, tensors)
    assert engine_ids(merged) == ["engine_shape"]


def test_a_merge_of_the_public_script(merged, tmp_path):
    """One file a layer, ggml_type as I32 [1], no manifest: the engine takes it."""
    target = tmp_path / "public"
    target.mkdir()
    layers: dict = {}
    for path in merged.glob("*.safetensors"):
        for name, (dtype, shape, raw) in builders.read_safetensors(path).items():
            if name.endswith("ggml_type"):
                dtype, shape, raw = "I32", [1], raw[:4]
            layers.setdefault(name.split(".")[1] if name.startswith("blk.") else "top", {})[name] = (dtype, shape, raw)
    for layer, tensors in layers.items():
        builders.write_safetensors(target / f"model-{layer}.safetensors", tensors, {"format": "pt"})
    for path in merged.iterdir():
        if path.suffix in (".json", ".py"):
            shutil.copy(path, target)
    found = info.describe(str(target), "ktransformers")
    assert (found["kind"], found["tensors"], engine_ids(target)) == ("merged", 134, [])
    assert found["merged"] == {"complete": False, "reason": "it has no manifest: it was not merged by this collection", "manifest": None, "plan": None,
                               "files": 0, "stats": {}}
