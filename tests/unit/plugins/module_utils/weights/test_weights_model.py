# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json

import pytest
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights import model
from ansible_collections.npuops.ktransformers.plugins.module_utils.weights.errors import WeightsError

from tests.unit.plugins.module_utils.weights.builders import FIXTURES, R1_CONFIG


def test_dimensions():
    found = model.parse_model(model.read_config(str(FIXTURES / "tiny-a" / "w8a8")), "config.json")
    assert (found.num_hidden_layers, found.n_routed_experts, found.num_nextn_predict_layers, found.correction_bias) == (3, 3, 1, True)
    assert [found.is_moe(layer) for layer in range(3)] == [False, True, True]


@pytest.mark.parametrize("change, message", [
    ({"model_type": "llama"}, "model_type is 'llama'; this merge knows DeepSeek V2/V3/R1 (deepseek_v3, deepseekv2, deepseek_v2, deepseekv3). "
                              "Give the config.json of such a model"),
    ({"model_type": ["deepseek_v3"]}, "model_type is ['deepseek_v3']; this merge knows DeepSeek V2/V3/R1 (deepseek_v3, deepseekv2, deepseek_v2, "
                                      "deepseekv3). Give the config.json of such a model"),
    ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000; a number from 1 to 1000 was expected. "
                                   "Take the config.json that was published with the weights"),
    ({"num_hidden_layers": "61"}, "num_hidden_layers is '61'; a number from 1 to 1000 was expected. Take the config.json that was published with the weights"),
    ({"n_routed_experts": True}, "n_routed_experts is True; a number from 1 to 65536 was expected. Take the config.json that was published with the weights"),
    ({"hidden_size": -1}, "hidden_size is -1; a number from 1 to 1048576 was expected. Take the config.json that was published with the weights"),
    ({"first_k_dense_replace": 1.5}, "first_k_dense_replace is 1.5; a number from 0 to 1000 was expected. "
                                     "Take the config.json that was published with the weights"),
    ({"vocab_size": ...}, "lacks the key vocab_size. Take the config.json that was published with the weights"),
])
def test_absurd_values(change, message):
    config = {key: value for key, value in dict(R1_CONFIG, **change).items() if value is not ...}
    with pytest.raises(WeightsError) as caught:
        model.parse_model(config, "config.json")
    assert str(caught.value) == f"config.json: {message}"


@pytest.mark.parametrize("raw, message", [
    (None, "it does not exist. Correct the path, or bring the file"),
    (b"", "byte 0: is no JSON: Expecting value. Bring the file again"),
    (b"\xff\xfe{}", "byte 0: is no UTF-8 text, so no JSON. Bring the file again"),
    (b"[1]", "byte 0: holds a JSON list where an object was expected. Bring the file again"),
    (b"NaN", "byte 0: is no JSON that can be used: NaN is no JSON. Bring the file again"),
    (b'{"a": ' + b"9" * 100000 + b"}", "byte 0: is no JSON that can be used: a number of 100000 digits. Bring the file again"),
    (b"[" * 100000, "byte 0: is JSON nested too deep to be what it claims. Bring the file again"),
    (b"[" + b"[]," * 2000000, "byte 0: is JSON of more lists or elements than any such file has. Bring the file again"),
    (b" " * (17 << 20), "has 17825792 bytes, more than the 16777216 that such a file may have. Check what it is"),
    (b"version https://git-lfs.github.com/spec/v1\n", "byte 0: is a Git LFS pointer of a few lines, not the file itself. "
                                                      "In the clone, run: git lfs install && git lfs pull"),
], ids=lambda value: None if isinstance(value, str) else "x")
def test_a_config_that_is_none(tmp_path, raw, message):
    if raw is not None:
        (tmp_path / "config.json").write_bytes(raw)
    with pytest.raises(WeightsError) as caught:
        model.read_config(str(tmp_path))
    assert str(caught.value) == f"{tmp_path / 'config.json'}: {message}"


def test_overrides():
    changed = model.with_overrides({"a": 1, "b": 2, "c": {"d": 1}}, {"a": None, "c": {"e": 2}, "f": "x", "g": None})
    assert changed == {"b": 2, "c": {"e": 2}, "f": "x"}


@pytest.mark.parametrize("config", [{"name": "深度求索"}, {"half": "\ud800"}, {"a": [1, 2.5, None, True]}])
def test_a_written_config_is_read_again(config):
    assert json.loads(model.encode_config(config)) == config
