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
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights.errors import Problem, problem, shortened
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
    return rest if layer is None else "blk.%d.%s" % (layer, rest)


def check_format(folder: Folder, wanted: str) -> List[Problem]:
    """Whether the folder is of the format that the user says."""
    found = format_of(folder)
    if found == wanted:
        return []
    return [problem("safetensors_format", "%s holds %s weights (%s)" % (folder.path, found, _FORMAT_WORDS[found]),
                    "%s (%s) as safetensors_format says" % (wanted, _FORMAT_WORDS[wanted]),
                    "Set safetensors_format: %s, or give the folder of the %s weights" % (found, wanted))]


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
    return [problem("rotated_export", "the safetensors export was rotated: %s" % folder.rotation,
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
                wrong.append("%s is %s, not %s" % (by_name[name].name, list(by_name[name].shape), list(shape)))
    problems: List[Problem] = []
    if missing:
        problems.append(problem("tensors_missing", "the safetensors folder lacks %d tensors of the model (as the engine names them: %s)"
                                % (len(missing), shortened(missing)), "every layer complete, 0 to %d" % (model.num_hidden_layers - 1), _AGAIN))
    if wrong:
        problems.append(problem("shapes_differ", "%d tensors have other shapes than config.json gives: %s" % (len(wrong), shortened(wrong)),
                                "the config.json of these weights", "Give config.json and weights of one and the same model"))
    return problems + _check_scales(by_name) + _check_folder_experts(model, folder)


def _check_scales(by_name: Dict[str, Kept]) -> List[Problem]:
    """A quantized weight comes with what turns it back."""
    bare = []
    for name, tensor in by_name.items():
        if not name.endswith(".weight"):
            continue
        prefix = name[:-len("weight")]
        if tensor.dtype == "I8" and prefix + "deq_scale" not in by_name and prefix + "weight_scale" not in by_name:
            bare.append(name)
        elif tensor.dtype in ("F8_E4M3", "F8_E5M2") and prefix + "weight_scale_inv" not in by_name and prefix + "weight_scale" not in by_name:
            bare.append(name)
    if not bare:
        return []
    return [problem("scales_missing", "%d quantized weights have no scale: %s" % (len(bare), shortened(bare)),
                    "deq_scale or weight_scale beside every I8 weight, weight_scale_inv beside every F8 weight", _AGAIN)]


def _check_folder_experts(model: Model, folder: Folder) -> List[Problem]:
    if not folder.experts:
        return []  # not needed for the result: a folder without them is a smaller download, not a broken one
    count = model.n_routed_experts
    wrong: List[str] = []
    for layer in range(model.num_hidden_layers):
        for module, stack in sorted(names.EXPERT_MODULES.items()):
            group = folder.experts.get((layer, module, "weight"))
            label = "model.layers.%d.mlp.experts.*.%s.weight" % (layer, module)
            if not model.is_moe(layer):
                if group is not None:
                    wrong.append("%s: %d, where config.json has a dense layer" % (label, group.count))
            elif group is None or group.count != count or group.highest != count - 1:
                wrong.append("%s: %d" % (label, 0 if group is None else group.count))
            elif [shape for _dtype, shape in group.forms] != [expert_shape(model, stack)]:
                wrong.append("%s: shape %s" % (label, " and ".join(str(list(shape)) for _dtype, shape in group.forms)))
    if not wrong:
        return []
    return [problem("experts_differ", "the safetensors folder's experts are not those of config.json: %s" % shortened(wrong),
                    "%d experts in every MoE layer from %d on, n_routed_experts and moe_intermediate_size of config.json"
                    % (count, model.first_k_dense_replace), "Bring the missing files, or the config.json of these weights")]


def check_gguf(model: Model, gguf: GgufSet, stacks: Dict[Tuple[int, str], List[Tuple[int, GgufTensor]]]) -> List[Problem]:
    """The GGUF is of the model of config.json, and has every MoE layer's experts in full."""
    other = _other_model(model, gguf)
    if other:
        return [problem("gguf_of_another_model", "%s is of another model than config.json: %s" % (gguf.path, "; ".join(other)),
                        "GGUF and config.json of one model", "Correct gguf_path or safetensors_path")]
    missing: List[str] = []
    wrong: List[str] = []
    for layer in range(model.num_hidden_layers):
        for stack in names.EXPERT_STACKS:
            name = "blk.%d.%s.weight" % (layer, stack)
            tensors = stacks.get((layer, stack))
            if not model.is_moe(layer):
                if tensors:
                    wrong.append("%s is there, where config.json has a dense layer" % name)
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
                wrong.append("%s is %d x %s %s, not %d x %s" % (name, found[1], list(found[0]), type_name(tensor.ggml_type),
                                                               model.n_routed_experts, list(dims)))
    problems: List[Problem] = []
    if missing:
        problems.append(problem("gguf_experts_missing", "the GGUF lacks %d stacks of experts: %s" % (len(missing), shortened(missing)),
                                "gate, up and down of every MoE layer", "Bring all the files of the GGUF model"))
    if wrong:
        problems.append(problem("gguf_experts_differ", "the GGUF's experts are not those of config.json: %s" % shortened(wrong),
                                "the number and sizes of experts of config.json", "Correct gguf_path or safetensors_path"))
    return problems


def _other_model(model: Model, gguf: GgufSet) -> List[str]:
    architecture = gguf.metadata.get("general.architecture")
    if architecture != GGUF_ARCHITECTURE:
        return ["general.architecture is %.60r, not %r" % (architecture, GGUF_ARCHITECTURE)]
    layers = model.num_hidden_layers
    wanted = {
        # A converter may count the MTP layer.
        "block_count": (layers, layers + model.num_nextn_predict_layers), "embedding_length": (model.hidden_size,),
        "attention.head_count": (model.num_attention_heads,), "attention.kv_lora_rank": (model.kv_lora_rank,),
        "attention.q_lora_rank": (model.q_lora_rank,), "expert_count": (model.n_routed_experts,), "vocab_size": (model.vocab_size,),
        "expert_feed_forward_length": (model.moe_intermediate_size,), "leading_dense_block_count": (model.first_k_dense_replace,),
    }
    found = []
    for key, allowed in wanted.items():
        value = gguf.metadata.get("%s.%s" % (GGUF_ARCHITECTURE, key))
        if value is not None and value not in allowed and allowed != (None,):
            found.append("%s is %s, config.json gives %s" % (key, value, " or ".join(str(item) for item in sorted(set(allowed)))))
    return found


def check_paths(safetensors_path: str, gguf_path: str, output_path: str) -> List[Problem]:
    """Output and inputs are folders apart from each other."""
    output = os.path.realpath(output_path)
    problems = []
    for label, path in (("safetensors_path", safetensors_path), ("gguf_path", gguf_path)):
        real = os.path.realpath(path)
        if os.path.isfile(real):
            real = os.path.dirname(real)
        if output == real or output.startswith(real.rstrip("/") + "/") or real.startswith(output.rstrip("/") + "/"):
            problems.append(problem("output_in_input", "output_path %s and %s %s lie one in the other" % (output_path, label, path),
                                    "a folder of its own for the result", "Choose another output_path"))
    return problems


def check_room(output_path: str, needed: int, reserve: int, free: Optional[int], saved: int) -> List[Problem]:
    """needed, reserve, free, saved (by shared blocks): bytes."""
    if free is None or needed + reserve <= free:
        return []
    shared = ", %d MB more are shared with the GGUF" % (saved // 1000000) if saved else ""
    return [problem("disk_space", "the disk of %s has %d MB free" % (output_path, free // 1000000),
                    "%d MB for the merge and %d MB to be left free%s" % (-(-needed // 1000000), reserve // 1000000, shared),
                    "Make room, choose an output_path on another disk, or lower reserve_mb")]
