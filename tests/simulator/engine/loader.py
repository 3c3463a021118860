# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which tensors the engine sees below its --gguf_path (custom_loader.py of the public branch)."""

from __future__ import annotations

import os

from . import tensors


class SafeTensorLoader:
    """All *.safetensors below a folder. Index and description files are never read; nothing is checked but the headers."""

    def __init__(self, folder: str):
        self.tensor_file_map: dict = {}
        handles: dict = {}
        for root, _, files in os.walk(folder):
            for file in sorted(files):
                if not file.endswith(".safetensors"):
                    continue
                path = os.path.join(root, file)
                # Handles are kept by base name: the same name in another folder is not opened, its tensors stay invisible.
                if file not in handles:
                    try:
                        handles[file] = tensors.read_header(path)
                    except (tensors.SafetensorError, OSError) as error:
                        print(f"Error opening Safetensor file {path}: {error}")
                        continue
                for tensor in handles[file]:
                    self.tensor_file_map[tensor.name] = tensor


class GGUFLoader:
    """Finds the tensors, and keeps the names that were asked for, in order."""

    def __init__(self, path: str, quantize=None):
        if not os.path.exists(path):
            raise FileNotFoundError(f"GGUF dir not found: {path}")
        if os.path.isfile(path):
            path = os.path.dirname(path)
        self.quantized = quantize == "w8a8_dynamic"
        self.asked: list = []
        # The real one builds a plain loader, then the one it uses: a bad file is named twice.
        SafeTensorLoader(path)
        found = SafeTensorLoader(path)
        if found.tensor_file_map:
            self.safetensor_loader = found
            return
        # Nothing readable: it looks for GGUF files, and would fail later without its safetensors.
        gguf = [os.path.join(root, file) for root, _, files in os.walk(path) for file in files if file.endswith(".gguf")]
        for name in gguf:
            with open(name, "rb") as stream:
                assert stream.read(4) == b"GGUF"
        if not gguf:
            raise FileNotFoundError(f"Cannot find any .gguf files in: {path}")

    def has(self, name: str) -> bool:
        return name in self.safetensor_loader.tensor_file_map

    def ask(self, name: str, called: str = "") -> tensors.Tensor:
        """The tensor `name`. `called` is the name that the plain loader would say, when it differs."""
        self.asked.append(name)
        found = self.safetensor_loader.tensor_file_map.get(name)
        if found is None:
            # str(KeyError) puts the sentence in quotes, as the real message shows.
            raise KeyError(f"Key {name if self.quantized or not called else called} not found in Safetensor files")
        return found
