# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether the two halves of a merge, safetensors and GGUF, come from one model.

Router, post-attention norms and final norm stand in both. The GGUF has them in F32, quantizers leave them alone (smoothing changes
other norms only): rounded to the safetensors' dtype they are equal to the bit, and in no two models that were tried are any. So a
rotated export or the GGUF of another model is found. Tried with the exports of five versions of msModelSlim, bf16, fp16 and fp8.
"""

from __future__ import annotations

import array
import os
import struct
import sys
from typing import Dict, List, NamedTuple, Tuple

from ansible_collections.npuops.ktransformers.plugins.module_utils.weights import names
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights.errors import Problem, WeightsError, problem, shortened
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights.files import open_regular, pread_exact
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights.folder import Folder
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights.gguf import GgufSet

# A tensor of up to so many elements is read whole, of a larger one (R1's routers: 1.8 million) so many in spread pieces.
WHOLE = 65536
_PIECES, _PIECE = 4, 4096
_GGUF_WIDTH = {0: 4, 1: 2, 30: 2}
_WIDTH = {"F32": 4, "F16": 2, "BF16": 2}


class Halves(NamedTuple):
    """equal of compared tensors agree; different names those that do not, skipped those that cannot be compared."""

    equal: int
    compared: int
    different: Tuple[str, ...]
    skipped: Tuple[str, ...]


def _u16(raw: bytes) -> array.array[int]:
    values = array.array("H", raw)
    if sys.byteorder != "little":
        values.byteswap()
    return values


def _bytes(values: array.array[int]) -> bytes:
    if sys.byteorder != "little":
        values.byteswap()
    return values.tobytes()


def float32_to_bfloat16(raw: bytes) -> bytes:
    """Round to nearest even, as torch does; NaN stays NaN."""
    halves = _u16(raw)
    low, high = halves[0::2], halves[1::2]
    if low.tobytes().count(0) == 2 * len(low):  # was bfloat16 before: the usual case, and a hundred times faster
        return _bytes(high)
    rounded = array.array("H")
    for below, above in zip(low, high):
        if above & 0x7F80 == 0x7F80 and (above & 0x7F or below):
            rounded.append(above | 0x40)
        else:
            rounded.append((above + (below > 0x8000 or (below == 0x8000 and above & 1))) & 0xFFFF)
    return _bytes(rounded)


def float32_to_float16(raw: bytes) -> bytes:
    """Round to nearest even; what is too large becomes infinite."""
    values = struct.unpack(f"<{len(raw) // 4}f", raw)
    try:
        return struct.pack(f"<{len(values)}e", *values)
    except (OverflowError, struct.error):
        return b"".join(_one_float16(value) for value in values)


def _one_float16(value: float) -> bytes:
    try:
        return struct.pack("<e", value)
    except (OverflowError, struct.error):
        return struct.pack("<e", float("inf") if value > 0 else float("-inf"))


def _float32(raw: bytes, ggml_type: int) -> bytes:
    """F32 bytes of F32, F16 or BF16 ones."""
    if ggml_type == 0:
        return raw
    if ggml_type == 1:
        count = len(raw) // 2
        return struct.pack(f"<{count}f", *struct.unpack(f"<{count}e", raw))
    wide = array.array("H", bytes(2 * len(raw)))
    wide[1::2] = _u16(raw)
    return _bytes(wide)


def rounded(raw: bytes, ggml_type: int, dtype: str) -> bytes:
    """The GGUF's bytes as the safetensors' dtype has them."""
    if (ggml_type, dtype) in ((1, "F16"), (30, "BF16")):
        return raw
    wide = _float32(raw, ggml_type)
    if dtype == "F32":
        return wide
    return float32_to_float16(wide) if dtype == "F16" else float32_to_bfloat16(wide)


def is_common(name: str) -> bool:
    """Whether a checkpoint's tensor stands unchanged in both halves."""
    return name == "model.norm.weight" or (name.startswith("model.layers.")
                                           and name.endswith((".mlp.gate.weight", ".post_attention_layernorm.weight")))


def _spans(count: int) -> List[Tuple[int, int]]:
    """(first element, elements) to be compared of a tensor of `count` elements."""
    if count <= WHOLE:
        return [(0, count)]
    step = (count - _PIECE) // (_PIECES - 1)
    return [(number * step, _PIECE) for number in range(_PIECES)]


def compare(folder: Folder, gguf: GgufSet) -> Halves:
    """Compare what both halves have; reads some hundred KB of each."""
    equal: List[str] = []
    different: List[str] = []
    skipped: List[str] = []
    opened: Dict[str, int] = {}

    def read(path: str, offset: int, size: int) -> bytes:
        if path not in opened:
            opened[path] = open_regular(path)[0]
        return pread_exact(opened[path], size, offset, path)

    try:
        for tensor in folder.kept:
            place = gguf.tensors.get(names.engine_name(tensor.name)) if is_common(tensor.name) else None
            if place is None:
                continue
            index, other = place
            if tensor.dtype not in _WIDTH or other.ggml_type not in _GGUF_WIDTH:
                skipped.append(tensor.name)
                continue
            if tuple(reversed(other.dims)) != tensor.shape:
                different.append(tensor.name)
                continue
            width, wide = _WIDTH[tensor.dtype], _GGUF_WIDTH[other.ggml_type]
            same = all(
                read(folder.shards[tensor.shard].path, tensor.begin + first * width, count * width)
                == rounded(read(gguf.files[index].path, other.offset + first * wide, count * wide), other.ggml_type, tensor.dtype)
                for first, count in _spans((tensor.end - tensor.begin) // width))
            (equal if same else different).append(tensor.name)
    finally:
        for fd in opened.values():
            os.close(fd)
    return Halves(len(equal), len(equal) + len(different), tuple(different), tuple(skipped))


def check(halves: Halves, mode: str) -> List[Problem]:
    """Problems of a comparison; mode is strict (they are errors), warn or off."""
    if mode not in ("strict", "warn", "off"):
        raise WeightsError(f"halves is {mode!r}; strict, warn or off was expected")
    if mode == "off":
        return []
    severity = "error" if mode == "strict" else "warning"
    if not halves.compared:
        return [problem("halves_not_compared", "safetensors and GGUF have no tensor in common that can be compared",
                        "router and norm weights in F32, F16 or BF16 in both, to prove that they are of one model",
                        "Use a GGUF with F32 norms (llama.cpp writes them so), or set halves: warn if you know that the two belong together", severity)]
    if halves.different:
        agree = f"{halves.equal} of {halves.compared} router and norm tensors agree (different: {shortened(halves.different)})"
        return [problem("halves_differ", f"safetensors and GGUF are not of one model: {agree}",
                        f"all {halves.compared} to be equal to the bit",
                        "Take both from the same release (R1 with R1, not V3 or R1-0528), and no rotated export (msModelSlim --rot, quarot); "
                        "halves: warn merges all the same", severity)]
    return []
