# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from ansible_collections.npuops.ktransformers.plugins.module_utils import torch_npu

OPERATORS = ["_npu_matmul_dequant", "_npu_flash_attention_mla"]
GOOD = {
    "imported": True,
    "error": None,
    "available": True,
    "device_count": 8,
    "missing_operators": [],
    "graph_error": None,
    "torch": "2.3.1",
    "version": "2.3.1.post6",
    "cxx11_abi": 0,
    "atb_home": "/usr/local/Ascend/nnal/atb/latest/atb/cxx_abi_0",
    "stage": "operators",
}


@pytest.mark.parametrize(
    "error, meaning",
    [
        ("ImportError: libhccl.so: cannot open shared object file: No such file or directory", "the environment of CANN is not set"),
        ("ImportError: libascendcl.so: cannot open shared object file: No such file or directory", "the environment of CANN is not set"),
        ("ImportError: libascend_hal.so: cannot open shared object file: No such file or directory", "CANN was found, but the driver's libraries were not"),
        ("ImportError: libatb.so: cannot open shared object file: No such file or directory", "NNAL is missing or not in the environment"),
        ("ImportError: /x/torch_npu/lib/libnpu_profiler.so: undefined symbol: aclAppLog", "it was built for another CANN than the one that was found"),
        (
            "ImportError: /x/libtorch_npu.so: undefined symbol: _ZN3c106detail14torchCheckFailEPKcS2_jRKNSt7__cxx1112basic_stringE",
            "it was built for the other C++ ABI than torch",
        ),
        ("ImportError: /x/libtorch_npu.so: undefined symbol: _ZN3c105ErrorC2E", "it was built for another torch than the one that is installed"),
        (
            "ImportError: /lib/libstdc++.so.6: version `GLIBCXX_3.4.32' not found (required by /x/_C.so)",
            "the libstdc++ that python loads is older than the one it was built with",
        ),
        ("ImportError: /lib/libc.so.6: version `GLIBC_2.38' not found", "it was built for a newer operating system than this node has"),
        ("ImportError: /x/libgomp.so.1: cannot allocate memory in static TLS block", "libgomp was loaded too late"),
        ("ModuleNotFoundError: No module named 'torch_npu'", "it is not installed"),
        ("ModuleNotFoundError: No module named 'yaml'", "a Python package that it needs is missing or of another version"),
        ("RuntimeError: something new", "the cause is not known"),
    ],
)
def test_cause_of(error, meaning):
    assert torch_npu.cause_of(error)[0] == meaning


@pytest.mark.parametrize(
    "change, ids, words",
    [
        pytest.param({}, [], "", id="good"),
        pytest.param(
            {"error": "ImportError: libhccl.so: cannot open shared object file", "stage": "torch_npu", "available": False, "device_count": 0},
            ["torch_npu-import"],
            "import torch_npu fails with ImportError: libhccl.so: cannot open shared object file: the environment of CANN is not set",
            id="import",
        ),
        pytest.param(
            {"error": "RuntimeError: drvErr=87", "stage": "devices"},
            ["torch_npu-import"],
            "the question for NPUs fails with RuntimeError: drvErr=87",
            id="no-answer",
        ),
        pytest.param({"available": False, "device_count": 0}, ["torch_npu-devices"], "torch_npu sees 0 NPUs (is_available() is False)", id="no-npu"),
        pytest.param(
            {"missing_operators": OPERATORS},
            ["torch_npu-operators"],
            "torch_npu 2.3.1.post6 has no _npu_matmul_dequant, _npu_flash_attention_mla: this is a public torch_npu, "
            "which loads the model and fails at the first prompt",
            id="public",
        ),
        pytest.param({"atb_home": "/a/cxx_abi_1"}, ["torch_npu-abi"], "torch has C++ ABI 0, the environment takes NNAL's library for ABI 1", id="abi"),
        pytest.param({"atb_home": None}, [], "", id="no-nnal-in-the-environment"),
        pytest.param(
            {"graph_error": "No module named 'pkg_resources'"},
            ["torch_npu-graph"],
            "No module named 'pkg_resources': torchair, and with it graph mode, cannot be imported",
            id="setuptools",
        ),
        pytest.param(
            {"available": False, "device_count": 0, "missing_operators": OPERATORS},
            ["torch_npu-devices", "torch_npu-operators"],
            "torch_npu sees 0 NPUs",
            id="two",
        ),
    ],
)
def test_problems(change, ids, words):
    found = torch_npu.problems({**GOOD, **change}, OPERATORS)
    assert [problem["id"] for problem in found] == ids
    assert all(set(problem) == {"id", "severity", "observed", "expected", "repair"} and problem["repair"] for problem in found)
    if found:
        assert found[0]["observed"].startswith(words)


@pytest.mark.parametrize(
    "code, out, err, error",
    [
        pytest.param(0, "noise\n" + json.dumps(GOOD) + "\n", "warnings", None, id="answer"),
        pytest.param(-11, "", "", "the interpreter was killed by signal 11", id="crash"),
        pytest.param(1, "", "npu-exec: /etc/npuops/npu.env is missing\n\n", "npu-exec: /etc/npuops/npu.env is missing", id="wrapper"),
        pytest.param(0, "[1, 2]\nend", "", "end", id="no-answer"),
        pytest.param(3, "", "", "exit code 3 without a word", id="silent"),
    ],
)
def test_read_probe(code, out, err, error):
    seen = torch_npu.read_probe(code, out, err)
    assert seen["error"] == error
    assert set(seen) == set(GOOD)


def packages(folder, torch_npu_init):
    """A torch and a torch_npu that a test can import."""
    (folder / "torch").mkdir()
    (folder / "torch/__init__.py").write_text(
        "__version__ = '2.3.1'\nclass _C:\n    _GLIBCXX_USE_CXX11_ABI = False\nclass ops:\n    class npu:\n        _npu_flash_attention_mla = 1\n"
    )
    (folder / "torch_npu").mkdir()
    (folder / "torch_npu/__init__.py").write_text(torch_npu_init)


def ask(folder, operators):
    command = torch_npu.probe_command(sys.executable, [], operators)
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(folder), "ATB_HOME_PATH": "/a/cxx_abi_0"}, capture_output=True, text=True)
    return torch_npu.read_probe(done.returncode, done.stdout, done.stderr)


WORKING = """
print("torch_npu prints what it likes")
__version__ = "2.3.1.post6"
def _npu_matmul_dequant(): pass
class npu:
    is_available = staticmethod(lambda: True)
    device_count = staticmethod(lambda: 2)
"""


def test_the_probe_asks_for_devices_and_operators(tmp_path):
    packages(tmp_path, WORKING)
    seen = ask(tmp_path, ["_npu_matmul_dequant", "_npu_flash_attention_mla", "_npu_matmul_pp"])
    assert (seen["imported"], seen["available"], seen["device_count"], seen["version"], seen["cxx11_abi"]) == (True, True, 2, "2.3.1.post6", 0)
    assert (seen["missing_operators"], seen["atb_home"], seen["error"]) == (["_npu_matmul_pp"], "/a/cxx_abi_0", None)


@pytest.mark.parametrize(
    "code, error",
    [
        ("raise ImportError('libhccl.so: cannot open\\nshared object file')", "ImportError: libhccl.so: cannot open shared object file"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("import os; os.kill(os.getpid(), 11)", "the interpreter was killed by signal 11"),
    ],
)
def test_the_probe_survives_what_an_import_does(tmp_path, code, error):
    packages(tmp_path, code)
    assert ask(tmp_path, [])["error"] == error
