# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is in the safetensors folder of a model: shards, tensors, indexes, quantizer descriptions, files to bring along.

Quantizers and publishers differ in all file names (facts: msModelSlim wrote four forms in a year), so an index is known by its
content, and a folder without one is walked.
"""

from __future__ import annotations

import gc
import os
import pickle
import re
from typing import Any, Dict, List, NamedTuple, Optional, Set, Tuple

from ansible_collections.npuops.ktransformers.plugins.module_utils.weights import names
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights.errors import WeightsError, shortened
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights.files import list_folder, parse_json, read_bounded, unreadable
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights.safetensors import read_header

MAX_FILES = 20000
_NUMBERED = re.compile(r"^(.*)-(\d{5,6})-of-(\d{5,6})\.safetensors$")
# Not weights of the model: msModelSlim's rotation matrix, and what an interrupted multi-card run leaves behind.
_NO_WEIGHTS = re.compile(r"^(optional|rank_\d+|\..*)$")
# The tokenizer may need more than json: sentencepiece's model, a chat template of its own file.
_SIDE_FILES = (".json", ".py", ".jinja", ".model", ".tiktoken")
_EXPERTS = ".mlp.experts."
_ROTATION_TEXT = (b"quarot", b'"rot', b'_rot"', b'_rotation"')
_ROTATION_KEYS = ("rot", "is_rot", "use_rot", "rotation", "global_rotation", "quarot")


class Shard(NamedTuple):
    """One safetensors file; name is relative to the folder."""

    name: str
    path: str
    size: int
    mtime_ns: int


class Kept(NamedTuple):
    """A tensor that is no routed expert's and no MTP layer's; begin, end: bytes from the start of shard number `shard`."""

    name: str
    dtype: str
    shape: Tuple[int, ...]
    shard: int
    begin: int
    end: int


class ExpertGroup(NamedTuple):
    """All experts' tensors of one module and suffix in one layer: their number, the highest expert's, and their dtypes and shapes."""

    number: int
    highest: int
    forms: Tuple[Tuple[str, Tuple[int, ...]], ...]


class Folder(NamedTuple):
    """Contents of a safetensors folder, from headers alone."""

    path: str
    shards: List[Shard]
    kept: List[Kept]
    experts: Dict[Tuple[int, str, str], ExpertGroup]
    left_out: Dict[str, int]
    left_out_bytes: Dict[str, int]
    stats: Dict[Tuple[str, str], Tuple[int, int]]
    indexes: List[str]
    descriptions: List[str]
    side_files: List[str]
    ignored: List[str]
    missing: List[str]
    rotation: Optional[str]


class _Group:
    """Experts' tensors of one module and suffix in one layer, while they are collected."""

    __slots__ = ("experts", "shape", "forms")

    def __init__(self) -> None:
        self.experts: List[str] = []
        self.shape: Any = None
        self.forms: Dict[Tuple[str, Tuple[int, ...]], int] = {}


class Layout(NamedTuple):
    """Files of a folder by their part, before any header is read."""

    shards: List[str]
    weight_map: Dict[str, str]
    indexes: List[str]
    descriptions: List[str]
    side_files: List[str]
    ignored: List[str]
    missing: List[str]
    rotation: Optional[str]


def look_around(path: str) -> Layout:
    """Sort a folder's files by their part; nothing but small JSON files is read."""
    entries = list_folder(path)
    indexes: Dict[str, Dict[str, str]] = {}
    descriptions: List[str] = []
    rotation: Optional[str] = None
    side_files: List[str] = []
    for name in entries:
        full = os.path.join(path, name)
        if not name.endswith(_SIDE_FILES) or os.path.isdir(full):
            continue
        raw = read_bounded(full)
        if name.startswith("quant_model_description") and name.endswith(".json"):
            descriptions.append(name)
            rotation = rotation or _described_rotation(raw, full)
        elif name.endswith(".json") and (name.endswith("index.json") or b'"weight_map"' in raw):
            weight_map = _weight_map(raw, full, name.endswith("index.json"))
            if weight_map is None:
                side_files.append(name)
            else:
                indexes[name] = weight_map
        else:
            side_files.append(name)
    present = walk(path)
    used, missing = _choose_indexes(indexes, present)
    weight_map = _union(path, used)
    shards = sorted(set(weight_map.values()) - set(missing)) if used else present
    if not used:
        missing = _missing_numbers(present)
    ignored = sorted(set(present) - set(shards))
    return Layout(shards, weight_map, sorted(used), descriptions, side_files, ignored, missing, rotation)


def _described_rotation(raw: bytes, path: str) -> Optional[str]:
    """What a quantizer's description says of a rotation, None where it says nothing. R1's has 138,000 lines: parsed only where needed."""
    if not any(text in raw for text in _ROTATION_TEXT):
        return None
    description = parse_json(raw, path)
    if not isinstance(description, dict):
        raise WeightsError(f"holds a JSON {type(description).__name__} where an object was expected. Bring the file again", path, 0)
    optional = description.get("optional")
    if isinstance(optional, dict) and "quarot" in optional:
        return f"{os.path.basename(path)} has optional.quarot"
    for key, value in description.items():
        if key.lower() in _ROTATION_KEYS and value not in (None, False, "", {}):
            return f"{os.path.basename(path)} has the key {key}"
    return None


def _weight_map(raw: bytes, path: str, must: bool) -> Optional[Dict[str, str]]:
    """{tensor: file} of an index, None for a JSON file that is none; entries that point outside the folder are refused."""
    value = parse_json(raw, path)
    weight_map = value.get("weight_map") if isinstance(value, dict) else None
    if not isinstance(weight_map, dict):
        if must:
            raise WeightsError("is named as an index and has no weight_map object. Bring the file again, or remove it: "
                               "the folder is then walked", path, 0)
        return None
    kinds = set(map(type, weight_map.values()))
    if kinds - {str}:
        raise WeightsError("its weight_map has values that are no file names. Bring the file again", path, 0)
    for name in set(weight_map.values()):
        parts = name.split("/")
        if not name or os.path.isabs(name) or ".." in parts or "\0" in name or "\\" in name or not name.endswith(".safetensors"):
            raise WeightsError(f"its weight_map names the file {name!r:.200}; a .safetensors file inside the folder was expected. "
                               "Bring the index that was published with the weights", path, 0)
    return weight_map


def walk(path: str) -> List[str]:
    """Relative names of all safetensors files in and below a folder, in the order of os.walk with sorted names."""
    found: List[str] = []

    def failed(exc: OSError) -> None:
        raise unreadable(exc.filename or path, exc)

    for folder, below, files in os.walk(path, onerror=failed):
        below[:] = sorted(name for name in below if not _NO_WEIGHTS.match(name))
        found.extend(os.path.relpath(os.path.join(folder, name), path) for name in sorted(files) if name.endswith(".safetensors"))
        if len(found) > MAX_FILES:
            raise WeightsError(f"holds more than {MAX_FILES} safetensors files. Give the folder of one model", path)
    return found


def _choose_indexes(indexes: Dict[str, Dict[str, str]], present: List[str]) -> Tuple[Dict[str, Dict[str, str]], List[str]]:
    """The indexes that speak of this folder, and the files that they miss.

    A quantizer copies the JSON files of its source, which may bring an index of files that were never here: an index of which no
    file exists is passed over where other safetensors files do.
    """
    there = set(present)
    used = {name: weight_map for name, weight_map in indexes.items() if there & set(weight_map.values())}
    if not used and not present:
        used = indexes
    missing = sorted({item for weight_map in used.values() for item in weight_map.values()} - there)
    return used, missing


def _union(path: str, used: Dict[str, Dict[str, str]]) -> Dict[str, str]:
    if len(used) == 1:
        return next(iter(used.values()))
    together: Dict[str, str] = {}
    for index, weight_map in sorted(used.items()):
        for name, item in weight_map.items():
            if together.setdefault(name, item) != item:
                raise WeightsError(f"says that {name} is in {item}, another index of the folder says {together[name]}. Remove the index that does not belong "
                                   "to these files", os.path.join(path, index), 0)
    return together


def _missing_numbers(present: List[str]) -> List[str]:
    """Files that a numbered set (x-00001-of-00003.safetensors) lacks."""
    sets: Dict[Tuple[str, str], Set[int]] = {}
    for name in present:
        match = _NUMBERED.match(name)
        if match:
            sets.setdefault((match.group(1), match.group(3)), set()).add(int(match.group(2)))
    missing: List[str] = []
    for (prefix, total), numbers in sorted(sets.items()):
        # model.safetensors shards count from 1; the public merge script counts from 0.
        first = 0 if 0 in numbers else 1
        width = len(total)
        missing += [f"{prefix}-{number:0{width}}-of-{total}.safetensors"
                    for number in range(first, min(int(total), MAX_FILES) + 1) if number not in numbers]
    return missing


def inspect(path: str, layers: Optional[int], incomplete: bool = False) -> Folder:
    """Read every header of the folder; `layers` is num_hidden_layers (None: not known, nothing counts as MTP).

    Raises WeightsError for a missing shard (unless incomplete is true) or a damaged one, a tensor that stands in two files, an index
    that contradicts its files.
    """
    layout = look_around(path)
    if layout.missing and not incomplete:
        raise WeightsError(f"{len(layout.missing)} of its safetensors files are missing ({shortened(layout.missing)}). Bring them, or check "
                           "whether the download was complete", path)
    if not layout.shards:
        _explain_no_shards(path)
    collecting = gc.isenabled()
    gc.disable()  # 138,000 tensors are built at once; the collector would walk them again and again
    try:
        found = _collect(path, layers, layout)
    finally:
        if collecting:
            gc.enable()
    # The 4,000 tensors that are kept lie scattered among 134,000 that are gone, and pin their memory. A copy does not: half the
    # memory of a merge of R1.
    return pickle.loads(pickle.dumps(found, pickle.HIGHEST_PROTOCOL))


def _explain_no_shards(path: str) -> None:
    if any(name.endswith(".gguf") for name in list_folder(path)):
        raise WeightsError("holds GGUF files and no safetensors file. It looks as if safetensors_path and gguf_path were swapped: "
                           "safetensors_path takes the W8A8 folder", path)
    raise WeightsError("holds no safetensors file. Give the folder with the model's .safetensors files", path)


def _collect(path: str, layers: Optional[int], layout: Layout) -> Folder:
    owner: Dict[str, int] = {}
    shards: List[Shard] = []
    kept: List[Kept] = []
    groups: Dict[Tuple[str, str], _Group] = {}
    mtp: Dict[str, List[int]] = {}
    for number, relative in enumerate(layout.shards):
        full = os.path.join(path, relative)
        header = read_header(full)
        shards.append(Shard(relative, full, header.size, header.mtime_ns))
        found = dict.fromkeys([tensor[0] for tensor in header.tensors], number)
        if not owner.keys().isdisjoint(found):
            name = sorted(owner.keys() & found.keys())[0]
            raise WeightsError(f"tensor {name} stands in {layout.shards[owner[name]]} too. Keep one of the two files", full, 8)
        owner.update(found)
        for tensor in header.tensors:
            name, dtype, shape, begin, end = tensor
            layer_name, is_expert, rest = name.partition(_EXPERTS)
            if is_expert:
                expert, _dot, rest = rest.partition(".")
                group = groups.get((layer_name, rest))
                if group is None:
                    group = groups[(layer_name, rest)] = _Group()
                group.experts.append(expert)
                if shape is not group.shape:  # the reader gives equal shapes of a file as one object
                    group.shape = shape
                    group.forms[(dtype, shape)] = end - begin
                continue
            layer = names.layer_of(name)
            if layers is not None and layer is not None and layer >= layers:
                entry = mtp.setdefault(dtype, [0, 0])
                entry[0] += 1
                entry[1] += end - begin
            else:
                kept.append(Kept(name, dtype, shape, number, begin, end))
    _check_index(path, layout, owner)
    return _summary(path, layers, layout, shards, kept, groups, mtp)


def _check_index(path: str, layout: Layout, owner: Dict[str, int]) -> None:
    """Every tensor of the index is in the file that the index names."""
    numbers = {name: number for number, name in enumerate(layout.shards)}
    expected, found = list(map(numbers.get, layout.weight_map.values())), list(map(owner.get, layout.weight_map))
    wrong = [] if expected == found else [name for name, one, other in zip(layout.weight_map, expected, found) if one != other]
    if wrong:
        name = wrong[0]
        place = f"in {layout.shards[owner[name]]}" if name in owner else "nowhere"
        raise WeightsError(f"lists {len(wrong)} tensors that are not in the file it names: {name} is {place}, not in {layout.weight_map[name]}. "
                           "Bring the index and the files of one and the same export", os.path.join(path, layout.indexes[0]), 0)


def _summary(path: str, layers: Optional[int], layout: Layout, shards: List[Shard], kept: List[Kept],
             groups: Dict[Tuple[str, str], _Group], mtp: Dict[str, List[int]]) -> Folder:
    experts: Dict[Tuple[int, str, str], ExpertGroup] = {}
    left_out = {"mtp": sum(count for count, _size in mtp.values()), "expert_weights": 0, "expert_scales": 0}
    sizes = {"mtp": sum(size for _count, size in mtp.values()), "expert_weights": 0, "expert_scales": 0}
    stats: Dict[Tuple[str, str], List[int]] = {("mtp", dtype): entry for dtype, entry in mtp.items()}
    for (layer_name, rest), group in groups.items():
        number = names.layer_of(layer_name + ".")
        module, _dot, suffix = rest.partition(".")
        odd = [expert for expert in group.experts if len(expert) > 6 or not expert.isdigit()]
        if number is None or not suffix or odd:
            raise WeightsError(f"the tensor {layer_name}{_EXPERTS}{(odd or group.experts)[0]}.{rest} is named like an expert's and is none. "
                               "Bring the export again", path)
        count, highest = len(group.experts), max(map(int, group.experts))
        # An approximation where experts of one module differ in form, which is refused later.
        size = count * max(group.forms.values())
        if layers is not None and number >= layers:
            kind = "mtp"
        else:
            kind = "expert_weights" if suffix == "weight" else "expert_scales"
            experts[(number, module, suffix)] = ExpertGroup(count, highest, tuple(sorted(group.forms)))
        left_out[kind] += count
        sizes[kind] += size
        label = "mtp" if kind == "mtp" else "experts"
        _add(stats, label, "+".join(sorted({dtype for dtype, _shape in group.forms})), count, size)
    for tensor in kept:
        _add(stats, names.tensor_class(names.engine_name(tensor.name)), tensor.dtype, 1, tensor.end - tensor.begin)
    return Folder(path, shards, kept, experts, left_out, sizes, {key: (count, size) for key, (count, size) in stats.items()},
                  layout.indexes, layout.descriptions, layout.side_files, layout.ignored, layout.missing, rotation_mark(path, layout, kept))


def _add(stats: Dict[Tuple[str, str], List[int]], label: str, dtype: str, count: int, size: int) -> None:
    entry = stats.setdefault((label, dtype), [0, 0])
    entry[0] += count
    entry[1] += size


def rotation_mark(path: str, layout: Layout, kept: List[Kept]) -> Optional[str]:
    """Where the folder says that the export was rotated (its experts then fit no plain GGUF), None where it says nothing."""
    if layout.rotation is not None:
        return layout.rotation
    if os.path.exists(os.path.join(path, "optional", "quarot.safetensors")):
        return "optional/quarot.safetensors is there"
    for tensor in kept:
        if tensor.name.split(".")[0] in ("global_rotation", "quarot"):
            return f"it has the tensor {tensor.name}"
    return None
