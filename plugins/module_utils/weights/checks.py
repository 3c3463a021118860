# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks before the first byte: is each half complete, do the halves and config.json speak of one model, is there room.

Every check returns problems; none of them reads tensor data.
"""

from __future__ import annotations

import os
from typing import Dict, List, Optional, Tuple

from ansible_collections.npuops.ktransformers.plugins.module_utils.weights import names
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights.errors import Problem, is_whole, problem, shortened
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights.folder import Folder, Kept
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights.gguf import GgufSet, GgufTensor, type_name
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights.model import Model

GGUF_ARCHITECTURE = "deepseek2"
FORMATS = ("w8a8", "fp8", "bf16")
_FORMAT_WORDS = {"w8a8": "I8 weights (msModelSlim)", "fp8": "F8_E4M3 weights with weight_scale_inv", "bf16": "BF16, F16 or F32 weights"}
_AGAIN = "Bring the missing files of the export, or export again"

Shape = Tuple[int, ...]


def weight_shapes(model: Model, layer: Optional[int]) -> Dict[str, Shape]:
    """{engine's module: shape of its weight} that a layer (None: the model outside the layers) must have."""
    hidden = model.hidden_size
    if layer is None:
        return {"token_embd": (model.vocab_size, hidden), "output_norm": (hidden,), "output": (model.vocab_size, hidden)}
    heads, query = model.num_attention_heads, model.qk_nope_head_dim + model.qk_rope_head_dim
    shapes: Dict[str, Shape] = {"attn_norm": (hidden,), "ffn_norm": (hidden,)}
    if model.q_lora_rank is None:
        shapes["attn_q"] = (heads * query, hidden)
    else:
        shapes.update(attn_q_a=(model.q_lora_rank, hidden), attn_q_a_norm=(model.q_lora_rank,), attn_q_b=(heads * query, model.q_lora_rank))
    shapes.update(
        attn_kv_a_mqa=(model.kv_lora_rank + model.qk_rope_head_dim, hidden), attn_kv_a_norm=(model.kv_lora_rank,),
        attn_kv_b=(heads * (model.qk_nope_head_dim + model.v_head_dim), model.kv_lora_rank),
        attn_output=(hidden, heads * model.v_head_dim))
    if not model.is_moe(layer):
        wide = model.intermediate_size
        shapes.update(ffn_gate=(wide, hidden), ffn_up=(wide, hidden), ffn_down=(hidden, wide))
        return shapes
    shapes["ffn_gate_inp"] = (model.n_routed_experts, hidden)
    if model.n_shared_experts:
        wide = model.moe_intermediate_size * model.n_shared_experts
        shapes.update(ffn_gate_shexp=(wide, hidden), ffn_up_shexp=(wide, hidden), ffn_down_shexp=(hidden, wide))
    return shapes


def expert_shape(model: Model, stack: str) -> Shape:
    """Shape of one routed expert's weight."""
    wide, hidden = model.moe_intermediate_size, model.hidden_size
    return (hidden, wide) if stack == "ffn_down_exps" else (wide, hidden)


def full_name(layer: Optional[int], rest: str) -> str:
    return rest if layer is None else f"blk.{layer}.{rest}"


def check_format(folder: Folder, wanted: str) -> List[Problem]:
    """Whether the folder is of the format that the user says."""
    found = format_of(folder)
    if found == wanted:
        return []
    return [problem("safetensors_format", f"{folder.path} holds {found} weights ({_FORMAT_WORDS[found]})",
                    f"{wanted} ({_FORMAT_WORDS[wanted]}) as safetensors_format says",
                    f"Set safetensors_format: {found}, or give the folder of the {wanted} weights")]


def format_of(folder: Folder) -> str:
    """w8a8, fp8 or bf16, from the dtypes of the weights that are merged (and of the experts that are not)."""
    dtypes = {tensor.dtype for tensor in folder.kept if tensor.name.endswith(".weight")}
    for (_layer, _module, suffix), group in folder.experts.items():
        if suffix == "weight":
            dtypes.update(dtype for dtype, _shape in group.forms)
    if "I8" in dtypes:
        return "w8a8"
    return "fp8" if dtypes & {"F8_E4M3", "F8_E5M2"} else "bf16"


def check_rotation(folder: Folder) -> List[Problem]:
    if folder.rotation is None:
        return []
    return [problem("rotated_export", f"the safetensors export was rotated: {folder.rotation}",
                    "an export that leaves the experts as they are, since they are taken from the GGUF",
                    "Export again without rotation (msModelSlim: without --rot, no quarot processor)")]


def check_folder(model: Model, folder: Folder, tied: bool) -> List[Problem]:
    """Every layer of the safetensors side is complete and of the shapes that config.json gives."""
    by_name = {names.engine_name(tensor.name): tensor for tensor in folder.kept}
    missing: List[str] = []
    wrong: List[str] = []
    for layer in [None] + list(range(model.num_hidden_layers)):
        for module, shape in weight_shapes(model, layer).items():
            name = full_name(layer, module + ".weight")
            if name not in by_name:
                if not (tied and name == "output.weight"):
                    missing.append(name)
            elif by_name[name].shape != shape:
                wrong.append(f"{by_name[name].name} is {list(by_name[name].shape)}, not {list(shape)}")
        if layer is not None and model.is_moe(layer) and model.correction_bias and full_name(layer, "exp_probs_b.bias") not in by_name:
            missing.append(full_name(layer, "exp_probs_b.bias"))
    problems: List[Problem] = []
    if missing:
        problems.append(problem("tensors_missing", f"the safetensors folder lacks {len(missing)} tensors of the model (as the engine names them: "
                                                   f"{shortened(missing)})", f"every layer complete, 0 to {model.num_hidden_layers - 1}", _AGAIN))
    if wrong:
        problems.append(problem("shapes_differ", f"{len(wrong)} tensors have other shapes than config.json gives: {shortened(wrong)}",
                                "the config.json of these weights", "Give config.json and weights of one and the same model"))
    return problems + _check_scales(by_name) + _check_folder_experts(model, folder)


def _check_scales(by_name: Dict[str, Kept]) -> List[Problem]:
    """A quantized weight comes with what turns it back."""
    bare = []
    for name, tensor in by_name.items():
        if not name.endswith(".weight"):
            continue
        prefix = name[:-len("weight")]
        scales = {"I8": ("deq_scale", "weight_scale"), "F8_E4M3": ("weight_scale_inv", "weight_scale"), "F8_E5M2": ("weight_scale_inv",)}
        if tensor.dtype in scales and not any(prefix + scale in by_name for scale in scales[tensor.dtype]):
            bare.append(name)
    if not bare:
        return []
    return [problem("scales_missing", f"{len(bare)} quantized weights have no scale: {shortened(bare)}",
                    "deq_scale or weight_scale beside every I8 weight, weight_scale_inv beside every F8 weight", _AGAIN)]


def _check_folder_experts(model: Model, folder: Folder) -> List[Problem]:
    if not folder.experts:
        return []  # not needed for the result: a folder without them is a smaller download, not a broken one
    count = model.n_routed_experts
    wrong: List[str] = []
    for layer in range(model.num_hidden_layers):
        for module, stack in sorted(names.EXPERT_MODULES.items()):
            group = folder.experts.get((layer, module, "weight"))
            label = f"model.layers.{layer}.mlp.experts.*.{module}.weight"
            if not model.is_moe(layer):
                if group is not None:
                    wrong.append(f"{label}: {group.number}, where config.json has a dense layer")
            elif group is None or group.number != count or group.highest != count - 1:
                wrong.append(f"{label}: {0 if group is None else group.number}")
            elif [shape for _dtype, shape in group.forms] != [expert_shape(model, stack)]:
                wrong.append(f"{label}: shape {' and '.join((str(list(shape)) for _dtype, shape in group.forms))}")
    if not wrong:
        return []
    return [problem("experts_differ", f"the safetensors folder's experts are not those of config.json: {shortened(wrong)}",
                    f"{count} experts in every MoE layer from {model.first_k_dense_replace} on, with the sizes of config.json",
                    "Bring the missing files, or the config.json of these weights")]


def check_gguf(model: Model, gguf: GgufSet, stacks: Dict[Tuple[int, str], List[Tuple[int, GgufTensor]]]) -> List[Problem]:
    """The GGUF is of the model of config.json, and has every MoE layer's experts in full."""
    other = _other_model(model, gguf)
    if other:
        return [problem("gguf_of_another_model", f"{gguf.path} is of another model than config.json: {'; '.join(other)}",
                        "GGUF and config.json of one model", "Correct gguf_path or safetensors_path")]
    missing: List[str] = []
    wrong: List[str] = []
    for layer in range(model.num_hidden_layers):
        for stack in names.EXPERT_STACKS:
            name = f"blk.{layer}.{stack}.weight"
            tensors = stacks.get((layer, stack))
            if not model.is_moe(layer):
                if tensors:
                    wrong.append(f"{name} is there, where config.json has a dense layer")
                continue
            if not tensors:
                missing.append(name)
                continue
            dims = tuple(reversed(expert_shape(model, stack)))
            tensor = tensors[0][1]
            if len(tensors) > 1 or model.n_routed_experts == 1 and len(tensor.dims) == 2:
                found = (tensor.dims, len(tensors))
            else:
                found = (tensor.dims[:-1], tensor.dims[-1] if len(tensor.dims) == 3 else 0)
            if found != (dims, model.n_routed_experts):
                wrong.append(f"{name} is {found[1]} x {list(found[0])} {type_name(tensor.ggml_type)}, not {model.n_routed_experts} x {list(dims)}")
    problems: List[Problem] = []
    if missing:
        problems.append(problem("gguf_experts_missing", f"the GGUF lacks {len(missing)} stacks of experts: {shortened(missing)}",
                                "gate, up and down of every MoE layer", "Bring all the files of the GGUF model"))
    if wrong:
        problems.append(problem("gguf_experts_differ", f"the GGUF's experts are not those of config.json: {shortened(wrong)}",
                                "the number and sizes of experts of config.json", "Correct gguf_path or safetensors_path"))
    return problems


def _other_model(model: Model, gguf: GgufSet) -> List[str]:
    architecture = gguf.metadata.get("general.architecture")
    if architecture != GGUF_ARCHITECTURE:
        return [f"general.architecture is {architecture!r:.60}, not {GGUF_ARCHITECTURE!r}"]
    layers = model.num_hidden_layers
    # A converter may count the MTP layer, where it converts it.
    has_mtp = any(name.startswith(f"blk.{layers}.nextn.") for name in gguf.tensors)
    wanted = {
        "block_count": (layers, layers + model.num_nextn_predict_layers) if has_mtp else (layers,), "embedding_length": (model.hidden_size,),
        "attention.head_count": (model.num_attention_heads,), "attention.kv_lora_rank": (model.kv_lora_rank,),
        "attention.q_lora_rank": (model.q_lora_rank,), "expert_count": (model.n_routed_experts,), "vocab_size": (model.vocab_size,),
        "expert_feed_forward_length": (model.moe_intermediate_size,), "leading_dense_block_count": (model.first_k_dense_replace,),
    }
    found = []
    for key, allowed in wanted.items():
        value = gguf.metadata.get(f"{GGUF_ARCHITECTURE}.{key}")
        # Some models have a list where DeepSeek has a number (heads of each layer): that says nothing here.
        if is_whole(value) and value not in allowed and allowed != (None,):
            found.append(f"{key} is {value}, config.json gives {' or '.join(sorted({str(item) for item in allowed}))}")
    return found


def check_paths(safetensors_path: str, gguf_path: str, output_path: str) -> List[Problem]:
    """Output and inputs are folders apart from each other."""
    output = os.path.realpath(output_path)
    problems = []
    if os.path.exists(output) and not os.path.isdir(output):
        problems.append(problem("output_no_folder", f"output_path {output_path} is a file", "a folder, or nothing yet", "Choose another output_path"))
    for label, path in (("safetensors_path", safetensors_path), ("gguf_path", gguf_path)):
        real = os.path.realpath(path)
        below = real.startswith(output.rstrip("/") + "/")
        # A result beside a GGUF file is fine, one in its folder of splits would be walked by the engine with the model around it.
        if below or not os.path.isfile(real) and (output + "/").startswith(real.rstrip("/") + "/"):
            problems.append(problem("output_in_input", f"output_path {output_path} and {label} {path} lie one in the other",
                                    "a folder of its own for the result", "Choose another output_path"))
    return problems


def check_room(output_path: str, needed: int, reserve: int, free: Optional[int], saved: int) -> List[Problem]:
    """needed, reserve, free, saved (by shared blocks): bytes."""
    if free is None or needed + reserve <= free:
        return []
    shared = f", {saved // 1000000} MB more are shared with the GGUF" if saved else ""
    return [problem("disk_space", f"the disk of {output_path} has {free // 1000000} MB free",
                    f"{-(-needed // 1000000)} MB for the merge and {reserve // 1000000} MB to be left free{shared}",
                    "Make room, choose an output_path on another disk, or lower reserve_mb")]
