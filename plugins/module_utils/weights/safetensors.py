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
import os
import re
import struct
from typing import Any, Dict, Iterable, List, NamedTuple, Tuple

from ansible_collections.npuops.ktransformers.plugins.module_utils.weights.errors import WeightsError
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

_LONG_NUMBER = re.compile(rb"[0-9]{20}")


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
            raise WeightsError("has %d bytes, a safetensors file has at least 8. Bring the file again" % size, path, 0)
        if head[:4] == b"GGUF":
            raise WeightsError("is a GGUF file, not a safetensors file. Swap the two folders, or correct the name", path, 0)
        length = struct.unpack("<Q", head[:8])[0]
        if length > MAX_HEADER:
            raise WeightsError(
                "the header claims %d bytes, more than the %d that the format allows; this is no safetensors file. "
                "Bring the file again" % (length, MAX_HEADER), path, 0)
        if length > size - 8:
            raise WeightsError(
                "the header claims %d bytes, the file has %d after its first 8; it was cut short. Bring the file again" % (length, size - 8), path, 0)
        raw = pread_exact(fd, length, 8, path)
    finally:
        os.close(fd)
    metadata, tensors = _parse(raw, path, 8 + length, size)
    return Header(path, size, info.st_mtime_ns, 8 + length, metadata, tensors)


def _unique(pairs: List[Tuple[str, Any]]) -> Dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen = set()
        for name, _value in pairs:
            if name in seen:
                raise ValueError("%r stands in it twice" % name[:200])
            seen.add(name)
    return found


def _parse(raw: bytes, path: str, start: int, size: int) -> Tuple[Dict[str, Any], List[Tensor]]:
    # A header of R1 has some 800 entries, all the shards together 138,000: the plain parser is twice as fast as
    # the one with hooks, so the hooks are kept for headers that could abuse their absence.
    entries = None
    if b"\\" not in raw and not _LONG_NUMBER.search(raw):
        try:
            entries = json.loads(raw.decode("utf-8"))
        except (ValueError, RecursionError):
            entries = None  # said properly below
        if isinstance(entries, dict) and raw.count(b'"data_offsets"') != len(entries) - ("__metadata__" in entries):
            entries = None
    if entries is None:
        entries = parse_json(raw, path, 8, _unique)
    if not isinstance(entries, dict):
        raise WeightsError("the header is no JSON object. Bring the file again", path, 8)
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict):
        raise WeightsError("__metadata__ is no object. Bring the file again", path, 8)
    tensors = [_tensor(name, entry, path, start, size) for name, entry in entries.items()]
    _check_cover(tensors, path, start, size)
    return metadata, tensors


def _tensor(name: str, entry: Any, path: str, start: int, size: int) -> Tensor:
    try:
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        begin, end = offsets
    except (TypeError, KeyError, ValueError):
        raise WeightsError("tensor %.200r lacks dtype, shape or data_offsets as the format has them. Bring the file again" % name, path, 8)
    if not name or len(name) > MAX_NAME:
        raise WeightsError("a tensor name of %d characters; 1 to %d are allowed. Bring the file again" % (len(name), MAX_NAME), path, 8)
    if type(dtype) is not str or dtype not in DTYPE_BITS:
        raise WeightsError("tensor %s has the unknown dtype %.40r; known are %s. Bring the file again" % (name, dtype, ", ".join(sorted(DTYPE_BITS))), path, 8)
    if type(begin) is not int or type(end) is not int or not 0 <= begin <= end:
        raise WeightsError("tensor %s has the offsets %.80r; two numbers in ascending order were expected. Bring the file again" % (name, offsets), path, 8)
    if type(shape) is not list or len(shape) > MAX_DIMS:
        raise WeightsError("tensor %s has the shape %.80r; a list of at most %d numbers was expected. Bring the file again" % (name, shape, MAX_DIMS), path, 8)
    count = 1
    for dim in shape:
        if type(dim) is not int or dim < 0 or dim > MAX_ELEMENTS:
            raise WeightsError("tensor %s has the shape %.80r; whole numbers were expected. Bring the file again" % (name, shape), path, 8)
        count *= dim
        if count > MAX_ELEMENTS:
            raise WeightsError("tensor %s has a shape of more elements than any file holds: %.80r. Bring the file again" % (name, shape), path, 8)
    wanted = count * DTYPE_BITS[dtype]
    if wanted != (end - begin) * 8:
        raise WeightsError(
            "tensor %s, %s %.80r, takes %d bytes, its offsets [%d, %d] span %d. Bring the file again"
            % (name, dtype, shape, (wanted + 7) // 8, begin, end, end - begin), path, start + begin)
    if start + end > size:
        raise WeightsError(
            "tensor %s ends at byte %d, the file at %d; it was cut short. Bring the file again" % (name, start + end, size), path, start + begin)
    return Tensor(name, dtype, tuple(shape), start + begin, start + end)


def _check_cover(tensors: List[Tensor], path: str, start: int, size: int) -> None:
    """Tensors must cover the data without gap or overlap (as the safetensors library demands)."""
    end, before = start, "the header"
    for tensor in sorted(tensors, key=lambda item: item[3:]):
        if tensor.begin < end:
            raise WeightsError("tensors %s and %s overlap: one ends at byte %d, the other begins at %d. Bring the file again"
                               % (before, tensor.name, end, tensor.begin), path, tensor.begin)
        if tensor.begin > end:
            raise WeightsError("%d bytes between %s and %s belong to no tensor. Bring the file again"
                               % (tensor.begin - end, before, tensor.name), path, end)
        end, before = tensor.end, tensor.name
    if end != size:
        raise WeightsError("%d bytes after the last tensor (%s) belong to none. Bring the file again" % (size - end, before), path, end)


def encode_header(tensors: Iterable[Tuple[str, str, Tuple[int, ...], int]], align: int = 8, phase: int = 0) -> bytes:
    """Header for (name, dtype, shape, bytes) in this order, length field included, padded with blanks so that the
    data starts at an offset that is `phase` modulo `align` (a power of two; phase a multiple of 8)."""
    entries, position = [], 0
    for name, dtype, shape, size in tensors:
        entries.append('%s:{"dtype":"%s","shape":[%s],"data_offsets":[%d,%d]}' % (
            json.dumps(name, ensure_ascii=False), dtype, ",".join(map(str, shape)), position, position + size))
        position += size
    text = ("{%s}" % ",".join(entries)).encode("utf-8")
    padding = (phase - 8 - len(text)) % align
    return struct.pack("<Q", len(text) + padding) + text + b" " * padding
