# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The order in which the NPU rule's modules ask for their tensors, and what they do about one that is missing.

Recorded from the real engine (public branch support-npu b9828153; kvcache-ai c007d40b asks the same names in the same order).
Nothing but names is looked at here: shapes, lengths and types are first noticed at the first prompt (first_prompt.py).
"""

from __future__ import annotations

from .loader import GGUFLoader

ASCEND = "ktransformers.operators.ascend."
LINEAR = (ASCEND + "ascend_linear", "KTransformersLinearW8A8A2")
NORM = (ASCEND + "ascend_layernorm", "KDeepseekV3RMSNormW8A8")
ATTENTION = (ASCEND + "ascend_attention", "KDeepseekV2AttentionW8A8A2")
STATIC = ("weight", "deq_scale", "quant_bias", "input_scale", "input_offset")
DYNAMIC = ("weight", "weight_scale", "weight_offset")


class LoadedModel:
    """What was loaded: `tensors` by name, and how each linear is quantized: static, dynamic or bare (no scales found)."""

    def __init__(self, config: dict, architecture: str, loader: GGUFLoader):
        self.config = config
        self.architecture = architecture
        self.loader = loader
        self.tensors: dict = {}
        self.linears: dict = {}
        self.types: dict = {}

    @property
    def dense_layers(self) -> int:
        return self.config["first_k_dense_replace"]


class _Loading:
    def __init__(self, model: LoadedModel):
        self.model = model
        self.loader = model.loader
        self.device = "npu:0"

    def ask(self, name: str, called: str = ""):
        tensor = self.loader.ask(name, called)
        self.model.tensors[name] = tensor
        return tensor

    def linear(self, key: str) -> None:
        # Injected linears look the names up before they ask: a missing scale is no error here.
        if not self.loader.has(key + ".weight"):
            self.loader.asked.append(key + ".weight")
            raise FileNotFoundError(f"Weight file not found for key {key}")
        if self.loader.has(key + ".deq_scale"):
            kind, suffixes = "static", STATIC
        elif self.loader.has(key + ".weight_scale"):
            if key.endswith("ffn_up_shexp"):
                # Loaded together with the gate.
                return
            kind, suffixes = "dynamic", DYNAMIC
        else:
            kind, suffixes = "bare", ("weight",)
        self.model.linears[key] = kind
        shapes = []
        for suffix in suffixes:
            shapes.append(self.ask(f"{key}.{suffix}").shape)
            if kind == "dynamic" and key.endswith("ffn_gate_shexp"):
                up = key.replace("ffn_gate_shexp", "ffn_up_shexp")
                self.ask(f"{up}.{suffix}")
                self.model.linears[up] = kind
        if kind != "bare":
            print(f"Loading {key} with shape " + ", ".join(f"torch.Size({list(shape)})" for shape in shapes))

    def parameter(self, name: str) -> None:
        """A plain parameter: embedding on the CPU, kv_b on the NPU."""
        if not self.loader.has(name):
            self.loader.asked.append(name)
            raise Exception(f"can't find {name} in GGUF file!")
        print(f"loading layer {name} to {'cpu' if 'embd' in name else self.device}")
        self.ask(name)

    def norm(self, key: str, called: str) -> None:
        for suffix in ("weight", "bias"):
            self.ask(f"{key}.{suffix}", f"{called}.{suffix}")

    def experts(self, layer: str) -> None:
        names = [f"{layer}.ffn_{part}_exps" for part in ("gate", "up", "down")]
        for name in names:
            self.ask(name + ".weight")
        for name in names:
            tensor = self.ask(name + ".ggml_type")
            if tensor.elements != 1:
                raise RuntimeError(f"a Tensor with {tensor.elements} elements cannot be converted to Scalar")
            self.model.types[name] = int.from_bytes(tensor.read(), "little")

    def moe(self, layer: str) -> None:
        self.experts(layer)
        self.ask(layer + ".ffn_gate_inp.weight")
        if self.model.architecture != "DeepseekV2ForCausalLM":
            # The V2 router has no correction bias: 133 names are asked for instead of 135 (recorded).
            self.ask(layer + ".exp_probs_b.bias")
        for part in ("gate", "up", "down"):
            self.linear(f"{layer}.ffn_{part}_shexp")

    def attention(self, number: int) -> None:
        layer, called = f"blk.{number}", f"model.layers.{number}.self_attn"
        self.linear(layer + ".attn_q_a")
        self.norm(layer + ".attn_q_a_norm", called + ".q_a_layernorm")
        self.linear(layer + ".attn_q_b")
        self.linear(layer + ".attn_kv_a_mqa")
        self.norm(layer + ".attn_kv_a_norm", called + ".kv_a_layernorm")
        self.parameter(layer + ".attn_kv_b.weight")
        self.linear(layer + ".attn_output")
        scaling = self.model.config.get("rope_scaling")
        if scaling is None:
            # The rotary embedding asks `"type" in rope_scaling`.
            raise TypeError("argument of type 'NoneType' is not iterable")

    def layer(self, number: int) -> None:
        layer, called = f"blk.{number}", f"model.layers.{number}"
        self.attention(number)
        if number < self.model.dense_layers:
            for part in ("gate", "up", "down"):
                self.linear(f"{layer}.ffn_{part}")
        else:
            self.moe(layer)
        self.norm(layer + ".attn_norm", called + ".input_layernorm")
        self.norm(layer + ".ffn_norm", called + ".post_attention_layernorm")


def load(config: dict, architecture: str, loader: GGUFLoader, rank: int = 0, merged_operators: str = "0") -> LoadedModel:
    """Ask for every tensor, in order. Raises what the real engine raises at the first one that is missing."""
    model = LoadedModel(config, architecture, loader)
    loading = _Loading(model)
    loading.device = f"npu:{rank}"
    _print_injection(config, merged_operators)
    loading.linear("output")
    loading.parameter("token_embd.weight")
    for number in range(config["num_hidden_layers"]):
        loading.layer(number)
    loading.norm("output_norm", "model.norm")
    loading.linear("output")
    return model


def _print_injection(config: dict, merged_operators: str) -> None:
    words = {"0": "--Use ATB FA-MLA and PA-MLA OP !--", "1": "--Use torch npu FA OP !--"}
    print("Injecting model as ktransformers.operators.models . KDeepseekV2Model")
    print("Injecting model.embed_tokens as default")
    for number in range(config["num_hidden_layers"]):
        name = f"model.layers.{number}"
        _print_module(name + ".self_attn", ATTENTION)
        print(words.get(merged_operators, "--Use default op! --"))
        for part in ("q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "o_proj"):
            _print_module(f"{name}.self_attn.{part}", LINEAR)
        if number >= config["first_k_dense_replace"]:
            _print_module(name + ".mlp", (ASCEND + "ascend_experts", "KDeepseekV3MoEW8A8"))
            _print_module(name + ".mlp.experts", (ASCEND + "ascend_experts", "KTransformersExpertsW8A8"))
            _print_module(name + ".mlp.gate", (ASCEND + "ascend_gate", "KDeepseekV3GateA2"))
        else:
            _print_module(name + ".mlp", (ASCEND + "ascend_mlp", "KDeepseekV3MLPW8A8A2V1"))
        _print_module(name + ".input_layernorm", NORM)
        _print_module(name + ".post_attention_layernorm", NORM)
    _print_module("model.norm", NORM)
    _print_module("lm_head", LINEAR)


def _print_module(name: str, where: tuple) -> None:
    print(f"Injecting {name} as {where[0]} . {where[1]}", flush=True)
