# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""DeepSeek-V3 on the CPU with numpy: the forward pass over the tensors of a merged folder, for models that are tiny.

Attention is MLA without absorption, in float32; linears do what the NPU's operators do with W8A8: static ones quantize their
input by one scale and offset, dynamic ones by a scale a token; experts are dequantized by their ggml_type. Conversions at load
(deq_scale through float16, BF16 to float16) are those of the engine's loader.
Model: https://huggingface.co/deepseek-ai/DeepSeek-R1 (modeling_deepseek.py), rope scaling: YaRN, https://arxiv.org/abs/2309.00071
"""

from __future__ import annotations

import math

import numpy

from . import ggml

DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1"}


def array(dtype: str, shape: tuple, data: bytes) -> numpy.ndarray:
    """A safetensors tensor. BF16 becomes what the loader makes of it: float16 (here widened again)."""
    if dtype == "BF16":
        wide = (numpy.frombuffer(data, "<u2").astype(numpy.uint32) << 16).view(numpy.float32)
        with numpy.errstate(over="ignore"):
            return wide.astype(numpy.float16).astype(numpy.float32).reshape(shape)
    return numpy.frombuffer(data, DTYPES[dtype]).reshape(shape)


def quantized(values, saturate: bool = True):
    """Rounded to int8, as floating-point numbers; `saturate` False leaves larger values as they are."""
    whole = numpy.rint(values)
    return numpy.clip(whole, -128, 127) if saturate else whole


class Plain:
    """y = W x"""

    def __init__(self, weight):
        self.weight = numpy.asarray(weight, numpy.float32)

    def __call__(self, x):
        return x @ self.weight.T


class Static:
    """W8A8 with one scale and offset of the input, measured by the quantizer: y = (Wq q(x) + bias) deq_scale

    What is larger than the quantizer saw saturates, on an NPU always.
    """

    def __init__(self, weight, deq_scale, quant_bias, input_scale, input_offset, saturate: bool = True):
        self.saturate = saturate
        self.weight = weight.astype(numpy.float64)
        # The loader takes deq_scale through float16. An int64 one (float32 bits) becomes inf there, and every answer NaN.
        with numpy.errstate(over="ignore"):
            self.scale = deq_scale.astype(numpy.float16).astype(numpy.float32)
        self.bias = quant_bias.astype(numpy.float64)
        self.input_scale, self.input_offset = float(input_scale.reshape(-1)[0]), float(input_offset.reshape(-1)[0])

    def __call__(self, x):
        sums = quantized(x / self.input_scale + self.input_offset, self.saturate).astype(numpy.float64) @ self.weight.T
        return ((sums + self.bias) * self.scale).astype(numpy.float32)


class Dynamic:
    """W8A8 with a scale a token: y = (Wq q(x)) weight_scale scale(x). The offsets are asked for, and no operator takes them."""

    def __init__(self, weight, weight_scale):
        self.weight = weight.astype(numpy.float32)
        self.scale = weight_scale.astype(numpy.float32).reshape(-1)

    def __call__(self, x):
        largest = numpy.max(numpy.abs(x), axis=-1, keepdims=True)
        scale = numpy.where(largest == 0, 1, largest) / 127
        return (quantized(x / scale) @ self.weight.T) * self.scale * scale


class Norm:
    """RMSNorm with the bias that smoothing leaves behind."""

    def __init__(self, weight, bias, epsilon):
        self.weight, self.bias, self.epsilon = weight.astype(numpy.float32), bias.astype(numpy.float32), epsilon

    def __call__(self, x):
        return x / numpy.sqrt(numpy.mean(x * x, axis=-1, keepdims=True) + self.epsilon) * self.weight + self.bias


def silu(x):
    return x / (1 + numpy.exp(-x))


def sigmoid(x):
    return 1 / (1 + numpy.exp(-x))


class Rope:
    """YaRN's frequencies; rotates pairs of neighbours."""

    def __init__(self, config: dict):
        size, base, scaling = config["qk_rope_head_dim"], config["rope_theta"], config["rope_scaling"]
        exponents = numpy.arange(0, size, 2, dtype=numpy.float64) / size
        frequencies = base ** -exponents
        self.attention = 1.0
        if scaling:
            factor, original = scaling["factor"], scaling["original_max_position_embeddings"]

            def dimension(rotations):
                return size * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(base))

            low = max(math.floor(dimension(scaling["beta_fast"])), 0)
            high = min(math.ceil(dimension(scaling["beta_slow"])), size - 1)
            ramp = numpy.clip((numpy.arange(size // 2) - low) / max(high - low, 0.001), 0, 1)
            frequencies = frequencies / factor * ramp + frequencies * (1 - ramp)
            magnitude = mscale(factor, scaling.get("mscale_all_dim", 0))
            self.attention = magnitude * magnitude
            self.magnitude = mscale(factor, scaling.get("mscale", 1)) / magnitude
        else:
            self.magnitude = 1.0
        self.frequencies = frequencies

    def __call__(self, x, positions):
        """x: [tokens, …, size]; rotated by the tokens' positions."""
        angles = positions[:, None] * self.frequencies
        shape = (len(positions), *([1] * (x.ndim - 2)), len(self.frequencies))
        cosine = (numpy.cos(angles) * self.magnitude).reshape(shape)
        sine = (numpy.sin(angles) * self.magnitude).reshape(shape)
        even, odd = x[..., 0::2], x[..., 1::2]
        rotated = numpy.empty_like(x)
        rotated[..., 0::2] = even * cosine - odd * sine
        rotated[..., 1::2] = even * sine + odd * cosine
        return rotated


def mscale(factor: float, weight: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0


class Attention:
    def __init__(self, config: dict, q_a, q_a_norm, q_b, kv_a, kv_a_norm, kv_b, output):
        self.q_a, self.q_a_norm, self.q_b = q_a, q_a_norm, q_b
        self.kv_a, self.kv_a_norm, self.kv_b, self.output = kv_a, kv_a_norm, kv_b, output
        self.heads, self.nope, self.rope_size = config["num_attention_heads"], config["qk_nope_head_dim"], config["qk_rope_head_dim"]
        self.value, self.rank = config["v_head_dim"], config["kv_lora_rank"]
        self.rope = Rope(config)
        self.scale = (self.nope + self.rope_size) ** -0.5 * self.rope.attention

    def __call__(self, x, positions, cache: dict):
        tokens = len(x)
        query = self.q_b(self.q_a_norm(self.q_a(x))).reshape(tokens, self.heads, -1)
        query_rope = self.rope(query[..., self.nope:], positions)
        packed = self.kv_a(x)
        key_rope = self.rope(packed[:, self.rank:], positions)
        unpacked = self.kv_b(self.kv_a_norm(packed[:, :self.rank])).reshape(tokens, self.heads, -1)
        for name, new in (("nope", unpacked[..., :self.nope]), ("value", unpacked[..., self.nope:]), ("rope", key_rope)):
            cache[name] = numpy.concatenate([cache[name], new]) if name in cache else new
        scores = (numpy.einsum("qhd,khd->hqk", query[..., :self.nope], cache["nope"])
                  + numpy.einsum("qhd,kd->hqk", query_rope, cache["rope"])) * self.scale
        scores = numpy.where(numpy.arange(len(cache["rope"]))[None, None, :] > positions[None, :, None], -numpy.inf, scores)
        weights = numpy.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        mixed = numpy.einsum("hqk,khd->qhd", weights, cache["value"]).reshape(tokens, self.heads * self.value)
        return self.output(mixed.astype(numpy.float32))


class Mlp:
    def __init__(self, gate, up, down):
        self.gate, self.up, self.down = gate, up, down

    def __call__(self, x):
        return self.down(silu(self.gate(x)) * self.up(x))


class Moe:
    """Sigmoid router with a correction bias that chooses but does not weigh (noaux_tc), groups first; one shared expert beside."""

    def __init__(self, config: dict, router, correction, experts: list, shared: Mlp):
        self.router, self.correction = router.astype(numpy.float32), correction.astype(numpy.float32)
        self.experts, self.shared = experts, shared
        self.top = config["num_experts_per_tok"]
        self.groups, self.top_groups = config.get("n_group") or 1, config.get("topk_group") or 1
        self.factor, self.normalize = config.get("routed_scaling_factor", 1.0), config.get("norm_topk_prob", True)

    def choose(self, x):
        """(indices [tokens, top], weights [tokens, top])"""
        scores = sigmoid(x @ self.router.T)
        choice = scores + self.correction
        if self.groups > 1:
            grouped = choice.reshape(len(x), self.groups, -1)
            best = numpy.sort(grouped, axis=-1)[..., -2:].sum(axis=-1)
            kept = numpy.argsort(-best, axis=-1, kind="stable")[:, :self.top_groups]
            mask = numpy.zeros(best.shape, bool)
            numpy.put_along_axis(mask, kept, True, axis=-1)
            choice = numpy.where(mask[..., None], grouped, -numpy.inf).reshape(choice.shape)
        indices = numpy.argsort(-choice, axis=-1, kind="stable")[:, :self.top]
        weights = numpy.take_along_axis(scores, indices, axis=-1)
        if self.normalize:
            weights = weights / (weights.sum(axis=-1, keepdims=True) + 1e-20)
        return indices, weights * self.factor

    def __call__(self, x):
        result = self.shared(x)
        indices, weights = self.choose(x)
        for number, expert in enumerate(self.experts):
            tokens, places = numpy.nonzero(indices == number)
            if len(tokens):
                result[tokens] += expert(x[tokens]) * weights[tokens, places][:, None]
        return result


class ForwardModel:
    """Layers by name: `weights` has embedding, layers [(attention norm, attention, mlp norm, mlp)], norm, head."""

    def __init__(self, weights: dict):
        self.weights = weights

    def start(self, tokens: list):
        self.pending, self.length = list(tokens), 0
        self.caches: list = [{} for _ in self.weights["layers"]]
        return self

    def step(self, token=None):
        """The logits after the prompt, or after one more token."""
        return self.logits([token] if token is not None else self.pending)[-1]

    def logits(self, tokens: list):
        """[tokens, vocabulary], continuing what the cache holds. NaN is an answer, not an error: ruined scales make it."""
        with numpy.errstate(invalid="ignore", over="ignore"):
            return self._logits(tokens)

    def _logits(self, tokens: list):
        positions = numpy.arange(self.length, self.length + len(tokens))
        x = self.weights["embedding"][numpy.asarray(tokens)]
        for cache, (attention_norm, attention, mlp_norm, mlp) in zip(self.caches, self.weights["layers"]):
            x = x + attention(attention_norm(x), positions, cache)
            x = x + mlp(mlp_norm(x))
        self.length += len(tokens)
        return self.weights["head"](self.weights["norm"](x))


def weights_of(model, saturate: bool = True) -> dict:
    """What a merged folder holds (contract.LoadedModel, checked by first_prompt), as layers to call."""
    config = model.config
    epsilon = config.get("rms_norm_eps", 1e-6)

    def read(name):
        tensor = model.tensors[name]
        return array(tensor.dtype, tensor.shape, tensor.read())

    def linear(key):
        kind = model.linears[key]
        if kind == "static":
            return Static(*(read(f"{key}.{suffix}") for suffix in ("weight", "deq_scale", "quant_bias", "input_scale", "input_offset")), saturate)
        if kind == "dynamic":
            return Dynamic(read(key + ".weight"), read(key + ".weight_scale"))
        return Plain(read(key + ".weight"))

    def norm(key):
        return Norm(read(key + ".weight"), read(key + ".bias"), epsilon)

    def experts(layer):
        count, rows, columns = config["n_routed_experts"], config["moe_intermediate_size"], config["hidden_size"]
        parts = []
        for part in ("gate", "up", "down"):
            key = f"{layer}.ffn_{part}_exps"
            shape = (count, columns, rows) if part == "down" else (count, rows, columns)
            parts.append(ggml.dequantize(model.tensors[key + ".weight"].read(), model.types[key], shape))
        return [Mlp(*(Plain(part[number]) for part in parts)) for number in range(count)]

    layers = []
    for number in range(config["num_hidden_layers"]):
        layer = f"blk.{number}"
        attention = Attention(config, linear(layer + ".attn_q_a"), norm(layer + ".attn_q_a_norm"), linear(layer + ".attn_q_b"),
                              linear(layer + ".attn_kv_a_mqa"), norm(layer + ".attn_kv_a_norm"), Plain(read(layer + ".attn_kv_b.weight")),
                              linear(layer + ".attn_output"))
        if number < config["first_k_dense_replace"]:
            mlp = Mlp(*(linear(f"{layer}.ffn_{part}") for part in ("gate", "up", "down")))
        else:
            mlp = Moe(config, read(layer + ".ffn_gate_inp.weight"), read(layer + ".exp_probs_b.bias"), experts(layer),
                      Mlp(*(linear(f"{layer}.ffn_{part}_shexp") for part in ("gate", "up", "down"))))
        layers.append((norm(layer + ".attn_norm"), attention, norm(layer + ".ffn_norm"), mlp))
    return {"embedding": read("token_embd.weight").astype(numpy.float32), "layers": layers, "norm": norm("output_norm"), "head": linear("output")}
