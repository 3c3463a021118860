# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What loads silently and fails at the first prompt: quantization, types, lengths, operators.

The real engine hands such tensors to operators of the NPU, or to the CPU's expert code, which would read past their end. The
exceptions here are of the kind that it raises, their words are the simulator's (ASSUMPTION, nothing of this ran on an NPU).
"""

from __future__ import annotations

import os

from . import startup
from .contract import LoadedModel

# ggml_type: (name, elements a block, bytes a block); https://github.com/ggml-org/llama.cpp (ggml-common.h)
GGML_BLOCKS = {0: ("F32", 1, 4), 1: ("F16", 1, 2), 8: ("Q8_0", 32, 34), 12: ("Q4_K", 256, 144), 14: ("Q6_K", 256, 210)}


def check(model: LoadedModel, torch_npu, dtype: str) -> None:
    """Raises on the first thing that the operators would stumble over."""
    if not os.environ.get("ATB_HOME_PATH"):
        raise OSError("libatb.so: cannot open shared object file: No such file or directory")
    if not model.loader.quantized:
        raise RuntimeError("call aclnnQuantMatmulV4 failed, detail: simulated: deq_scale is FLOAT, not INT64 or UINT64: config.json has "
                            f"quantize {model.config.get('quantize')!r}, so nothing was converted for the W8A8 operators")
    if dtype != "float16":
        raise RuntimeError(f"simulated: expected scalar type Half but found {dtype}: config.json has torch_dtype {dtype!r}, "
                            "the W8A8 operators compute in float16")
    for name in startup.PRIVATE_OPERATORS:
        if not hasattr(torch_npu, name):
            raise AttributeError(f"module 'torch_npu' has no attribute '{name}'")
    for key, kind in sorted(model.linears.items()):
        _check_linear(model, key, kind)
    for number in range(model.dense_layers, model.config["num_hidden_layers"]):
        for part in ("gate", "up", "down"):
            _check_experts(model, f"blk.{number}.ffn_{part}_exps", part)
    if model.architecture == "DeepseekV2ForCausalLM":
        raise RuntimeError("simulated: the router has no e_score_correction_bias: config.json has architectures DeepseekV2ForCausalLM")


def _check_linear(model: LoadedModel, key: str, kind: str) -> None:
    weight = model.tensors[key + ".weight"]
    if key == "output":
        return
    attention = ".attn_" in key
    if kind == "bare" or (attention and kind != "static"):
        operator, argument = ("_npu_quantize_per_tensor", "scale") if attention else ("npu_quant_matmul", "scale")
        raise TypeError(f"{operator}(): argument '{argument}' must be Tensor, not NoneType (simulated: {key} has no "
                        f"{'deq_scale' if attention else 'weight_scale'})")
    if weight.dtype != "I8":
        raise RuntimeError(f"call aclnnQuantMatmulV4 failed, detail: simulated: {key}.weight is {weight.dtype}, not I8")
    rows = weight.shape[0]
    lengths = ({"deq_scale": rows, "quant_bias": rows, "input_scale": 1, "input_offset": 1} if kind == "static"
               else {"weight_scale": rows, "weight_offset": rows})
    for suffix, length in lengths.items():
        found = model.tensors[f"{key}.{suffix}"].elements
        if found != length:
            raise RuntimeError(f"call aclnnQuantMatmulV4 failed, detail: simulated: {key}.{suffix} has {found} elements, "
                                f"the operator expects {length}")


def _check_experts(model: LoadedModel, key: str, part: str) -> None:
    config = model.config
    ggml_type = model.types[key]
    if ggml_type not in GGML_BLOCKS:
        raise RuntimeError(f"simulated: {key}.ggml_type is {ggml_type}; the simulated experts know "
                            + ", ".join(f"{number} {block[0]}" for number, block in sorted(GGML_BLOCKS.items())))
    _, elements, size = GGML_BLOCKS[ggml_type]
    rows, columns = config["moe_intermediate_size"], config["hidden_size"]
    if part == "down":
        rows, columns = columns, rows
    expected = config["n_routed_experts"] * rows * (columns // elements) * size
    found = model.tensors[key + ".weight"].size
    if found != expected:
        raise RuntimeError(f"simulated: {key}.weight has {found} bytes, {config['n_routed_experts']} experts of {rows} x {columns} "
                            f"{GGML_BLOCKS[ggml_type][0]} have {expected}: the CPU's expert code would read past the end (Segmentation fault)")


def loaded_runtime() -> tuple:
    """(path, content, None) of libruntime.so as a process loads it when it starts, or (path, None, why it cannot). It keeps that until it ends."""
    library = os.path.join(os.environ.get("ASCEND_TOOLKIT_HOME", ""), "lib64", "libruntime.so")
    try:
        with open(library, "rb") as stream:
            return library, stream.read(), None
    except OSError as error:
        return library, None, error.strerror


def check_graph(runtime: tuple) -> None:
    """Capturing a graph whose experts run on the CPU needs the replaced libruntime.so. runtime: what loaded_runtime said when the process started.

    ASSUMPTION: with the pristine one the callback cannot be recorded, and the capture fails.
    """
    library, content, error = runtime
    if content is None:
        raise RuntimeError(f"simulated: NPU graph capture cannot read {library}: {error}")
    if GRAPH_MARK not in content:
        raise RuntimeError(f"simulated: NPU graph capture failed: {library} is the toolkit's own and cannot record a host callback; "
                            "it is not the libruntime.so of ktransformers/util/npu_graph_so")


# Stands in the .rodata of the libruntime.so that the source tree carries.
GRAPH_MARK = b"simulated libruntime.so with graph capture callbacks"
