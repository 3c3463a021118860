# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json

import pytest
from ansible_collections.npuops.ktransformers.plugins.modules import weights_info

from tests.unit.plugins.module_utils.weights.builders import FIXTURES

# ansible-core 2.13, the last for Python 3.8, has none; `make matrix` deploys a whole node with that Python instead.
patch_module_args = pytest.importorskip("ansible.module_utils.testing").patch_module_args


@pytest.mark.parametrize("path, found, kind, problems", [
    (FIXTURES / "tiny-a" / "gguf", True, "gguf", []),
    (FIXTURES / "tiny-a" / "fp8", True, "safetensors", []),
    (FIXTURES / "nowhere", False, "empty", []),
])
def test_weights_info(capfd, path, found, kind, problems):
    with patch_module_args({"path": str(path)}), pytest.raises(SystemExit) as end:
        weights_info.main()
    result = json.loads(capfd.readouterr().out)
    assert end.value.code == 0 and result["changed"] is False
    assert (result["weights"]["found"], result["weights"]["kind"], result["weights"]["engine_problems"]) == (found, kind, problems)
