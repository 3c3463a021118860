# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""config.json: the numbers that a merge needs, bounded before use, and the written config with the user's overrides."""

from __future__ import annotations

import json
import os
from typing import Any, Dict, NamedTuple, Optional

from ansible_collections.npuops.ktransformers.plugins.module_utils.weights.errors import WeightsError, is_whole
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights.files import read_json_object

MAX_CONFIG = 16 * 1024 * 1024
MODEL_TYPES = ("deepseek_v3", "deepseekv2", "deepseek_v2", "deepseekv3")

# key: (lowest, highest) believed; None as value is allowed where the key may be missing.
_REQUIRED = {
    "num_hidden_layers": (1, 1000), "hidden_size": (1, 1 << 20), "intermediate_size": (1, 1 << 24), "moe_intermediate_size": (1, 1 << 24),
    "n_routed_experts": (1, 65536), "num_attention_heads": (1, 65536), "kv_lora_rank": (1, 1 << 20), "qk_nope_head_dim": (1, 65536),
    "qk_rope_head_dim": (1, 65536), "v_head_dim": (1, 65536), "vocab_size": (1, 1 << 24),
}
_OPTIONAL = {
    "q_lora_rank": (1, 1 << 20, None), "first_k_dense_replace": (0, 1000, 0), "n_shared_experts": (0, 4096, 0),
    "num_nextn_predict_layers": (0, 64, 0), "moe_layer_freq": (1, 1000, 1),
}


class Model(NamedTuple):
    """Dimensions of a DeepSeek V2/V3 model, named as in config.json."""

    num_hidden_layers: int
    hidden_size: int
    intermediate_size: int
    moe_intermediate_size: int
    n_routed_experts: int
    num_attention_heads: int
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    vocab_size: int
    q_lora_rank: Optional[int]
    first_k_dense_replace: int
    n_shared_experts: int
    num_nextn_predict_layers: int
    moe_layer_freq: int
    correction_bias: bool

    def is_moe(self, layer: int) -> bool:
        """As DeepseekV3DecoderLayer decides it."""
        return layer >= self.first_k_dense_replace and layer % self.moe_layer_freq == 0


def read_config(folder: str) -> Dict[str, Any]:
    """config.json of a folder as a dict."""
    return read_json_object(os.path.join(folder, "config.json"), MAX_CONFIG)


def parse_model(config: Dict[str, Any], path: str) -> Model:
    """The model's dimensions; WeightsError names the key that is missing or absurd."""
    model_type = config.get("model_type")
    if model_type not in MODEL_TYPES:
        raise WeightsError(f"model_type is {model_type!r:.60}; this merge knows DeepSeek V2/V3/R1 ({', '.join(MODEL_TYPES)}). Give the config.json of such a "
                           "model", path)
    values: Dict[str, Any] = {}
    for key, (low, high) in _REQUIRED.items():
        values[key] = _number(config, key, low, high, path)
    for key, (low, high, default) in _OPTIONAL.items():
        values[key] = default if config.get(key) is None else _number(config, key, low, high, path)
    return Model(correction_bias=config.get("topk_method") == "noaux_tc", **values)


def _number(config: Dict[str, Any], key: str, low: int, high: int, path: str) -> int:
    if key not in config:
        raise WeightsError(f"lacks the key {key}. Take the config.json that was published with the weights", path)
    value = config[key]
    if not is_whole(value) or not low <= value <= high:
        raise WeightsError(f"{key} is {value!r:.60}; a number from {low} to {high} was expected. "
                           "Take the config.json that was published with the weights", path)
    return value


def with_overrides(config: Dict[str, Any], overrides: Dict[str, Any]) -> Dict[str, Any]:
    """The config with the user's keys put over it; a key whose value is None is taken out."""
    changed = dict(config)
    for key, value in overrides.items():
        if value is None:
            changed.pop(key, None)
        else:
            changed[key] = value
    return changed


def encode_config(config: Dict[str, Any]) -> bytes:
    try:
        return (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode("utf-8")
    except UnicodeEncodeError:  # half a surrogate pair, which JSON can escape
        return (json.dumps(config, indent=2) + "\n").encode("ascii")
