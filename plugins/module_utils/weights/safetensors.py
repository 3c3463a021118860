# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading and writing the header of safetensors files.

Format: https://github.com/huggingface/safetensors#format -- 8 bytes little-endian header length N, N bytes JSON
``{name: {"dtype", "shape", "data_offsets": [begin, end]}}`` padded with blanks, then the tensors without gap or overlap.
Nothing here reads tensor data.
"""

from __future__ import annotations

import json
import operator
import os
import struct
from typing import Any, Dict, Iterable, List, NamedTuple, Tuple

from ansible_collections.npuops.ktransformers.plugins.module_utils.weights.errors import WeightsError, is_whole
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights.files import (
    is_lfs_pointer,
    lfs_error,
    open_regular,
    parse_json,
    pread_exact,
)

# The library's own limit (safetensors/src/tensor.rs MAX_HEADER_SIZE).
MAX_HEADER = 100000000
MAX_NAME = 1024
MAX_DIMS = 16
MAX_ELEMENTS = 1 << 62

DTYPE_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "I64": 64, "U64": 64, "F64": 64, "C64": 64,
}

_DIGITS = bytes(ord("0") if 48 <= byte <= 57 else 32 for byte in range(256))
_LONG_NUMBER = b"0" * 20


class Tensor(NamedTuple):
    """One tensor of a file; begin and end are bytes from the start of the file."""

    name: str
    dtype: str
    shape: Tuple[int, ...]
    begin: int
    end: int


class Header(NamedTuple):
    """What the header of one file says."""

    path: str
    size: int
    mtime_ns: int
    data_start: int
    metadata: Dict[str, Any]
    tensors: List[Tensor]


def bytes_of(dtype: str, shape: Iterable[int]) -> int:
    """Size in bytes of a tensor; KeyError for an unknown dtype."""
    count = 1
    for dim in shape:
        count *= dim
    return (count * DTYPE_BITS[dtype] + 7) // 8


def read_header(path: str) -> Header:
    """Read and check one file's header; WeightsError names file and offset of whatever is wrong."""
    fd, info = open_regular(path)
    try:
        size = info.st_size
        head = pread_exact(fd, min(64, size), 0, path)
        if is_lfs_pointer(head):
            raise lfs_error(path)
        if size < 8:
            raise WeightsError(f"has {size} bytes, a safetensors file has at least 8. Bring the file again", path, 0)
        if head[:4] == b"GGUF":
            raise WeightsError("is a GGUF file, not a safetensors file. Swap the two folders, or correct the name", path, 0)
        length = struct.unpack("<Q", head[:8])[0]
        if length > MAX_HEADER:
            raise WeightsError(
                f"the header claims {length} bytes, more than the {MAX_HEADER} that the format allows; this is no safetensors file. "
                "Bring the file again", path, 0)
        if length > size - 8:
            raise WeightsError(
                f"the header claims {length} bytes, the file has {size - 8} after its first 8; it was cut short. Bring the file again", path, 0)
        raw = pread_exact(fd, length, 8, path)
    finally:
        os.close(fd)
    metadata, tensors = _parse(raw, path, 8 + length, size)
    return Header(path, size, info.st_mtime_ns, 8 + length, metadata, tensors)


def _unique(pairs: List[Tuple[str, Any]]) -> Dict[str, Any]:
    found = dict(pairs)
    for name in found:
        name.encode("utf-8")  # half a surrogate pair cannot be written again: a ValueError
    if len(found) != len(pairs):
        seen = set()
        for name, _value in pairs:
            if name in seen:
                raise ValueError(f"{name[:200]!r} stands in it twice")
            seen.add(name)
    return found


def _parse(raw: bytes, path: str, start: int, size: int) -> Tuple[Dict[str, Any], List[Tensor]]:
    # All the shards of R1 have 138,000 entries together: the plain parser takes half the time of the one with hooks, so the hooks
    # are kept for headers that could abuse their absence (names twice by escapes, numbers that take minutes to convert).
    if not raw.startswith(b"{"):
        raise WeightsError("the header is no JSON object. Bring the file again", path, 8)
    entries = None
    count = raw.count(b'"data_offsets"')
    # An entry has one object, two lists, and some ten commas; what is far from that would fill the memory, not be a header.
    if raw.count(b"[") + raw.count(b"{") > 4 * count + 10000 or raw.count(b",") > (MAX_DIMS + 8) * count + 100000:
        raise WeightsError(f"the header holds more lists than its {count} tensors have. Bring the file again", path, 8)
    if b"\\" not in raw and _LONG_NUMBER not in raw.translate(_DIGITS):
        try:
            entries = json.loads(raw.decode("utf-8"))
        except (ValueError, RecursionError):
            entries = None  # said properly below
        if isinstance(entries, dict) and count != len(entries) - ("__metadata__" in entries):
            entries = None
    if entries is None:
        entries = parse_json(raw, path, 8, _unique)
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict):
        raise WeightsError("__metadata__ is no object. Bring the file again", path, 8)
    return metadata, _tensors(entries, path, start, size)


def _tensors(entries: Dict[str, Any], path: str, start: int, size: int) -> List[Tensor]:
    """The entries as tensors. Forms (dtype and shape) repeat thousands of times: each is checked in full once."""
    forms: Dict[Any, Tuple[str, Tuple[int, ...], int]] = {}
    tensors: List[Tensor] = []
    new, limit = tuple.__new__, size - start
    for name, entry in entries.items():
        try:
            begin, end = entry["data_offsets"]
            dtype, shape, wanted = forms[(entry["dtype"], tuple(entry["shape"]))]
            known = begin.__class__ is int and end.__class__ is int and begin >= 0 and end - begin == wanted and end <= limit and 0 < len(name) <= MAX_NAME
        except (TypeError, KeyError, ValueError):
            known = False
        if known:
            tensors.append(new(Tensor, (name, dtype, shape, start + begin, start + end)))
        else:
            tensor = _tensor(name, entry, path, start, size)
            forms[(tensor.dtype, tensor.shape)] = (tensor.dtype, tensor.shape, tensor.end - tensor.begin)
            tensors.append(tensor)
    _check_cover(tensors, path, start, size)
    return tensors


def _tensor(name: str, entry: Any, path: str, start: int, size: int) -> Tensor:
    try:
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        begin, end = offsets
    except (TypeError, KeyError, ValueError):
        raise WeightsError(f"tensor {name!r:.200} lacks dtype, shape or data_offsets as the format has them. Bring the file again", path, 8)
    if not name or len(name) > MAX_NAME:
        raise WeightsError(f"a tensor name of {len(name)} characters; 1 to {MAX_NAME} are allowed. Bring the file again", path, 8)
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise WeightsError(f"tensor {name} has the unknown dtype {dtype!r:.40}; known are {', '.join(sorted(DTYPE_BITS))}. Bring the file again", path, 8)
    if not is_whole(begin) or not is_whole(end) or not 0 <= begin <= end:
        raise WeightsError(f"tensor {name} has the offsets {offsets!r:.80}; two numbers in ascending order were expected. Bring the file again", path, 8)
    if not isinstance(shape, list) or len(shape) > MAX_DIMS:
        raise WeightsError(f"tensor {name} has the shape {shape!r:.80}; a list of at most {MAX_DIMS} numbers was expected. Bring the file again", path, 8)
    count = 1
    for dim in shape:
        if not is_whole(dim) or dim < 0 or dim > MAX_ELEMENTS:
            raise WeightsError(f"tensor {name} has the shape {shape!r:.80}; whole numbers were expected. Bring the file again", path, 8)
        count *= dim
        if count > MAX_ELEMENTS:
            raise WeightsError(f"tensor {name} has a shape of more elements than any file holds: {shape!r:.80}. Bring the file again", path, 8)
    wanted = count * DTYPE_BITS[dtype]
    if wanted != (end - begin) * 8:
        raise WeightsError(
            f"tensor {name}, {dtype} {shape!r:.80}, takes {(wanted + 7) // 8} bytes, its offsets [{begin}, {end}] span {end - begin}. "
            "Bring the file again", path, start + begin)
    if start + end > size:
        raise WeightsError(
            f"tensor {name} ends at byte {start + end}, the file at {size}; it was cut short. Bring the file again", path, start + begin)
    return Tensor(name, dtype, tuple(shape), start + begin, start + end)


def _check_cover(tensors: List[Tensor], path: str, start: int, size: int) -> None:
    """Tensors must cover the data without gap or overlap (as the safetensors library demands)."""
    end = start
    for tensor in tensors:  # as writers leave them: in order
        if tensor[3] != end:
            break
        end = tensor[4]
    else:
        if end == size:
            return
    end, before = start, "the header"
    for tensor in sorted(tensors, key=operator.itemgetter(3, 4)):
        if tensor.begin < end:
            raise WeightsError(f"tensors {before} and {tensor.name} overlap: one ends at byte {end}, the other begins at {tensor.begin}. "
                               "Bring the file again", path, tensor.begin)
        if tensor.begin > end:
            raise WeightsError(f"{tensor.begin - end} bytes between {before} and {tensor.name} belong to no tensor. Bring the file again", path, end)
        end, before = tensor.end, tensor.name
    if end != size:
        raise WeightsError(f"{size - end} bytes after the last tensor ({before}) belong to none. Bring the file again", path, end)


def encode_header(tensors: Iterable[Tuple[str, str, Tuple[int, ...], int]], align: int = 8, phase: int = 0) -> bytes:
    """Header for (name, dtype, shape, bytes) in this order, length field included, padded with blanks so that the
    data starts at an offset that is `phase` modulo `align` (a power of two; phase a multiple of 8)."""
    entries, position = [], 0
    for name, dtype, shape, size in tensors:
        entries.append((name, {"dtype": dtype, "shape": list(shape), "data_offsets": [position, position + size]}))
        position += size
    text = json.dumps(dict(entries), ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    padding = (phase - 8 - len(text)) % align
    return struct.pack("<Q", len(text) + padding) + text + b" " * padding
