# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether the installed torch_npu works, and if not, why: torch_npu's own messages name a symptom, seldom the cause.

What each error means was tried with the published wheels against stub CANN libraries, and read in the reports of users.
"""
from __future__ import annotations

import json
import re
import typing as t

# Runs in the environment, in the environment of CANN. The last line that it prints is JSON.
_PROBE = r"""
import json, os, sys
wanted = json.loads(sys.argv[1])
seen = {"imported": False, "error": None, "available": False, "device_count": 0, "missing_operators": [], "graph_error": None,
        "torch": None, "version": None, "cxx11_abi": None, "atb_home": os.environ.get("ATB_HOME_PATH"), "stage": "torch"}
try:
    import torch
    seen["torch"], seen["cxx11_abi"], seen["stage"] = torch.__version__, int(torch._C._GLIBCXX_USE_CXX11_ABI), "torch_npu"
    import torch_npu
    seen["imported"], seen["version"] = True, getattr(torch_npu, "__version__", None)
    seen["stage"] = "devices"
    seen["available"], seen["device_count"] = bool(torch_npu.npu.is_available()), int(torch_npu.npu.device_count())
    seen["stage"] = "operators"
    library = getattr(getattr(torch, "ops", None), "npu", None)
    seen["missing_operators"] = [name for name in wanted if not hasattr(torch_npu, name) and not hasattr(library, name)]
except BaseException as problem:
    seen["error"] = "%s: %s" % (type(problem).__name__, " ".join(str(problem).split()))
try:
    import pkg_resources
except ImportError as problem:
    seen["graph_error"] = str(problem)
sys.stdout.flush()
print("\n" + json.dumps(seen))
"""

_EXEC = "run the program with npu-exec"
# (pattern of the error, what it means, what to do); the first that fits counts.
_CAUSES: t.Tuple[t.Tuple[str, str, str], ...] = (
    (r"libascend_hal\.so", "CANN was found, but the driver's libraries were not",
     f"{_EXEC}; when that is how it ran, the driver is not below ascend_root: install it (--tags hdk)"),
    (r"libatb\.so|libatb_", "NNAL is missing or not in the environment",
     "install it (--tags cann)"),
    (r"lib(hccl|ascendcl|acl_op_compiler|ge_runner|graph|acl_tdt_channel|fmk_parser|ascend_protobuf)\.so", "the environment of CANN is not set",
     f"{_EXEC}; when that is how it ran, npu.env or CANN itself is incomplete: write it anew (--tags cann)"),
    (r"undefined symbol: \w*cxx11\w*", "it was built for the other C++ ABI than torch",
     "build it again with the torch of this environment (--tags torch_npu_opplugin)"),
    (r"undefined symbol: (acl|ge|Hccl|rt)\w*", "it was built for another CANN than the one that was found",
     "take torch_npu and CANN from one stack (--tags cann,torch_npu_opplugin)"),
    (r"undefined symbol", "it was built for another torch than the one that is installed",
     "take torch and torch_npu from one stack (--tags conda_py311,torch_npu_opplugin)"),
    (r"GLIBCXX_", "the libstdc++ that python loads is older than the one it was built with",
     "bring libstdcxx-ng into the environment (--tags conda_py311)"),
    (r"GLIBC_", "it was built for a newer operating system than this node has",
     "build it on a node like this one"),
    (r"cannot allocate memory in static TLS block", "libgomp was loaded too late",
     "set LD_PRELOAD to lib/libgomp.so.1 of the environment"),
    (r"No module named '?torch_npu", "it is not installed",
     "--tags torch_npu_opplugin"),
    (r"No module named|cannot import name", "a Python package that it needs is missing or of another version",
     "bring the pins back (--tags conda_py311)"),
    (r"numpy|_ARRAY_API", "numpy 2 is installed, torch was built with numpy 1",
     "bring the pins back (--tags conda_py311)"),
    (r"killed|signal|Segmentation", "the interpreter crashed in a library",
     "take torch, torch_npu and CANN from one stack"),
)


def cause_of(error: str) -> t.Tuple[str, str]:
    """What an error of `import torch_npu` means and what to do, in words; the remedy is to read the error when it is not known."""
    for pattern, meaning, remedy in _CAUSES:
        if re.search(pattern, error):
            return meaning, remedy
    return "the cause is not known", "read the traceback: npu-exec python -c 'import torch_npu'"


def probe_command(python: str, wrapper: t.Sequence[str], operators: t.Sequence[str]) -> t.List[str]:
    return [*wrapper, python, "-c", _PROBE, json.dumps(list(operators))]


def read_probe(code: int, out: str, err: str) -> t.Dict[str, t.Any]:
    """What the probe saw. A crash of the interpreter becomes an error like any other."""
    for line in reversed(out.strip().splitlines()):
        try:
            seen = json.loads(line)
        except ValueError:
            continue
        if isinstance(seen, dict) and "imported" in seen:
            return seen
    if code < 0:
        words = f"the interpreter was killed by signal {-code}"
    else:
        words = ([line.strip() for line in (err or out).splitlines() if line.strip()] or [f"exit code {code} without a word"])[-1]
    return {"imported": False, "error": words, "available": False, "device_count": 0, "missing_operators": [], "graph_error": None, "torch": None,
            "version": None, "cxx11_abi": None, "atb_home": None, "stage": "torch"}


def problems(seen: t.Dict[str, t.Any], operators: t.Sequence[str]) -> t.List[t.Dict[str, str]]:
    """[{id, severity, observed, expected, repair}] of what the probe saw; empty when torch_npu can serve."""
    found = []

    def add(name: str, observed: str, expected: str, repair: str, severity: str = "error") -> None:
        found.append({"id": f"torch_npu-{name}", "severity": severity, "observed": observed, "expected": expected, "repair": repair})

    if seen["error"]:
        meaning, remedy = cause_of(seen["error"])
        what = {"torch": "import torch", "torch_npu": "import torch_npu"}.get(seen["stage"], "the question for NPUs")
        add("import", f"{what} fails with {seen['error']}: {meaning}", "torch_npu can be imported and asked", remedy)
        return found
    if not seen["available"] or seen["device_count"] < 1:
        add("devices", f"torch_npu sees {seen['device_count']} NPUs (is_available() is {seen['available']})", "at least one NPU",
            "look at `npu-smi info`; the user must be in the group of /dev/davinci*, and no reboot may be owed")
    if seen["missing_operators"]:
        lacks = f"torch_npu {seen['version']} has no {', '.join(seen['missing_operators'])}"
        add("operators", f"{lacks}: this is a public torch_npu, which loads the model and fails at the first prompt",
            f"the adapted op-plugin with {', '.join(operators)}",
            "get the adapted op-plugin or its wheel from its supplier, set torch_npu_opplugin_source or torch_npu_opplugin_wheel")
    atb = re.search(r"cxx_abi_([01])", seen["atb_home"] or "")
    if atb and seen["cxx11_abi"] is not None and int(atb.group(1)) != seen["cxx11_abi"]:
        add("abi", f"torch has C++ ABI {seen['cxx11_abi']}, the environment takes NNAL's library for ABI {atb.group(1)}", "one ABI everywhere, that of torch",
            f"set cann_cxx_abi: {seen['cxx11_abi']}, then --tags cann")
    if seen["graph_error"]:
        add("graph", f"{seen['graph_error']}: torchair, and with it graph mode, cannot be imported", "setuptools older than 82, which has pkg_resources",
            "bring the pins back (--tags conda_py311)")
    return found
