"""The simulated engine computes: a merged folder answers as the same model does, taken from its GGUF alone.

The GGUF side shares only the network's wiring with the engine: its weights are dequantized by the gguf library, and nothing in it is
W8A8. How alike two logits are is their cosine, and the limit is 0.95; the real engine's code reached 0.978 against the unquantized
model. Two things make a single prompt a poor judge of this tiny random model, so many short ones are asked and the median counts:
 - both sides are quantized, each in its way (every linear of the GGUF is 7 % off), and where two experts are nearly equal
   the router then takes another one;
 - the pair was calibrated on few tokens, so activations beyond what was seen saturate (0.978 instead of 0.996 with the real code).
   Saturation is left out here: it says nothing about the merge.
"""

from __future__ import annotations

import json
import struct

import gguf
import numpy
import pytest

from tests.simulator.engine import contract, forward, ggml, loader
from tests.unit.simulator.engine import merging

LIKE = 0.95
GENERATOR = numpy.random.default_rng(5)
# Tokens of the tiny vocabulary, the two special ones left out.
PROMPTS = [GENERATOR.integers(2, 320, length).tolist() for length in (1, 2) for _ in range(60)]
LONG = GENERATOR.integers(2, 320, 16).tolist()


def loaded(folder):
    config = json.loads((folder / "config.json").read_text())
    return contract.load(config, config["architectures"][0], loader.GGUFLoader(str(folder), config["quantize"]))


def answers_of(model) -> list:
    """The logits after each prompt."""
    return [model.start(prompt).step() for prompt in PROMPTS]


@pytest.fixture(scope="module")
def merged():
    return merging.contents()


@pytest.fixture(scope="module")
def reference():
    """The model of the GGUF, in float32."""
    config = json.loads((merging.PAIR / "w8a8" / "config.json").read_text())
    raw = {name: gguf.dequantize(tensor.data, tensor.tensor_type) for name, tensor in merging.gguf_tensors(merging.PAIR / "gguf").items()}
    epsilon = config["rms_norm_eps"]

    def linear(name):
        return forward.Plain(raw[name + ".weight"])

    def norm(name):
        return forward.Norm(raw[name + ".weight"], numpy.zeros(len(raw[name + ".weight"]), numpy.float32), epsilon)

    def kv_b(layer):
        # [heads, rank, nope] and [heads, value, rank] of llama.cpp, as one matrix again.
        keys = raw[layer + ".attn_k_b.weight"].transpose(0, 2, 1)
        return forward.Plain(numpy.concatenate([keys, raw[layer + ".attn_v_b.weight"]], axis=1).reshape(-1, config["kv_lora_rank"]))

    layers = []
    for number in range(config["num_hidden_layers"]):
        layer = f"blk.{number}"
        attention = forward.Attention(config, linear(layer + ".attn_q_a"), norm(layer + ".attn_q_a_norm"), linear(layer + ".attn_q_b"),
                                      linear(layer + ".attn_kv_a_mqa"), norm(layer + ".attn_kv_a_norm"), kv_b(layer), linear(layer + ".attn_output"))
        if number < config["first_k_dense_replace"]:
            mlp = forward.Mlp(*(linear(f"{layer}.ffn_{part}") for part in ("gate", "up", "down")))
        else:
            experts = [forward.Mlp(*(forward.Plain(raw[f"{layer}.ffn_{part}_exps.weight"][expert]) for part in ("gate", "up", "down")))
                       for expert in range(config["n_routed_experts"])]
            shared = forward.Mlp(*(linear(f"{layer}.ffn_{part}_shexp") for part in ("gate", "up", "down")))
            mlp = forward.Moe(config, raw[layer + ".ffn_gate_inp.weight"], raw[layer + ".exp_probs_b.bias"], experts, shared)
        layers.append((norm(layer + ".attn_norm"), attention, norm(layer + ".ffn_norm"), mlp))
    model = forward.ForwardModel({"embedding": raw["token_embd.weight"], "layers": layers, "norm": norm("output_norm"), "head": linear("output")})
    return answers_of(model)


def cosine(ours, theirs) -> float:
    ours, theirs = ours.astype(numpy.float64), theirs.astype(numpy.float64)
    return float(ours @ theirs / numpy.sqrt((ours @ ours) * (theirs @ theirs)))


def likeness(folder, reference) -> float:
    """The median over the prompts of how alike the logits of a merged folder and of the GGUF are."""
    model = forward.ForwardModel(forward.weights_of(loaded(folder), saturate=False))
    return float(numpy.median([cosine(ours, theirs) for ours, theirs in zip(answers_of(model), reference)]))


def test_the_correct_merge_answers_as_the_gguf_does(merged, reference, tmp_path):
    assert likeness(merging.write_folder(tmp_path, merged), reference) > LIKE


def swapped_experts(merged, layer=1, first=0, second=1):
    """Experts `first` and `second` of a layer change places, in each of the three matrices."""
    changed = dict(merged)
    for part in ("gate", "up", "down"):
        name = f"blk.{layer}.ffn_{part}_exps.weight"
        dtype, shape, data = merged[name]
        third = len(data) // 3
        experts = [data[index * third:(index + 1) * third] for index in range(3)]
        experts[first], experts[second] = experts[second], experts[first]
        changed[name] = (dtype, shape, b"".join(experts))
    return changed


def another_layers(merged, *names):
    """The tensors of layer 1 that end so come from layer 2."""
    changed = dict(merged)
    for name in merged:
        if name.startswith("blk.1.") and name.endswith(names):
            changed[name] = merged[name.replace("blk.1.", "blk.2.")]
    return changed


def without_norm_biases(merged):
    return {name: (dtype, shape, bytes(len(data)) if name.endswith("norm.bias") else data) for name, (dtype, shape, data) in merged.items()}


def exchanged_projections(merged):
    """gate and up of the routed experts are exchanged: same sizes, same types."""
    changed = dict(merged)
    for layer in (1, 2):
        gate, up = f"blk.{layer}.ffn_gate_exps.weight", f"blk.{layer}.ffn_up_exps.weight"
        changed[gate], changed[up] = merged[up], merged[gate]
    return changed


@pytest.mark.parametrize("damage", [
    pytest.param(swapped_experts, id="two-experts-swapped"),
    pytest.param(lambda merged: swapped_experts(merged, layer=2, first=0, second=2), id="two-experts-of-the-last-layer-swapped"),
    pytest.param(without_norm_biases, id="norm-biases-zeroed"),
    pytest.param(exchanged_projections, id="gate-and-up-exchanged"),
    pytest.param(lambda merged: another_layers(merged, ".deq_scale"), id="another-layers-scales"),
    pytest.param(lambda merged: another_layers(merged, "shexp.weight"), id="another-layers-shared-expert"),
])
def test_a_wrong_merge_answers_otherwise(merged, reference, tmp_path, damage):
    assert likeness(merging.write_folder(tmp_path, damage(merged)), reference) < LIKE


def test_int64_scales_are_ruined_as_in_the_engine(merged, tmp_path):
    changed = {}
    for name, (dtype, shape, data) in merged.items():
        if name.endswith(".deq_scale"):
            dtype, data = "I64", b"".join(struct.pack("<q", bits) for bits in struct.unpack(f"<{len(data) // 4}I", data))
        changed[name] = (dtype, shape, data)
    weights = forward.weights_of(loaded(merging.write_folder(tmp_path, changed)))
    assert numpy.isnan(forward.ForwardModel(weights).start(LONG).step()).all()


def test_one_token_at_a_time_gives_the_same_logits(merged, tmp_path):
    weights = forward.weights_of(loaded(merging.write_folder(tmp_path, merged)))
    together = forward.ForwardModel(weights).start(LONG).logits(LONG)
    model = forward.ForwardModel(weights).start(LONG[:1])
    alone = [model.step(), *(model.step(token) for token in LONG[1:])]
    assert min(cosine(one, other) for one, other in zip(alone, together)) > 0.9999


@pytest.mark.parametrize("kind", ["F32", "F16", "Q8_0", "Q4_K", "Q6_K"])
def test_blocks_are_dequantized_as_the_gguf_library_does(kind):
    type_number = gguf.GGMLQuantizationType[kind]
    elements, size = gguf.GGML_QUANT_SIZES[type_number]
    rows, columns = 6, 512
    generator = numpy.random.default_rng(7)
    if kind in ("F32", "F16"):
        data = generator.standard_normal((rows, columns)).astype(numpy.dtype("<f4" if kind == "F32" else "<f2"))
        blocks = data.view(numpy.uint8)
    else:
        # Any bytes are valid blocks, but for their float16 scales, which shall be numbers of ordinary size.
        blocks = generator.integers(0, 256, (rows * columns // elements, size), dtype=numpy.uint8)
        for offset in {"Q8_0": (0,), "Q4_K": (0, 2), "Q6_K": (208,)}[kind]:
            blocks[:, offset:offset + 2] = generator.standard_normal((len(blocks), 1)).astype("<f2").view(numpy.uint8)
        blocks = blocks.reshape(rows, -1)
    expected = gguf.dequantize(blocks if kind not in ("F32", "F16") else data, type_number)
    numpy.testing.assert_allclose(ggml.dequantize(blocks.tobytes(), int(type_number), (rows, columns)), expected, rtol=1e-5, atol=1e-6)


def test_groups_of_experts_are_chosen_first():
    config = {"num_experts_per_tok": 2, "n_group": 2, "topk_group": 1, "routed_scaling_factor": 2.0, "norm_topk_prob": True}
    # One token, one feature: the router's rows are the logits. The best single expert is 0, the better group is the second one.
    moe = forward.Moe(config, numpy.array([[3.0], [-9.0], [2.0], [1.0]]), numpy.zeros(4), [], None)
    indices, weights = moe.choose(numpy.ones((1, 1), numpy.float32))
    assert indices.tolist() == [[2, 3]]
    assert weights.sum() == pytest.approx(2.0)
    assert weights[0, 0] / weights[0, 1] == pytest.approx(forward.sigmoid(2.0) / forward.sigmoid(1.0), rel=1e-5)
