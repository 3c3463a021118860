# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is in a folder of weights, from headers alone: for weights_info, and for roles that decide what is to be done."""

from __future__ import annotations

import os
import struct
from typing import Any, Dict, List, Optional, Tuple

from ansible_collections.npuops.ktransformers.plugins.module_utils.weights import checks, engine, manifest, names
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights import folder as folders
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights import gguf as ggufs
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights.errors import Problem, WeightsError, errors_of, problem, shortened
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights.files import list_folder, open_regular, pread_exact, read_bounded
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights.model import Model, parse_model, read_config
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights.safetensors import Header, read_header

Stats = Dict[Tuple[str, str], Tuple[int, int]]


def empty(path: str) -> Dict[str, Any]:
    """The answer before anything is known."""
    return {
        "path": path, "found": False, "reason": None, "kind": "empty", "architecture": None, "layers": None, "experts": None,
        "format": None, "quantization": {}, "bytes_by_class": {}, "tensors": 0, "bytes": 0, "files": 0, "missing_shards": [],
        "problems": [], "engine_problems": [], "merged": None,
    }


def describe(path: str, engine_name: str = "none", transformers_version: str = "4.43.2") -> Dict[str, Any]:
    """What is in `path`. Never raises WeightsError: what is wrong is in reason and problems."""
    answer = empty(path)
    try:
        if not os.path.exists(path):
            answer["reason"] = f"{path} does not exist"
            return answer
        gguf_file = os.path.isfile(path) and path.endswith(".gguf")
        entries = [] if gguf_file else list_folder(path)
        safetensors = [] if gguf_file else folders.walk(path)
        if gguf_file or (not safetensors and any(name.endswith(".gguf") for name in entries)):
            _describe_gguf(path, answer)
        elif safetensors:
            _describe_safetensors(path, safetensors, answer, engine_name, transformers_version)
        elif os.path.isdir(manifest.work_folder(path)):
            answer.update(kind="merged", merged=_merged(path), reason=f"{path} holds a merge that has not finished its first file")
        else:
            answer["reason"] = f"{path} holds neither .safetensors nor .gguf files"
    except WeightsError as exc:
        answer["reason"] = str(exc)
        answer["problems"].append(problem("unreadable", str(exc), "weights that can be read", "See the message"))
    if engine_name == "ktransformers" and answer["kind"] != "merged":
        answer["engine_problems"].append(problem(
            "engine_not_merged", f"{path} is not a merged folder ({answer['kind']})",
            "the result of gguf_safetensors_merge; the engine would say: Weight file not found for key output",
            "Merge the W8A8 and the Q4_K_M folder with gguf_safetensors_merge, and give its output_path"))
    return answer


def _add(stats: Stats, label: str, dtype: str, size: int) -> None:
    count, total = stats.get((label, dtype), (0, 0))
    stats[(label, dtype)] = (count + 1, total + size)


def _fill(answer: Dict[str, Any], stats: Stats) -> None:
    for (label, dtype), (count, size) in sorted(stats.items()):
        answer["quantization"].setdefault(label, {})[dtype] = count
        answer["bytes_by_class"][label] = answer["bytes_by_class"].get(label, 0) + size
        answer["tensors"] += count


def _describe_gguf(path: str, answer: Dict[str, Any]) -> None:
    answer["kind"] = "gguf"
    files = [ggufs.read_file(name) for name in ggufs.find_files(path)]
    answer.update(found=True, format="gguf", files=len(files), bytes=sum(item.size for item in files))
    stats: Stats = {}
    for item in files:
        for tensor in item.tensors:
            _add(stats, names.tensor_class(tensor.name), ggufs.type_name(tensor.ggml_type), tensor.size)
    _fill(answer, stats)
    metadata = next((item.metadata for item in files if "general.architecture" in item.metadata), {})
    architecture = metadata.get("general.architecture")
    answer.update(architecture=architecture, layers=metadata.get(f"{architecture}.block_count"), experts=metadata.get(f"{architecture}.expert_count"))
    answer["missing_shards"] = ggufs.missing_parts(files)
    if answer["missing_shards"]:
        answer["reason"] = f"GGUF files number {shortened(answer['missing_shards'])} are missing"
        answer["problems"].append(problem("missing_shards", answer["reason"], "all the files of the model", "Bring them"))
    else:
        ggufs.read_set(path)


def _describe_safetensors(path: str, files: List[str], answer: Dict[str, Any], engine_name: str, transformers_version: str) -> None:
    answer["kind"] = "safetensors"
    config: Dict[str, Any] = {}
    model: Optional[Model] = None
    try:
        config = read_config(path)
        architectures = config.get("architectures")
        answer["architecture"] = architectures[0] if isinstance(architectures, list) and architectures else config.get("model_type")
        answer["layers"] = config.get("num_hidden_layers")
        answer["experts"] = config.get("n_routed_experts")
        model = parse_model(config, os.path.join(path, "config.json"))
    except WeightsError as exc:
        answer["problems"].append(problem("config", str(exc), "the config.json of the model", "Bring it into the folder"))
    if _is_merged(path, files):
        _describe_merged(path, answer, config, model, engine_name, transformers_version)
        return
    found = folders.inspect(path, model.num_hidden_layers if model else None, incomplete=True)
    answer.update(found=True, format=checks.format_of(found), files=len(found.shards), bytes=sum(item.size for item in found.shards),
                  missing_shards=found.missing)
    _fill(answer, found.stats)
    if found.missing:
        answer["reason"] = f"safetensors files are missing: {shortened(found.missing)}"
        answer["problems"].append(problem("missing_shards", answer["reason"], "all the files of the model", "Bring them"))
    answer["problems"] += checks.check_rotation(found)
    if model is not None and not found.missing:
        answer["problems"] += checks.check_folder(model, found, bool(config.get("tie_word_embeddings")))


def _is_merged(path: str, files: List[str]) -> bool:
    """A merge of ours, or of the public script: tensors have the engine's names."""
    if os.path.isdir(manifest.work_folder(path)):
        return True
    for name in files:
        try:
            tensors = read_header(os.path.join(path, name)).tensors
        except WeightsError:
            continue
        if tensors:
            return tensors[0].name.startswith(("blk.", "token_embd.", "output.", "output_norm."))
    return False


def _merged(path: str) -> Dict[str, Any]:
    """State of a merge of ours: complete, and why not; a folder without manifest may be of the public script."""
    known = manifest.load(path)
    answer: Dict[str, Any] = {"complete": False, "reason": None, "manifest": None, "plan": None, "files": 0, "stats": {}}
    if known is None:
        work = os.path.isdir(manifest.work_folder(path))
        answer["reason"] = "the merge was not finished" if work else "it has no manifest: it was not merged by this collection"
        return answer
    answer.update(manifest=manifest.manifest_path(path), plan=known.plan, files=len(known.records), stats=known.stats)
    for record in known.records.values():
        try:
            info = os.stat(os.path.join(path, record.name))
        except OSError:
            answer["reason"] = f"{record.name} is missing"
            return answer
        if (info.st_size, info.st_mtime_ns) != (record.size, record.mtime_ns):
            answer["reason"] = f"{record.name} was changed since it was merged"
            return answer
    foreign = [name for name in manifest.foreign_files(path, None, known.records) if name.endswith(".safetensors")]
    if foreign:
        answer["reason"] = f"{shortened(foreign)} does not belong to the merge"
        return answer
    answer["complete"] = True
    return answer


def engine_walk(path: str) -> Tuple[List[Header], List[Problem]]:
    """Headers of the files that the engine would open, in its order, and what it would pass over without a word.

    As its loader walks: os.walk, names sorted in each folder, handles kept by base name.
    """
    headers: List[Header] = []
    found: List[Problem] = []
    seen: Dict[str, str] = {}
    for folder, _below, files in os.walk(path):
        for name in sorted(files):
            if not name.endswith(".safetensors"):
                continue
            full = os.path.join(folder, name)
            if name in seen:
                found.append(problem("engine_file_name_twice", f"{seen[name]} and {full} have the same name",
                                     "unique names in and below the folder; the engine opens only the first", "Remove or rename one of them"))
                continue
            seen[name] = full
            try:
                headers.append(read_header(full))
            except WeightsError as exc:
                found.append(problem("engine_file_unreadable", str(exc), "a whole safetensors file; the engine prints an error, goes on without it, "
                                     "and misses its tensors later", "Merge again, or remove the file if it does not belong there"))
    return headers, found


def _describe_merged(path: str, answer: Dict[str, Any], config: Dict[str, Any], model: Optional[Model], engine_name: str,
                     transformers_version: str) -> None:
    answer.update(kind="merged", found=True, merged=_merged(path), format="merged")
    headers, found = engine_walk(path)
    answer.update(files=len(headers), bytes=sum(item.size for item in headers))
    if not answer["merged"]["complete"]:
        answer["reason"] = answer["merged"]["reason"]
    tensors: Dict[str, engine.Tensor] = {}
    stats: Stats = {}
    twice: List[str] = []
    for header in headers:
        for tensor in header.tensors:
            if tensor.name in tensors:
                twice.append(tensor.name)
            tensors[tensor.name] = engine.Tensor(tensor.dtype, tensor.shape, _scalar(header.path, tensor))
            _add(stats, names.tensor_class(tensor.name), tensor.dtype, tensor.end - tensor.begin)
    if twice:
        found.append(problem("engine_tensor_twice", f"{len(twice)} tensors stand in two files: {shortened(twice)}",
                             "each tensor once; the engine takes the one of the later file", "Remove the file that does not belong to the merge"))
    _fill(answer, stats)
    for name, seen in tensors.items():
        if name.endswith(".ggml_type") and seen.value is not None:
            kinds = answer["quantization"].setdefault("experts_ggml", {})
            label = ggufs.type_name(seen.value)
            kinds[label] = kinds.get(label, 0) + 1
    if engine_name != "ktransformers":
        return
    answer["engine_problems"] += found
    if model is None:
        answer["engine_problems"] += errors_of(answer["problems"])
        return
    sides = {}
    for name in os.listdir(path):
        if name.endswith((".json", ".py", ".jinja", ".model")) and os.path.isfile(os.path.join(path, name)):
            sides[name] = read_bounded(os.path.join(path, name))
    answer["engine_problems"] += engine.check(engine.as_weights(tensors, config, sides), model, transformers_version)


def _scalar(path: str, tensor: Any) -> Optional[int]:
    """Value of a ggml_type tensor."""
    layouts = {"I64": "<q", "I32": "<i", "I16": "<h", "I8": "<b", "U8": "<B"}
    if not tensor.name.endswith(".ggml_type") or tensor.dtype not in layouts or tensor.end - tensor.begin != struct.calcsize(layouts[tensor.dtype]):
        return None
    fd, _info = open_regular(path)
    try:
        return struct.unpack(layouts[tensor.dtype], pread_exact(fd, tensor.end - tensor.begin, tensor.begin, path))[0]
    finally:
        os.close(fd)
