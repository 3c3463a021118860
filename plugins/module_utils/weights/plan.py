# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan of a merge: which output files there will be, and which bytes of which source each of them takes.

A plan is made from headers alone and is a pure value: nothing here touches the disk.

Layout. Of the merged folder's bytes 96 % are the GGUF's stacked experts, unchanged. A file system that shares blocks (XFS, btrfs)
can take them without copying where source and target agree modulo its block size: so each stack gets a file of its own, whose
header is padded until the data starts at the source's offset modulo `block`. The engine keys files by base name, so names are
unique. The rest of a layer, and the scalars that tell the experts' ggml type, are in one more file a layer.
"""

from __future__ import annotations

import hashlib
import json
import struct
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Tuple

from ansible_collections.npuops.ktransformers.plugins.module_utils.weights import names
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights.errors import WeightsError
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights.folder import Folder
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights.gguf import GgufSet, GgufTensor
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights.safetensors import DTYPE_BITS, encode_header

# Part of every digest: raise it when the same sources shall give other bytes.
LAYOUT = 1
BLOCK = 4096

DEQ_SCALE = ".deq_scale"


class Source(NamedTuple):
    """A file that is read: name relative to its folder, side gguf or safetensors."""

    side: str
    name: str
    path: str
    size: int
    mtime_ns: int


class Piece(NamedTuple):
    """`size` bytes at `offset` of source number `source`."""

    source: int
    offset: int
    size: int


class OutTensor(NamedTuple):
    """One tensor of the result. Its bytes are `data` where that is not None, else the pieces, one after the other.

    convert: "" (bytes as they are) or "i64_to_f32" (the pieces hold float32 bits in int64, the result the float32).
    ggml_type is that of a stack of experts, else None.
    """

    name: str
    dtype: str
    shape: Tuple[int, ...]
    size: int
    pieces: Tuple[Piece, ...]
    side: str
    source_name: str
    data: Optional[bytes] = None
    convert: str = ""
    ggml_type: Optional[int] = None


class OutFile(NamedTuple):
    """One file of the result. Its header's data start is `phase` modulo `align`."""

    name: str
    tensors: Tuple[OutTensor, ...]
    align: int
    phase: int
    data_start: int
    size: int
    digest: str

    def header(self) -> bytes:
        return encode_header(((item.name, item.dtype, item.shape, item.size) for item in self.tensors), self.align, self.phase)


class SideFile(NamedTuple):
    """A small file of the result: its content is known when the plan is made."""

    name: str
    data: bytes
    digest: str


class Plan(NamedTuple):
    sources: Tuple[Source, ...]
    files: Tuple[OutFile, ...]
    side_files: Tuple[SideFile, ...]
    left_out: Dict[str, int]
    digest: str

    def tensors(self) -> Iterable[OutTensor]:
        for item in self.files:
            yield from item.tensors

    def size(self) -> int:
        """Bytes of all files of the result."""
        return sum(item.size for item in self.files) + sum(len(item.data) for item in self.side_files)


def expert_stacks(gguf: GgufSet, layers: int) -> Dict[Tuple[int, str], List[Tuple[int, GgufTensor]]]:
    """(layer, stack) → its tensors: one (stacked export), or one an expert in their order (older export).

    Raises WeightsError where a layer has both forms, or experts of different types.
    """
    stacks: Dict[Tuple[int, str], List[Tuple[int, GgufTensor]]] = {}
    singles: Dict[Tuple[int, str], Dict[int, Tuple[int, GgufTensor]]] = {}
    for name, place in gguf.tensors.items():
        parts = name.split(".")
        layer = names.engine_layer(name)
        if layer is None or layer >= layers or parts[-1] != "weight":
            continue
        if len(parts) == 4 and parts[2] in names.EXPERT_STACKS:
            stacks[(layer, parts[2])] = [place]
        elif len(parts) == 5 and parts[2] + "_exps" in names.EXPERT_STACKS and parts[3].isdigit() and len(parts[3]) <= 6:
            singles.setdefault((layer, parts[2] + "_exps"), {})[int(parts[3])] = place
    for (layer, stack), experts in singles.items():
        where = gguf.files[next(iter(experts.values()))[0]].path
        if (layer, stack) in stacks:
            raise WeightsError(f"has the experts of blk.{layer}.{stack} both stacked and one by one. Bring the GGUF again", where)
        missing = [number for number in range(len(experts)) if number not in experts]
        if missing:
            raise WeightsError(f"expert {missing[0]} of blk.{layer}.{stack} is missing. Bring the GGUF again", where)
        kinds = {(tensor.ggml_type, tensor.dims) for _index, tensor in experts.values()}
        if len(kinds) > 1:
            raise WeightsError(f"the experts of blk.{layer}.{stack} differ in type or shape and cannot be stacked. Use a GGUF with stacked experts", where)
        stacks[(layer, stack)] = [experts[number] for number in range(len(experts))]
    return stacks


def make_plan(model_layers: int, folder: Folder, gguf: GgufSet, side_files: Dict[str, bytes], block: int = BLOCK,
              restore_deq_scale: bool = False) -> Plan:
    """The plan for a folder and a GGUF; side_files are the contents that are written beside the weights.

    block: block size of the target's file system, in bytes. restore_deq_scale: write int64 deq_scale as the float32 it holds.
    """
    sources = [Source("safetensors", item.name, item.path, item.size, item.mtime_ns) for item in folder.shards]
    first_gguf = len(sources)
    sources += [Source("gguf", item.path.rsplit("/", 1)[-1], item.path, item.size, item.mtime_ns) for item in gguf.files]
    groups: Dict[Optional[int], List[OutTensor]] = {None: []}
    seen: Dict[str, str] = {}
    for tensor in folder.kept:
        name = names.engine_name(tensor.name)
        if name in seen:
            raise WeightsError(f"tensors {seen[name]} and {tensor.name} would both be called {name}. Bring the export again",
                               folder.shards[tensor.shard].path, tensor.begin)
        seen[name] = tensor.name
        groups.setdefault(names.engine_layer(name), []).append(_from_safetensors(tensor, name, restore_deq_scale))
    stacks = expert_stacks(gguf, model_layers)
    files: List[OutFile] = []
    used = 0
    for layer in sorted(groups, key=lambda key: -1 if key is None else key):
        experts = []
        for stack in names.EXPERT_STACKS:
            if layer is not None and (layer, stack) in stacks:
                experts.append(_from_gguf(layer, stack, stacks[(layer, stack)], first_gguf))
                used += len(stacks[(layer, stack)])
        scalars = [_ggml_type(item) for item in experts]
        label = "model" if layer is None else f"blk-{layer:05}"
        # Widest elements first, as the safetensors library writes them: every tensor is then aligned to its dtype.
        small = sorted(groups[layer] + scalars, key=lambda item: (-DTYPE_BITS[item.dtype], item.name))
        if small:
            files.append(_out_file(f"npuops-{label}.safetensors", small, 8, 0, sources))
        for item in experts:
            stack = item.name.split(".")[2]
            files.append(_out_file(f"npuops-{label}-{stack}.safetensors", [item], block, item.pieces[0].offset % block, sources))
    sides = tuple(SideFile(name, data, hashlib.sha256(data).hexdigest()) for name, data in sorted(side_files.items()))
    left_out = dict(folder.left_out, gguf_only=len(gguf.tensors) - used)
    digest = hashlib.sha256(json.dumps([LAYOUT, [[item.name, item.digest] for item in files], [[item.name, item.digest] for item in sides]],
                                       sort_keys=True).encode("utf-8")).hexdigest()
    return Plan(tuple(sources), tuple(files), sides, left_out, digest)


def _from_safetensors(tensor: Any, name: str, restore: bool) -> OutTensor:
    size = tensor.end - tensor.begin
    pieces = (Piece(tensor.shard, tensor.begin, size),)
    if restore and tensor.dtype == "I64" and name.endswith(DEQ_SCALE):
        return OutTensor(name, "F32", tensor.shape, size // 2, pieces, "safetensors", tensor.name, convert="i64_to_f32")
    return OutTensor(name, tensor.dtype, tensor.shape, size, pieces, "safetensors", tensor.name)


def _from_gguf(layer: int, stack: str, tensors: List[Tuple[int, GgufTensor]], first: int) -> OutTensor:
    pieces = tuple(Piece(first + index, tensor.offset, tensor.size) for index, tensor in tensors)
    size = sum(piece.size for piece in pieces)
    name = f"blk.{layer}.{stack}.weight"
    return OutTensor(name, "U8", (size,), size, pieces, "gguf", tensors[0][1].name, ggml_type=tensors[0][1].ggml_type)


def _ggml_type(experts: OutTensor) -> OutTensor:
    """The scalar from which the engine learns how the experts' bytes are to be read (F32 experts have it too)."""
    name = experts.name[:-len("weight")] + "ggml_type"
    return OutTensor(name, "I64", (), 8, (), "gguf", experts.source_name, data=struct.pack("<q", experts.ggml_type), ggml_type=experts.ggml_type)


def _out_file(name: str, tensors: List[OutTensor], align: int, phase: int, sources: List[Source]) -> OutFile:
    header = encode_header(((item.name, item.dtype, item.shape, item.size) for item in tensors), align, phase)
    digest = hashlib.sha256(header)
    for item in tensors:
        # The sources' identity without their folder: a disk that is mounted elsewhere makes no new merge.
        text = [item.convert, item.data.hex() if item.data is not None else "",
                [[sources[piece.source].side, sources[piece.source].name, sources[piece.source].size, sources[piece.source].mtime_ns,
                  piece.offset, piece.size] for piece in item.pieces]]
        digest.update(json.dumps(text).encode("utf-8"))
    size = len(header) + sum(item.size for item in tensors)
    return OutFile(name, tuple(tensors), align, phase, len(header), size, digest.hexdigest())
