# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The five expected files: every tensor of the merge, byte for byte, read with the safetensors library."""

from __future__ import annotations

import hashlib
import json

import pytest
import safetensors
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights import merge

from tests.unit.plugins.module_utils.weights.builders import FIXTURES

PAIRS = [("tiny-a", "w8a8"), ("tiny-a", "fp8"), ("tiny-deepseek-v3", "w8a8"), ("tiny-deepseek-v3", "fp8"), ("tiny-msmodelslim", "w8a8")]


def merged(pair, form, output):
    prepared = merge.prepare(merge.Options(str(FIXTURES / pair / form), str(FIXTURES / pair / "gguf"), str(output), form))
    assert prepared.errors() == []
    merge.execute(prepared, merge.Progress())
    return prepared


@pytest.mark.parametrize("pair, form", PAIRS)
def test_every_expected_tensor(tmp_path, pair, form):
    expected = json.loads((FIXTURES / pair / f"expected-{form}.json").read_text())
    prepared = merged(pair, form, tmp_path / "out")
    found = {}
    for path in sorted((tmp_path / "out").glob("*.safetensors")):
        for name, tensor in safetensors.deserialize(path.read_bytes()):
            assert name not in found
            found[name] = {"dtype": tensor["dtype"], "shape": list(tensor["shape"]), "sha256": hashlib.sha256(tensor["data"]).hexdigest()}
    assert found == {name: {key: tensor[key] for key in ("dtype", "shape", "sha256")} for name, tensor in expected["tensors"].items()}
    by_source = {name: (tensor["source"], tensor["source_name"]) for name, tensor in expected["tensors"].items()}
    assert {tensor.name: (tensor.side, tensor.source_name) for tensor in prepared.plan.tensors()} == by_source
    if "left_out" in expected:
        assert prepared.plan.left_out == expected["left_out"]


@pytest.mark.parametrize("pair, form", PAIRS)
def test_what_comes_along(tmp_path, pair, form):
    merged(pair, form, tmp_path / "out")
    found = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.is_file() and path.suffix != ".safetensors"}
    folder = FIXTURES / pair / form
    assert found == {name: (folder / name).read_bytes() for name in ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")}
