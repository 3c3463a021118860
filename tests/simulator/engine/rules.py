# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The optimize rule file: opened relative to the working directory, its classes imported by name (optimize.py)."""

from __future__ import annotations

import re

OPERATORS = "ktransformers.operators."
ASCEND = OPERATORS + "ascend."
# The classes that the simulated engine knows: those of the W8A8 rule, and what its MTP-less model needs beside them.
KNOWN = frozenset(
    [OPERATORS + "RoPE.YarnRotaryEmbeddingV3", OPERATORS + "models.KDeepseekV2Model", OPERATORS + "experts.KExpertsCPU", "default",
     "torch.nn.Linear"]
    + [ASCEND + name for name in (
        "ascend_linear.KTransformersLinearW8A8A2", "ascend_experts.KDeepseekV3MoEW8A8", "ascend_experts.KTransformersExpertsW8A8",
        "ascend_experts.KExpertsCPUW8A8", "ascend_mlp.KDeepseekV3MLPW8A8A2V1", "ascend_mlp.KDeepseekV3MLPW8A8A2V2",
        "ascend_gate.KDeepseekV3GateA2", "ascend_attention.KDeepseekV2AttentionW8A8A2", "ascend_layernorm.KDeepseekV3RMSNormW8A8")]
    + ["ktransformers.models.modeling_deepseek_v3." + name for name in (
        "DeepseekV3RotaryEmbedding", "DeepseekV3MoE", "DeepseekV3MLP", "MoEGate")])
# Without these the weights would not be read as W8A8.
NEEDED = (ASCEND + "ascend_linear.KTransformersLinearW8A8A2", ASCEND + "ascend_attention.KDeepseekV2AttentionW8A8A2",
          ASCEND + "ascend_layernorm.KDeepseekV3RMSNormW8A8", ASCEND + "ascend_experts.KTransformersExpertsW8A8")


def read(path: str) -> list:
    """The class paths of a rule file. Raises FileNotFoundError as plain open() does, ModuleNotFoundError on a foreign class."""
    with open(path, encoding="utf-8") as stream:
        text = stream.read()
    classes = re.findall(r"^\s*class:\s*[\"']?([\w.]+)", text, re.MULTILINE)
    for name in classes:
        if name not in KNOWN:
            # ASSUMPTION: a rule for CUDA, or the unquantized NPU rule, fails at the first class that this tree was not built with.
            raise ModuleNotFoundError(f"No module named '{name.rpartition('.')[0]}'")
    for name in NEEDED:
        if name not in classes:
            raise ModuleNotFoundError(f"No module named '{name.rpartition('.')[0]}' in the rule {path} (simulated: not a W8A8 rule)")
    return classes
