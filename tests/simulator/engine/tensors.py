# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Safetensors files, read as the safetensors library reads them: header first, bytes when they are asked for.

Format: 8 bytes header length (little endian), a JSON header, the data (https://huggingface.co/docs/safetensors).
"""

from __future__ import annotations

import json
import os
import struct
from dataclasses import dataclass

from . import startup

ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2,
              "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1}
MAX_HEADER = 100_000_000
# What the library says, up to 0.5 and later. Seen with 0.4.5 and 0.8.0; ASSUMPTION: the two that are about JSON.
WORDS = {
    "small": ("HeaderTooSmall", "header too small"),
    "large": ("HeaderTooLarge", "header too large"),
    "length": ("InvalidHeaderLength", "invalid header length"),
    "text": ("InvalidHeader", "invalid UTF-8 in header"),
    "json": ("InvalidHeaderDeserialization", "invalid JSON in header"),
    "offset": ("InvalidOffset(\"{0}\")", "invalid offset for tensor `{0}`"),
    "info": ("TensorInvalidInfo", "tensor info of `{0}` does not match its bytes"),
    "incomplete": ("MetadataIncompleteBuffer", "incomplete metadata, file not fully covered"),
}


class SafetensorError(Exception):
    """As the library's own exception: `Error while deserializing header: …`."""


@dataclass(frozen=True)
class Tensor:
    """Where one tensor lies; `shape` in elements, `offset` and `size` in bytes from the file's begin."""

    name: str
    dtype: str
    shape: tuple
    path: str
    offset: int
    size: int

    def read(self) -> bytes:
        with open(self.path, "rb") as stream:
            stream.seek(self.offset)
            return stream.read(self.size)

    @property
    def elements(self) -> int:
        count = 1
        for length in self.shape:
            count *= length
        return count


def _error(kind: str, name: str = "") -> SafetensorError:
    old, new = WORDS[kind]
    words = old if startup.version_tuple(startup.version_of("safetensors", "0.8.0")) < (0, 6) else new
    return SafetensorError("Error while deserializing header: " + words.format(name))


def read_header(path: str) -> list:
    """The tensors of a file, in the order of their bytes. Raises SafetensorError, OSError."""
    size = os.path.getsize(path)
    with open(path, "rb") as stream:
        start = stream.read(8)
        if len(start) < 8:
            raise _error("small")
        length = struct.unpack("<Q", start)[0]
        if length > MAX_HEADER:
            raise _error("large")
        if 8 + length > size:
            raise _error("length")
        header = stream.read(length)
    try:
        text = header.decode("utf-8")
    except UnicodeDecodeError:
        raise _error("text")
    try:
        entries = json.loads(text)
        entries.pop("__metadata__", None)
        tensors = [Tensor(name, entry["dtype"], tuple(entry["shape"]), path, 8 + length + entry["data_offsets"][0],
                          entry["data_offsets"][1] - entry["data_offsets"][0]) for name, entry in entries.items()]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise _error("json")
    tensors.sort(key=lambda tensor: (tensor.offset, tensor.size))
    end = 8 + length
    for tensor in tensors:
        if tensor.offset != end or tensor.size < 0:
            raise _error("offset", tensor.name)
        if tensor.dtype not in ITEM_BYTES or tensor.elements * ITEM_BYTES[tensor.dtype] != tensor.size:
            raise _error("info", tensor.name)
        end += tensor.size
    if end != size:
        raise _error("incomplete")
    return tensors
