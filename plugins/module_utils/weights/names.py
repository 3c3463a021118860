# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names of tensors: what a Hugging Face checkpoint calls them, and what the engine (and GGUF) calls them.

The engine's own table is translate_name_to_gguf in ktransformers/util/custom_loader.py (b9828153, c007d40b); the public merge
script uses the same. Suffixes that neither knows are kept under the mapped prefix, as that script does.
"""

from __future__ import annotations

from typing import Dict, Optional, Tuple

# What belongs to no layer.
TOP: Dict[str, str] = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}

# What stands below model.layers.N.
LAYER: Dict[str, str] = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.q_a_proj": "attn_q_a",
    "self_attn.q_a_layernorm": "attn_q_a_norm",
    "self_attn.q_b_proj": "attn_q_b",
    "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa",
    "self_attn.kv_a_layernorm": "attn_kv_a_norm",
    "self_attn.kv_b_proj": "attn_kv_b",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.gate": "ffn_gate_inp",
    "mlp.shared_experts.gate_proj": "ffn_gate_shexp",
    "mlp.shared_experts.up_proj": "ffn_up_shexp",
    "mlp.shared_experts.down_proj": "ffn_down_shexp",
}

# Whole names below the layer that are not module + suffix.
WHOLE: Dict[str, str] = {"mlp.gate.e_score_correction_bias": "exp_probs_b.bias"}

EXPERT_MODULES: Dict[str, str] = {"gate_proj": "ffn_gate_exps", "up_proj": "ffn_up_exps", "down_proj": "ffn_down_exps"}
# Order in which the engine asks for them.
EXPERT_STACKS = ("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps")

_LAYER_PREFIX = "model.layers."


def layer_of(name: str) -> Optional[int]:
    """Layer number of a checkpoint's tensor name, None for what belongs to none."""
    if not name.startswith(_LAYER_PREFIX):
        return None
    number = name[len(_LAYER_PREFIX):].split(".", 1)[0]
    return int(number) if number.isdigit() and len(number) <= 5 and str(int(number)) == number else None


def expert_of(name: str) -> Optional[Tuple[int, int, str, str]]:
    """(layer, expert, module, suffix) of a routed expert's tensor, None for any other."""
    parts = name.split(".", 7)
    if len(parts) < 8 or parts[3] != "mlp" or parts[4] != "experts" or not parts[5].isdigit() or len(parts[5]) > 6:
        return None
    layer = layer_of(name)
    return None if layer is None else (layer, int(parts[5]), parts[6], parts[7])


def engine_name(name: str) -> str:
    """The engine's name of a checkpoint's tensor. A name of neither table is kept as it is (below blk.N where it has a layer)."""
    layer = layer_of(name)
    if layer is None:
        for prefix, mapped in TOP.items():
            if name.startswith(prefix + "."):
                return mapped + name[len(prefix):]
        return name
    rest = name[len(_LAYER_PREFIX) + len(str(layer)) + 1:]
    if rest in WHOLE:
        return f"blk.{layer}.{WHOLE[rest]}"
    parts = rest.split(".")
    for length in (3, 2, 1):
        module = ".".join(parts[:length])
        if module in LAYER and len(parts) > length:
            return f"blk.{layer}.{LAYER[module]}.{'.'.join(parts[length:])}"
    return f"blk.{layer}.{rest}"


def engine_layer(name: str) -> Optional[int]:
    """Layer number of an engine's tensor name (blk.N.…), None for what belongs to none."""
    parts = name.split(".", 2)
    if len(parts) == 3 and parts[0] == "blk" and parts[1].isdigit() and len(parts[1]) <= 5:
        return int(parts[1])
    return None


def tensor_class(name: str) -> str:
    """Class of an engine's tensor name, for summaries: embedding, head, norm, attention, router, dense, shared, experts, other."""
    layer = engine_layer(name)
    module = name.split(".")[2] if layer is not None else name.split(".", 1)[0]
    if layer is None:
        return {"token_embd": "embedding", "output": "head", "output_norm": "norm"}.get(module, "other")
    if module.endswith("_norm"):
        return "norm"
    if module in ("ffn_gate_inp", "exp_probs_b"):
        return "router"
    if module.endswith("_exps"):
        return "experts"
    if module.endswith("_shexp"):
        return "shared"
    if module.startswith("ffn_"):
        # One tensor an expert (blk.N.ffn_gate.E.weight), as GGUF files before April 2024 have it.
        parts = name.split(".")
        return "experts" if len(parts) == 5 and parts[3].isdigit() else "dense"
    return "attention" if module.startswith(("attn_", "self_attn")) else "other"
