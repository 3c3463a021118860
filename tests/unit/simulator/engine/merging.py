"""A merge of the tiny pair in few lines, for tests of the engine: it follows expected-w8a8.json, tensor by tensor.

It shares nothing with the collection's own merge, so that the two can be told apart when a test fails.
"""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import gguf

from tests.simulator.engine import build, tensors

FIXTURES = Path(__file__).resolve().parents[3] / "fixtures" / "weights"
PAIR = FIXTURES / "tiny-msmodelslim"
GGML_TYPE = {"Q4_K": 12, "Q6_K": 14}

# name -> (dtype, shape, bytes)
Contents = dict


def gguf_tensors(folder: Path) -> dict:
    """name -> gguf's own tensor, of all the files of a set."""
    return {tensor.name: tensor for path in sorted(folder.glob("*.gguf")) for tensor in gguf.GGUFReader(path).tensors}


def contents() -> Contents:
    """All tensors of the correct merge."""
    expected = json.loads((PAIR / "expected-w8a8.json").read_text())["tensors"]
    source = {tensor.name: tensor for path in (PAIR / "w8a8").glob("*.safetensors") for tensor in tensors.read_header(str(path))}
    experts = gguf_tensors(PAIR / "gguf")
    merged = {}
    for name, entry in expected.items():
        if entry["source"] == "safetensors":
            data = source[entry["source_name"]].read()
        elif name.endswith(".ggml_type"):
            data = struct.pack("<q", int(experts[entry["source_name"]].tensor_type))
        else:
            data = experts[entry["source_name"]].data.tobytes()
        merged[name] = (entry["dtype"], entry["shape"], data)
    return merged


def write_safetensors(path: Path, part: Contents) -> None:
    header, offset = {}, 0
    for name, (dtype, shape, data) in part.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(data for _, _, data in part.values()))


def write_folder(folder: Path, merged: Contents, **config) -> Path:
    """A folder that the engine loads: one file a layer and one for the rest, as the reference script cuts it; `config` overrides."""
    folder.mkdir(parents=True, exist_ok=True)
    parts: dict = {}
    for name, tensor in merged.items():
        layer = int(name.split(".")[1]) + 1 if name.startswith("blk.") else 0
        parts.setdefault(layer, {})[name] = tensor
    for layer, part in parts.items():
        write_safetensors(folder / f"model-{layer:05d}-of-{max(parts):05d}.safetensors", part)
    for path in (PAIR / "w8a8").glob("*.json"):
        if "index" not in path.name and "description" not in path.name:
            build.lay(folder / path.name, path.read_bytes())
    shutil.copyfile(Path(build.HERE) / "stand_in" / "configuration_deepseek.py", folder / "configuration_deepseek.py")
    set_config(folder, torch_dtype="float16", **config)
    return folder


def set_config(folder: Path, **values) -> None:
    """Set keys of config.json; None removes one."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config.update(values)
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
