# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import math
import random
import struct

import numpy
import pytest
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights import folder, gguf, halves
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights.errors import WeightsError

from tests.unit.plugins.module_utils.weights.builders import FIXTURES, write_gguf, write_safetensors

SPECIAL = [0.0, -0.0, 1.0, 1.00390625, 1.01171875, 65504.0, 65520.0, 1e-8, 6e-8, 3.4e38, -3.4e38, math.inf, -math.inf]


def floats(count):
    rng = random.Random(7)
    values = [rng.uniform(-4, 4) * 10 ** rng.randint(-6, 4) for _index in range(count)]
    return struct.pack(f"<{count}f", *values)


@pytest.mark.parametrize("raw", [struct.pack(f"<{len(SPECIAL)}f", *SPECIAL), floats(5000)], ids=["special", "random"])
def test_float16_is_rounded_as_numpy_does(raw):
    with numpy.errstate(over="ignore"):
        assert halves.float32_to_float16(raw) == numpy.frombuffer(raw, "<f4").astype("<f2").tobytes()


@pytest.mark.parametrize("bits, expected", [
    (0x3F800000, 0x3F80), (0x3F808000, 0x3F80), (0x3F818000, 0x3F82), (0x3F808001, 0x3F81), (0x3F807FFF, 0x3F80), (0xBF818000, 0xBF82),
    (0x7F7FFFFF, 0x7F80), (0x7F800000, 0x7F80), (0x7F800001, 0x7FC0), (0xFFC00000, 0xFFC0), (0x00000001, 0x0000), (0x80000000, 0x8000), (0x0000FFFF, 0x0001),
])
def test_bfloat16_is_rounded_to_nearest_even(bits, expected):
    assert halves.float32_to_bfloat16(struct.pack("<I", bits)) == struct.pack("<H", expected)


def test_bfloat16_of_many():
    raw = floats(5000)
    expected = [((value + 0x7FFF + ((value >> 16) & 1)) >> 16) & 0xFFFF for value in struct.unpack("<5000I", raw)]
    assert halves.float32_to_bfloat16(raw) == struct.pack("<5000H", *expected)


@pytest.mark.parametrize("pair, form", [("tiny-a", "w8a8"), ("tiny-a", "fp8"), ("tiny-deepseek-v3", "w8a8"), ("tiny-deepseek-v3", "fp8"),
                                        ("tiny-msmodelslim", "w8a8")])
def test_the_pairs_are_one_model(pair, form):
    found = halves.compare(folder.inspect(str(FIXTURES / pair / form), 3), gguf.read_set(str(FIXTURES / pair / "gguf")))
    assert found == halves.Halves(6, 6, (), ())


@pytest.mark.parametrize("mode, severities", [("strict", ["error"]), ("warn", ["warning"]), ("off", [])])
def test_a_foreign_pair_of_the_same_shapes(mode, severities):
    found = halves.compare(folder.inspect(str(FIXTURES / "tiny-msmodelslim" / "w8a8"), 3), gguf.read_set(str(FIXTURES / "tiny-a" / "gguf")))
    assert (found.equal, found.compared) == (0, 6)
    problems = halves.check(found, mode)
    assert [item["severity"] for item in problems] == severities
    assert all(item["observed"] == "safetensors and GGUF are not of one model: 0 of 6 router and norm tensors agree (different: "
               "model.layers.0.post_attention_layernorm.weight, model.layers.1.mlp.gate.weight, model.layers.1.post_attention_layernorm.weight "
               "and 3 more)" for item in problems)


def test_an_unknown_mode():
    with pytest.raises(WeightsError, match="halves is 'maybe'; strict, warn or off was expected"):
        halves.check(halves.Halves(1, 1, (), ()), "maybe")


def pair(tmp_path, dtype, shape, raw, kind, other):
    write_safetensors(tmp_path / "x.safetensors", {"model.norm.weight": (dtype, shape, raw)})
    write_gguf(tmp_path / "g.gguf", {}, {"output_norm.weight": (kind, tuple(reversed(shape)), other)})
    return halves.compare(folder.inspect(str(tmp_path), 3), gguf.read_set(str(tmp_path / "g.gguf")))


VALUES = floats(256)


@pytest.mark.parametrize("dtype, raw, kind, other", [
    pytest.param("F32", VALUES, 0, VALUES, id="f32-f32"),
    pytest.param("BF16", halves.float32_to_bfloat16(VALUES), 0, VALUES, id="bf16-f32"),
    pytest.param("F16", halves.float32_to_float16(VALUES), 0, VALUES, id="f16-f32"),
    pytest.param("F16", halves.float32_to_float16(VALUES), 1, halves.float32_to_float16(VALUES), id="f16-f16"),
    pytest.param("BF16", halves.float32_to_bfloat16(VALUES), 30, halves.float32_to_bfloat16(VALUES), id="bf16-bf16"),
    pytest.param("F32", numpy.frombuffer(halves.float32_to_float16(VALUES), "<f2").astype("<f4").tobytes(), 1, halves.float32_to_float16(VALUES),
                 id="f32-f16"),
])
def test_dtypes(tmp_path, dtype, raw, kind, other):
    assert pair(tmp_path, dtype, (256,), raw, kind, other) == halves.Halves(1, 1, (), ())
    changed = raw[:-1] + bytes([raw[-1] ^ 1])
    assert pair(tmp_path, dtype, (256,), changed, kind, other) == halves.Halves(0, 1, ("model.norm.weight",), ())


def test_other_shapes_differ(tmp_path):
    write_safetensors(tmp_path / "x.safetensors", {"model.norm.weight": ("F32", (256,), VALUES)})
    write_gguf(tmp_path / "g.gguf", {}, {"output_norm.weight": (0, (128,), VALUES[:512])})
    found = halves.compare(folder.inspect(str(tmp_path), 3), gguf.read_set(str(tmp_path / "g.gguf")))
    assert found == halves.Halves(0, 1, ("model.norm.weight",), ())


def test_nothing_to_compare(tmp_path):
    found = pair(tmp_path, "I8", (256,), bytes(256), 0, VALUES)
    assert found == halves.Halves(0, 0, (), ("model.norm.weight",))
    assert [(item["id"], item["severity"]) for item in halves.check(found, "strict")] == [("halves_not_compared", "error")]


def test_large_tensors_are_sampled(tmp_path):
    count = 4 * halves.WHOLE
    raw = numpy.arange(count, dtype="<f4").tobytes()
    assert pair(tmp_path, "F32", (count,), raw, 0, raw).equal == 1
    for place in (0, 4 * (count - 1)):  # first and last element are always looked at
        changed = bytearray(raw)
        changed[place] ^= 1
        assert pair(tmp_path, "F32", (count,), bytes(changed), 0, raw).equal == 0
