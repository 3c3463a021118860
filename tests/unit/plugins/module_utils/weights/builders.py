# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds GGUF and safetensors files for tests: small ones with bytes, and R1's size as sparse files."""

from __future__ import annotations

import json
import os
import shutil
import struct
from pathlib import Path

from ansible_collections.npuops.ktransformers.plugins.module_utils.weights import names
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights.checks import weight_shapes
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights.gguf import tensor_bytes
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights.model import Model, parse_model
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights.safetensors import bytes_of, encode_header

CHECKOUT = next(parent for parent in Path(__file__).resolve().parents if (parent / "galaxy.yml").exists())
FIXTURES = CHECKOUT / "tests" / "fixtures" / "weights"
STAND_IN = FIXTURES / "stand-in" / "configuration_deepseek.py"

# config.json of DeepSeek-R1, what the merge reads of it.
R1_CONFIG = {
    "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "num_hidden_layers": 61, "first_k_dense_replace": 3,
    "hidden_size": 7168, "intermediate_size": 18432, "moe_intermediate_size": 2048, "n_routed_experts": 256, "n_shared_experts": 1,
    "num_attention_heads": 128, "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
    "vocab_size": 129280, "num_nextn_predict_layers": 1, "moe_layer_freq": 1, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    "quantize": "w8a8_dynamic", "topk_method": "noaux_tc", "rope_scaling": {"type": "yarn", "factor": 40},
}


def copy_pair(pair: str, target: Path, form: str = "w8a8", stand_in: bool = False) -> tuple[Path, Path]:
    """A writable copy of a fixture pair: (safetensors folder, GGUF folder)."""
    for name in (form, "gguf"):
        shutil.copytree(FIXTURES / pair / name, target / name)
    if stand_in:
        shutil.copy(STAND_IN, target / form)
    return target / form, target / "gguf"


# safetensors


def write_safetensors(path: Path, tensors: dict, metadata: dict | None = None) -> None:
    """tensors: name -> (dtype, shape, bytes or None for a hole)."""
    rows = [(name, dtype, tuple(shape), bytes_of(dtype, shape)) for name, (dtype, shape, _data) in tensors.items()]
    header = encode_header(rows)
    if metadata is not None:
        entries = json.loads(header[8:])
        raw = json.dumps(dict({"__metadata__": metadata}, **entries)).encode()
        header = struct.pack("<Q", len(raw)) + raw
    with open(path, "wb") as out:
        out.write(header)
        for (_name, _dtype, _shape, size), (_d, _s, data) in zip(rows, tensors.values()):
            if data is None:
                out.seek(size, os.SEEK_CUR)
            else:
                assert len(data) == size
                out.write(data)
        out.truncate(out.tell())


def read_safetensors(path: Path) -> dict:
    """name -> (dtype, shape, bytes), by plain means."""
    raw = Path(path).read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    entries = json.loads(raw[8:8 + length])
    entries.pop("__metadata__", None)
    return {name: (entry["dtype"], entry["shape"], raw[8 + length + entry["data_offsets"][0]:8 + length + entry["data_offsets"][1]])
            for name, entry in entries.items()}


# GGUF


def _string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _value(value) -> bytes:
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, str):
        return struct.pack("<I", 8) + _string(value)
    if value and isinstance(value[0], str):
        return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(_string(item) for item in value)
    return struct.pack("<IIQ", 9, 5, len(value)) + struct.pack(f"<{len(value)}i", *value)


def write_gguf(path: Path, metadata: dict, tensors: dict, version: int = 3, alignment: int = 32) -> None:
    """tensors: name -> (ggml type, dims as ggml has them, bytes or None for a hole)."""
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata))
    head += b"".join(_string(key) + _value(value) for key, value in metadata.items())
    places, offset = [], 0
    for name, (kind, dims, _data) in tensors.items():
        places.append(offset)
        head += _string(name) + struct.pack("<I", len(dims)) + struct.pack(f"<{len(dims)}Q", *dims) + struct.pack("<IQ", kind, offset)
        offset += -(-tensor_bytes(kind, tuple(dims)) // alignment) * alignment
    start = -(-len(head) // alignment) * alignment
    with open(path, "wb") as out:
        out.write(head.ljust(start, b"\0"))
        for place, (_kind, _dims, data) in zip(places, tensors.values()):
            if data is not None:
                out.seek(start + place)
                out.write(data)
        out.truncate(start + offset)


# A whole model, of any size


def gguf_metadata(model: Model, tokens: int = 0) -> dict:
    metadata = {
        "general.architecture": "deepseek2", "deepseek2.block_count": model.num_hidden_layers, "deepseek2.embedding_length": model.hidden_size,
        "deepseek2.attention.head_count": model.num_attention_heads, "deepseek2.attention.q_lora_rank": model.q_lora_rank,
        "deepseek2.attention.kv_lora_rank": model.kv_lora_rank, "deepseek2.expert_count": model.n_routed_experts,
        "deepseek2.expert_feed_forward_length": model.moe_intermediate_size, "deepseek2.vocab_size": model.vocab_size,
        "deepseek2.leading_dense_block_count": model.first_k_dense_replace,
    }
    if tokens:
        metadata["tokenizer.ggml.tokens"] = [f"token{number}" for number in range(tokens)]
        metadata["tokenizer.ggml.merges"] = [f"tok en{number}" for number in range(tokens)]
        metadata["tokenizer.ggml.token_type"] = [1] * tokens
    return metadata


def gguf_tensors(model: Model) -> dict:
    """Names, types and dims of a Q4_K_M GGUF: half of the down stacks Q6_K, router and norms F32."""
    hidden, wide, count = model.hidden_size, model.moe_intermediate_size, model.n_routed_experts
    tensors: dict = {"output_norm.weight": (0, (hidden,), None), "token_embd.weight": (12, (hidden, model.vocab_size), None),
                     "output.weight": (14, (hidden, model.vocab_size), None)}
    for layer in range(model.num_hidden_layers):
        blk = f"blk.{layer}."
        tensors[blk + "attn_norm.weight"] = (0, (hidden,), None)
        tensors[blk + "ffn_norm.weight"] = (0, (hidden,), None)
        for module, shape in weight_shapes(model, layer).items():
            if module in ("attn_q_a", "attn_kv_a_mqa", "attn_output", "attn_q_a_norm") or module in ("ffn_gate", "ffn_up", "ffn_down"):
                kind = 0 if module.endswith("norm") else 8 if shape[-1] % 256 else 12
                tensors[f"{blk}{module}.weight"] = (kind, tuple(reversed(shape)), None)
        if model.is_moe(layer):
            tensors[blk + "ffn_gate_inp.weight"] = (0, (hidden, count), None)
            tensors[blk + "exp_probs_b.bias"] = (0, (count,), None)
            tensors[blk + "ffn_gate_exps.weight"] = (12, (hidden, wide, count), None)
            tensors[blk + "ffn_up_exps.weight"] = (12, (hidden, wide, count), None)
            tensors[blk + "ffn_down_exps.weight"] = (14 if layer % 2 else 12, (wide, hidden, count), None)
    return tensors


HF_LAYER = {ours: theirs for theirs, ours in names.LAYER.items()}
HF_TOP = {ours: theirs for theirs, ours in names.TOP.items()}
STATIC = ("attn_q_a", "attn_q_b", "attn_kv_a_mqa", "attn_output")


def w8a8_tensors(model: Model, mtp: bool = True) -> dict:
    """Names, dtypes and shapes of an early 2025 msModelSlim export, with a quantized MTP layer."""
    tensors: dict = {}

    def dynamic(prefix: str, shape: tuple) -> None:
        tensors[prefix + ".weight"] = ("I8", shape, None)
        for suffix in (".weight_scale", ".weight_offset"):
            tensors[prefix + suffix] = ("BF16", (shape[0], 1), None)

    for module, shape in weight_shapes(model, None).items():
        tensors[HF_TOP[module] + ".weight"] = ("BF16", shape, None)
    tensors["model.norm.bias"] = ("F32", (model.hidden_size,), None)
    for layer in range(model.num_hidden_layers + (1 if mtp else 0)):
        prefix = f"model.layers.{layer}."
        for module, shape in weight_shapes(model, layer).items():
            name = prefix + HF_LAYER[module]
            if module in STATIC:
                tensors[name + ".weight"] = ("I8", shape, None)
                tensors[name + ".quant_bias"] = ("I32", shape[:1], None)
                tensors[name + ".deq_scale"] = ("F32", shape[:1], None)
                tensors[name + ".input_scale"] = tensors[name + ".input_offset"] = ("BF16", (1,), None)
            elif module.endswith("_norm"):
                tensors[name + ".weight"] = ("BF16", shape, None)
                tensors[name + ".bias"] = ("F32", shape, None)
            elif module in ("attn_kv_b", "ffn_gate_inp"):
                tensors[name + ".weight"] = ("BF16", shape, None)
            else:
                dynamic(name, shape)
        if model.is_moe(layer):
            tensors[prefix + "mlp.gate.e_score_correction_bias"] = ("BF16", (model.n_routed_experts,), None)
            for expert in range(model.n_routed_experts):
                for module, shape in (("gate_proj", (model.moe_intermediate_size, model.hidden_size)),
                                      ("up_proj", (model.moe_intermediate_size, model.hidden_size)),
                                      ("down_proj", (model.hidden_size, model.moe_intermediate_size))):
                    dynamic(f"{prefix}mlp.experts.{expert}.{module}", shape)
    if mtp:
        prefix = f"model.layers.{model.num_hidden_layers}."
        tensors[prefix + "enorm.weight"] = tensors[prefix + "hnorm.weight"] = ("F32", (model.hidden_size,), None)
        tensors[prefix + "eh_proj.weight"] = ("F32", (model.hidden_size, 2 * model.hidden_size), None)
    return tensors


def shards_of(tensors: dict, count: int) -> list[dict]:
    """Cut by number of tensors into `count` parts."""
    items = list(tensors.items())
    size = -(-len(items) // count)
    return [dict(items[first:first + size]) for first in range(0, len(items), size)]


def write_w8a8(folder: Path, config: dict, tensors: dict, shards: int) -> None:
    """A safetensors folder with config, tokenizer files and index."""
    folder.mkdir(parents=True)
    weight_map = {}
    parts = shards_of(tensors, shards)
    for number, part in enumerate(parts, 1):
        name = f"quant_model_weight_w8a8_dynamic-{number:05}-of-{len(parts):05}.safetensors"
        write_safetensors(folder / name, part)
        weight_map.update(dict.fromkeys(part, name))
    (folder / "quant_model_weight_w8a8_dynamic.index.json").write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}, indent=2))
    (folder / "quant_model_description_w8a8_dynamic.json").write_text(json.dumps(dict.fromkeys(weight_map, "W8A8_DYNAMIC"), indent=4))
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text('{"model": {"merges": ["a b"]}}')
    (folder / "tokenizer_config.json").write_text("{}")


def write_split_gguf(folder: Path, metadata: dict, tensors: dict, parts: int) -> None:
    """A split GGUF as llama-gguf-split writes it: all the metadata in the first file."""
    folder.mkdir(parents=True)
    cut = shards_of(tensors, parts)
    for number, part in enumerate(cut):
        keys = {"split.no": number, "split.count": len(cut), "split.tensors.count": len(tensors)}
        write_gguf(folder / (f"model-Q4_K_M-{number + 1:05}-of-{len(cut):05}.gguf"), dict(metadata, **keys) if not number else keys, part)


def write_r1(target: Path) -> tuple[Path, Path]:
    """DeepSeek-R1's W8A8 (169 files, 138,417 tensors) and Q4_K_M (9 files, 668 tensors) as sparse files: (w8a8, gguf)."""
    model = parse_model(R1_CONFIG, "config.json")
    write_w8a8(target / "w8a8", R1_CONFIG, w8a8_tensors(model), 169)
    write_split_gguf(target / "gguf", gguf_metadata(model, tokens=129280), gguf_tensors(model), 9)
    return target / "w8a8", target / "gguf"
