# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading GGUF headers: metadata and the table of tensors, never tensor data.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (versions 2 and 3, little-endian); block sizes from ggml.h and
ggml-common.h. Splits: llama.cpp's tools/gguf-split (keys split.no, split.count, split.tensors.count in each file).
Every count and length in the file is compared with what the file can hold before it is used.
"""

from __future__ import annotations

import os
import re
import struct
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from ansible_collections.npuops.ktransformers.plugins.module_utils.weights.errors import WeightsError, is_whole, shortened
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights.files import (
    is_lfs_pointer,
    lfs_error,
    list_folder,
    open_regular,
    pread_exact,
)

# id: (name, elements of a block, bytes of a block). Ids that ggml took back (4, 5, 31-33, 36-38) are not here.
GGML_TYPES = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 36), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292), 16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50), 20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136), 24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36), 41: ("Q1_0", 128, 18),
}

# Bounds far above any real file (R1: 5.4 MB of header, 129,280 tokens, 1,025 tensors when unsplit).
MAX_HEADER = 64 * 1024 * 1024
MAX_STRING = 16 * 1024 * 1024
MAX_TENSORS = 1 << 20
MAX_KEYS = 1 << 16
MAX_KEY_LENGTH = 65535
MAX_NAME = 1024
MAX_STRINGS = 1 << 22
MAX_DEPTH = 4
MAX_DIMS = 4
MAX_BYTES = 1 << 60

_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")
_SPLIT_NAME = re.compile(r"^(.*)-(\d{5})-of-(\d{5})\.gguf$")


class Array(int):
    """A metadata value that is an array, represented by its length."""


class GgufTensor(NamedTuple):
    """One tensor: dims as ggml has them (fastest first), offset in bytes from the start of the file, size in bytes."""

    name: str
    ggml_type: int
    dims: Tuple[int, ...]
    offset: int
    size: int


class GgufFile(NamedTuple):
    """Header of one file. Arrays of the metadata are represented by their length (class Array)."""

    path: str
    size: int
    mtime_ns: int
    version: int
    metadata: Dict[str, Any]
    tensors: List[GgufTensor]


class GgufSet(NamedTuple):
    """All the files of one model: metadata of the first, tensors by name with the index of their file."""

    path: str
    files: List[GgufFile]
    metadata: Dict[str, Any]
    tensors: Dict[str, Tuple[int, GgufTensor]]


def type_name(ggml_type: int) -> str:
    return GGML_TYPES[ggml_type][0] if ggml_type in GGML_TYPES else f"type {ggml_type}"


def tensor_bytes(ggml_type: int, dims: Tuple[int, ...]) -> int:
    """Bytes of a tensor of a known type; its first dimension must be a multiple of the block."""
    _name, block, size = GGML_TYPES[ggml_type]
    count = 1
    for dim in dims:
        count *= dim
    return count // block * size


class _Cursor:
    """Walks the header; reads ahead in growing steps, refuses to go past the file's end or MAX_HEADER."""

    def __init__(self, fd: int, path: str, size: int) -> None:
        self.fd, self.path, self.size = fd, path, size
        self.pos = 0
        self.buffer = b""

    def error(self, message: str) -> WeightsError:
        return WeightsError(message, self.path, self.pos)

    def need(self, count: int, what: str) -> None:
        end = self.pos + count
        if end <= len(self.buffer):
            return
        if end > self.size:
            raise self.error(f"the file ends inside {what} ({count} bytes wanted, {self.size - self.pos} left); it was cut short or is damaged. Bring it again")
        if end > MAX_HEADER:
            raise self.error(f"{what} lies more than {MAX_HEADER} bytes into the header; no model has such a header. Bring the file again")
        length = min(self.size, MAX_HEADER, max(end, 2 * len(self.buffer), 1 << 20))
        self.buffer = pread_exact(self.fd, length, 0, self.path)

    def take(self, layout: str, what: str) -> Any:
        size = struct.calcsize(layout)
        self.need(size, what)
        value = struct.unpack_from(layout, self.buffer, self.pos)[0]
        self.pos += size
        return value

    def string(self, limit: int, what: str) -> str:
        length = self.take("<Q", "the length of " + what)
        if length > limit:
            self.pos -= 8
            raise self.error(f"{what} claims {length} bytes, at most {limit} are believed. Bring the file again")
        self.need(length, what)
        raw = self.buffer[self.pos:self.pos + length]
        self.pos += length
        return raw.decode("utf-8", "replace")

    def skip_strings(self, count: int, what: str) -> None:
        pos, buffer = self.pos, self.buffer
        limit, unpack = len(buffer), _U64.unpack_from
        for _index in range(count):
            if pos + 8 > limit:
                self.pos = pos
                self.need(8, what)
                buffer, limit = self.buffer, len(self.buffer)
            length = unpack(buffer, pos)[0]
            pos += 8
            if pos + length > limit:
                self.pos = pos
                self.need(length, what)
                buffer, limit = self.buffer, len(self.buffer)
            pos += length
        self.pos = pos

    def value(self, kind: int, what: str, depth: int = 0) -> Any:
        """A metadata value; an array is skipped and its length returned."""
        if kind in _SCALARS:
            return self.take(_SCALARS[kind], what)
        if kind == _STRING:
            return self.string(MAX_STRING, what)
        if kind != _ARRAY:
            raise self.error(f"{what} has the unknown value type {kind}. Bring the file again")
        if depth >= MAX_DEPTH:
            raise self.error(f"{what} nests arrays more than {MAX_DEPTH} deep. Bring the file again")
        element = self.take("<I", what)
        count = self.take("<Q", what)
        if element in _SCALARS:
            width = struct.calcsize(_SCALARS[element])
            if count > MAX_HEADER:
                raise self.error(f"{what} claims an array of {count} elements. Bring the file again")
            self.need(count * width, what)
            self.pos += count * width
        elif element == _STRING:
            if count > MAX_STRINGS or count * 8 > self.size - self.pos:
                raise self.error(f"{what} claims {count} strings, more than the file can hold. Bring the file again")
            self.skip_strings(count, what)
        elif element == _ARRAY:
            if count > MAX_KEYS or count * 12 > self.size - self.pos:
                raise self.error(f"{what} claims {count} arrays, more than the file can hold. Bring the file again")
            for _index in range(count):
                self.value(_ARRAY, what, depth + 1)
        else:
            raise self.error(f"{what} is an array of the unknown value type {element}. Bring the file again")
        return Array(count)


def read_file(path: str) -> GgufFile:
    """Header of one GGUF file; WeightsError with file and offset for whatever is wrong."""
    fd, info = open_regular(path)
    try:
        cursor = _Cursor(fd, path, info.st_size)
        version = _read_magic(cursor)
        tensor_count = cursor.take("<Q", "the number of tensors")
        key_count = cursor.take("<Q", "the number of metadata keys")
        # A key takes at least 13 bytes, an entry of the tensor table at least 24.
        if key_count > MAX_KEYS or key_count * 13 > info.st_size:
            raise cursor.error(f"claims {key_count} metadata keys, more than the file can hold. Bring it again")
        if tensor_count > MAX_TENSORS or tensor_count * 24 > info.st_size:
            raise cursor.error(f"claims {tensor_count} tensors, more than the file can hold. Bring it again")
        metadata = _read_metadata(cursor, key_count)
        tensors = _read_tensors(cursor, tensor_count, metadata)
    finally:
        os.close(fd)
    return GgufFile(path, info.st_size, info.st_mtime_ns, version, metadata, tensors)


def _read_magic(cursor: _Cursor) -> int:
    if cursor.size < 24:
        head = pread_exact(cursor.fd, cursor.size, 0, cursor.path)
        if not head.startswith(b"GGUF"):
            raise cursor.error(f"has {cursor.size} bytes, a GGUF file has at least 24. Bring it again")
    cursor.need(min(64, cursor.size), "the magic")
    if is_lfs_pointer(cursor.buffer):
        raise lfs_error(cursor.path)
    if cursor.buffer[:4] != b"GGUF":
        raise cursor.error(f"begins with {cursor.buffer[:4]!r}, a GGUF file with b'GGUF'. Bring the file again")
    cursor.pos = 4
    version = cursor.take("<I", "the version")
    if version in (0x01000000, 0x02000000, 0x03000000):
        raise WeightsError("is big-endian; the engine reads little-endian only. Convert it with: gguf-convert-endian FILE little "
                           "(pip package gguf)", cursor.path, 4)
    if version not in (2, 3):
        raise WeightsError(f"is GGUF version {version}; versions 2 and 3 can be read. Convert it with a current llama.cpp", cursor.path, 4)
    return version


def _read_metadata(cursor: _Cursor, count: int) -> Dict[str, Any]:
    metadata: Dict[str, Any] = {}
    for index in range(count):
        key = cursor.string(MAX_KEY_LENGTH, f"metadata key {index}")
        kind = cursor.take("<I", "the type of " + key)
        if key in metadata:
            raise cursor.error(f"the metadata key {key} stands in it twice. Bring the file again")
        metadata[key] = cursor.value(kind, "the value of " + key)
    return metadata


def _read_tensors(cursor: _Cursor, count: int, metadata: Dict[str, Any]) -> List[GgufTensor]:
    alignment = metadata.get("general.alignment", 32)
    if not is_whole(alignment) or not 1 <= alignment <= 1 << 20 or alignment & (alignment - 1):
        raise cursor.error(f"general.alignment is {alignment!r}, a power of two was expected. Bring the file again")
    table = []
    names = set()
    for index in range(count):
        where = cursor.pos
        name = cursor.string(MAX_NAME, f"the name of tensor {index}")
        if not name or name in names:
            raise WeightsError(f"the tensor name {name!r} is empty or stands in it twice. Bring the file again", cursor.path, where)
        names.add(name)
        dim_count = cursor.take("<I", "the dimensions of " + name)
        if dim_count > MAX_DIMS:
            raise WeightsError(f"tensor {name} claims {dim_count} dimensions, at most {MAX_DIMS} exist. Bring the file again", cursor.path, where)
        dims = tuple(cursor.take("<Q", "the dimensions of " + name) for _index in range(dim_count))
        ggml_type = cursor.take("<I", "the type of " + name)
        offset = cursor.take("<Q", "the offset of " + name)
        table.append((name, ggml_type, dims, offset, _checked_size(name, ggml_type, dims, offset, alignment, cursor.path, where), where))
    data_start = (cursor.pos + alignment - 1) // alignment * alignment
    return _place(table, data_start, cursor)


def _checked_size(name: str, ggml_type: int, dims: Tuple[int, ...], offset: int, alignment: int, path: str, where: int) -> int:
    if ggml_type not in GGML_TYPES:
        raise WeightsError(f"tensor {name} has the unknown ggml type {ggml_type}. Update this collection, or quantize the model to a known type", path, where)
    count = 1
    for dim in dims:
        count *= dim
        if not 0 < dim <= MAX_BYTES or count > MAX_BYTES:
            raise WeightsError(f"tensor {name} has the dimensions {list(dims)}, which no file holds. Bring the file again", path, where)
    label, block, _size = GGML_TYPES[ggml_type]
    if (dims[0] if dims else 1) % block:
        raise WeightsError(f"tensor {name} is {label} with rows of {dims[0] if dims else 1} elements, no multiple of its block of {block}. Bring the file "
                           "again", path, where)
    if offset % alignment:
        raise WeightsError(f"tensor {name} lies at offset {offset}, no multiple of the alignment {alignment}. Bring the file again", path, where)
    return tensor_bytes(ggml_type, dims)


def _place(table: List[tuple], data_start: int, cursor: _Cursor) -> List[GgufTensor]:
    end, before = 0, ""
    for name, _type, _dims, offset, size, where in sorted(table, key=lambda row: row[3]):
        if offset < end:
            raise WeightsError(f"tensors {before} and {name} overlap. Bring the file again", cursor.path, where)
        if data_start + offset + size > cursor.size:
            raise WeightsError(f"tensor {name} ends at byte {data_start + offset + size}, the file at {cursor.size}; it was cut short. "
                               "Bring the file again", cursor.path, where)
        end, before = offset + size, name
    return [GgufTensor(name, ggml_type, dims, data_start + offset, size) for name, ggml_type, dims, offset, size, _where in table]


def find_files(path: str) -> List[str]:
    """The files of the model at `path` (its folder, or one of its files), in order of their split number."""
    if os.path.isfile(path):
        match = _SPLIT_NAME.match(os.path.basename(path))
        if not match:
            return [path]
        folder = os.path.dirname(path)
        others = ((name, _SPLIT_NAME.match(name)) for name in list_folder(folder or "."))
        return [os.path.join(folder, name) for name, other in others if other and other.group(1, 3) == match.group(1, 3)]
    names = [name for name in list_folder(path) if name.endswith(".gguf")]
    if not names:
        _explain_no_files(path)
    return [os.path.join(path, name) for name in names]


def _explain_no_files(path: str) -> None:
    entries = list_folder(path)
    if any(name.endswith(".safetensors") for name in entries):
        raise WeightsError("holds safetensors files and no GGUF file. It looks as if gguf_path and safetensors_path were swapped: "
                           "gguf_path takes the Q4_K_M folder", path)
    below = [name for name in entries if os.path.isdir(os.path.join(path, name))
             and any(item.endswith(".gguf") for item in list_folder(os.path.join(path, name)))]
    if below:
        raise WeightsError(f"holds no GGUF file itself; the folders below it do ({shortened(below)}). Give one of them", path)
    raise WeightsError("holds no GGUF file. Give the folder with the .gguf files of the Q4_K_M model", path)


def _groups(names: List[str]) -> Dict[str, List[str]]:
    groups: Dict[str, List[str]] = {}
    for name in names:
        match = _SPLIT_NAME.match(os.path.basename(name))
        groups.setdefault(f"{match.group(1)} of {match.group(3)}" if match else name, []).append(name)
    return groups


def read_set(path: str) -> GgufSet:
    """All the files of the GGUF model at `path`, complete and without a tensor twice."""
    names = find_files(path)
    groups = _groups(names)
    if len(groups) > 1:
        raise WeightsError(f"holds {len(groups)} GGUF models ({shortened(os.path.basename(group) for group in groups)}). Give a folder with one, or the first "
                           "file of the one you mean", path)
    files = [read_file(name) for name in names]
    files.sort(key=lambda item: _split_number(item) or 0)
    missing = missing_parts(files)
    if missing:
        raise WeightsError(f"{len(missing)} of the model's GGUF files are missing: number {shortened(missing)}. Bring them", path)
    tensors: Dict[str, Tuple[int, GgufTensor]] = {}
    for index, item in enumerate(files):
        for tensor in item.tensors:
            if tensor.name in tensors:
                other = os.path.basename(files[tensors[tensor.name][0]].path)
                raise WeightsError(f"tensor {tensor.name} stands in {other} too. Keep one of the two files", item.path)
            tensors[tensor.name] = (index, tensor)
    expected = files[0].metadata.get("split.tensors.count")
    if is_whole(expected) and expected != len(tensors):
        raise WeightsError(f"its files hold {len(tensors)} tensors, the first says {expected}. Bring the files of one and the same model", path)
    return GgufSet(path, files, files[0].metadata, tensors)


def _split_number(item: GgufFile) -> Optional[int]:
    number = item.metadata.get("split.no")
    return number if is_whole(number) else None


def missing_parts(files: List[GgufFile]) -> List[str]:
    """Numbers, as file names write them, of the parts of a split model that are not there; a file too many is an error."""
    matches = [_SPLIT_NAME.match(os.path.basename(item.path)) for item in files]
    count = files[0].metadata.get("split.count")
    if is_whole(count) and count:
        numbers = [_split_number(item) for item in files]
    else:
        count = int(matches[0].group(3)) if matches[0] else 1
        numbers = [int(match.group(2)) - 1 if match else 0 for match in matches]
    if any(item.metadata.get("split.count") != files[0].metadata.get("split.count") for item in files):
        counts = sorted({str(item.metadata.get("split.count")) for item in files})
        raise WeightsError(f"is split otherwise than its neighbours (split.count is {' and '.join(counts)}). Bring the files of one and the same model",
                           files[-1].path)
    if count > MAX_KEYS:
        raise WeightsError(f"claims to be one of {count} files. Bring the file again", files[0].path)
    if len(files) > count:
        raise WeightsError(f"is one of {len(files)} GGUF files where the model has {count}. Remove those that do not belong to it", files[-1].path)
    return [f"{number + 1:05}" for number in range(count) if number not in numbers]
