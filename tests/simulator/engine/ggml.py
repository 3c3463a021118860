# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Blocks of ggml types as float32, with numpy: what the experts of a merge are made of.

Formats: ggml-common.h and ggml-quants.c of https://github.com/ggml-org/llama.cpp. Little endian throughout.
"""

from __future__ import annotations

import numpy

SUPER = 256  # elements of a k-quant's super-block


def half(data) -> numpy.ndarray:
    """Two bytes a row as float16, widened."""
    return numpy.ascontiguousarray(data).view("<f2").astype(numpy.float32)


def f32(blocks):
    return blocks.view("<f4")


def f16(blocks):
    return half(blocks)


def q8_0(blocks):
    """32 elements: d (float16), 32 signed bytes."""
    return half(blocks[:, :2]) * blocks[:, 2:].view(numpy.int8).astype(numpy.float32)


def q4_k(blocks):
    """256 elements: d and dmin (float16), 8 six-bit scales and minima in 12 bytes, 128 bytes of four-bit values.

    Of each 32 bytes the low halves are one sub-block of 32 elements, the high halves the next one.
    """
    count = len(blocks)
    scale, least = half(blocks[:, 0:2]), half(blocks[:, 2:4])
    packed = blocks[:, 4:16]
    scales = numpy.empty((count, 8), numpy.float32)
    minima = numpy.empty((count, 8), numpy.float32)
    for index in range(4):
        first, second, third = packed[:, index], packed[:, index + 4], packed[:, index + 8]
        scales[:, index], minima[:, index] = first & 63, second & 63
        scales[:, index + 4] = (third & 15) | ((first >> 6) << 4)
        minima[:, index + 4] = (third >> 4) | ((second >> 6) << 4)
    nibbles = blocks[:, 16:].reshape(count, 4, 1, 32)
    values = numpy.concatenate([nibbles & 15, nibbles >> 4], axis=2).reshape(count, 8, 32).astype(numpy.float32)
    return (values * (scale * scales)[:, :, None] - (least * minima)[:, :, None]).reshape(count, SUPER)


def q6_k(blocks):
    """256 elements: 128 bytes of low halves, 64 of the two high bits, 16 signed scales, d (float16); values are minus 32.

    A half of 128 elements: bytes l and l+32 of 64 low bytes give elements l, l+32 (low) and l+64, l+96 (high).
    """
    count = len(blocks)
    low = blocks[:, :128].reshape(count, 2, 1, 64)
    low = numpy.concatenate([low & 15, low >> 4], axis=2).reshape(count, 2, 4, 32)
    high = blocks[:, 128:192].reshape(count, 2, 1, 32)
    high = numpy.concatenate([(high >> shift) & 3 for shift in (0, 2, 4, 6)], axis=2)
    values = (low | (high << 4)).astype(numpy.float32).reshape(count, 16, 16) - 32
    scales = blocks[:, 192:208].view(numpy.int8).astype(numpy.float32)
    return (values * (half(blocks[:, 208:210]) * scales)[:, :, None]).reshape(count, SUPER)


# ggml_type: (bytes a block, reader)
TYPES = {0: (4, f32), 1: (2, f16), 8: (34, q8_0), 12: (144, q4_k), 14: (210, q6_k)}


def dequantize(data: bytes, ggml_type: int, shape: tuple) -> numpy.ndarray:
    """Raw blocks as float32 of `shape`. Raises KeyError for a type that is not written down here, ValueError for a wrong length."""
    size, reader = TYPES[ggml_type]
    blocks = numpy.frombuffer(data, numpy.uint8).reshape(-1, size)
    return numpy.ascontiguousarray(reader(blocks)).reshape(shape)
