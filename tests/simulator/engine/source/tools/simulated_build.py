# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The build of the simulated tree: an in-tree PEP 517 backend that runs setup.py, which writes the wheel with zipfile.

What is kept of the real build: it needs a live NPU (torch_npu.npu.is_available()), and on aarch64 the replacements of for_arm.
"""

import base64
import hashlib
import os
import platform
import subprocess
import sys
import zipfile

SOURCES = ("third_party/llamafile/sgemm.cpp", "third_party/llamafile/iqk_mul_mat.inc", "third_party/llamafile/tinyblas_cpu_sgemm.inc")
CMAKE = "csrc/ktransformers_ext/CMakeLists.txt"
ENTRY_POINTS = "[console_scripts]\nktransformers = ktransformers.server.main:main\n"


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    """PEP 517: called by `pip install . --no-build-isolation`."""
    subprocess.run([sys.executable, "setup.py", wheel_directory], check=True)
    return next(name for name in sorted(os.listdir(wheel_directory)) if name.startswith("ktransformers-"))


def get_requires_for_build_wheel(config_settings=None):
    return []


def build_wheel_file(directory, setup_for):
    """Called by setup.py, the tree's own or the one of for_arm (`setup_for`: the machine it is for)."""
    print("simulated KTransformers build: nothing is compiled", flush=True)
    torch, torch_npu = live_npu()
    machine = platform.machine()
    problem = compile_problem(machine, setup_for)
    if problem:
        sys.stderr.write(problem)
        raise SystemExit(1)
    # ASSUMPTION: the local part of torch_npu's version is left out, it would make the version invalid.
    npu = torch_npu.__version__.partition("+")[0]
    torch_version = "".join(torch.__version__.partition("+")[0].split(".")[:2])
    cpu = "aarch64" if machine == "aarch64" else "avx2"
    name = write_wheel(directory, f"0.2.4+npu{npu}torch{torch_version}{cpu}")
    print(f"[100%] Built target cpuinfer_ext (simulated)\nSuccessfully built {name}", flush=True)


def live_npu():
    """(torch, torch_npu), where an NPU answers; the real setup.py looks for CUDA, MUSA, ROCm, XPU, then NPU."""
    try:
        import torch
        import torch_npu
        if torch_npu.npu.is_available():
            return torch, torch_npu
        reason = "torch_npu.npu.is_available() is False"
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
    print(f"simulated: {reason}", file=sys.stderr, flush=True)
    raise ValueError("Unsupported backend: CUDA_HOME ROCM_HOME MUSA_HOME are not set and XPU is not available and NPU is not available.")


def compile_problem(machine, setup_for):
    """What the compiler says about sources of another machine, or None. ASSUMPTION: the exact words of the real build's failure."""
    if machine not in ("aarch64", "x86_64"):
        return None
    foreign = {"aarch64": "immintrin.h", "x86_64": "arm_neon.h"}[machine]
    with open(CMAKE, encoding="utf-8") as stream:
        flags = stream.read()
    print("-- CMAKE_SYSTEM_PROCESSOR: " + machine, flush=True)
    if machine == "aarch64" and "-mavx2" in flags:
        return "c++: error: unrecognized command-line option '-mavx2'\n" + make_error("ext_bindings.cpp")
    if machine == "x86_64" and "-march=armv8" in flags:
        return "cc1plus: error: bad value ('armv8.2-a+fp16+fp16fml+dotprod') for '-march=' switch\n" + make_error("ext_bindings.cpp")
    for number, path in enumerate(SOURCES):
        print(f"[{20 * (number + 1):3d}%] Building CXX object CMakeFiles/cpuinfer_ext.dir/{path}.o", flush=True)
        with open(path, encoding="utf-8") as stream:
            for line, text in enumerate(stream, 1):
                if f"#include <{foreign}>" in text:
                    return (f"{os.path.abspath(path)}:{line}:10: fatal error: {foreign}: No such file or directory\n"
                            f"    {line} | #include <{foreign}>\n      |          ^~~~~~~~~~~~~\ncompilation terminated.\n" + make_error(path))
    if setup_for != machine:
        return f"error: setup.py is the one for {setup_for}, this machine is {machine}\n"
    return None


def make_error(path):
    return (f"gmake[2]: *** [CMakeFiles/cpuinfer_ext.dir/build.make:76: CMakeFiles/cpuinfer_ext.dir/{path}.o] Error 1\n"
            "gmake[1]: *** [CMakeFiles/Makefile2:83: CMakeFiles/cpuinfer_ext.dir/all] Error 2\ngmake: *** [Makefile:136: all] Error 2\n")


def write_wheel(directory, version):
    """The file's name. The packages ktransformers (with its data) and cpuinfer_ext, as pip wants them (PEP 427)."""
    name = f"ktransformers-{version}-py3-none-any.whl"
    info = f"ktransformers-{version}.dist-info"
    entries = {}
    for package in ("ktransformers", "cpuinfer_ext"):
        for folder, folders, files in os.walk(package):
            folders[:] = sorted(entry for entry in folders if entry != "__pycache__")
            for file in sorted(files):
                path = os.path.join(folder, file)
                with open(path, "rb") as stream:
                    entries[path.replace(os.sep, "/")] = stream.read()
    entries[info + "/METADATA"] = (f"Metadata-Version: 2.1\nName: ktransformers\nVersion: {version}\n"
                                   "Summary: Simulated KTransformers with NPU support\nRequires-Python: >=3.10\n").encode()
    entries[info + "/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: simulated_build\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    entries[info + "/entry_points.txt"] = ENTRY_POINTS.encode()
    record = ""
    for path, data in entries.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        record += f"{path},sha256={digest},{len(data)}\n"
    entries[info + "/RECORD"] = (record + f"{info}/RECORD,,\n").encode()
    os.makedirs(directory, exist_ok=True)
    with zipfile.ZipFile(os.path.join(directory, name), "w", zipfile.ZIP_DEFLATED) as wheel:
        for path, data in entries.items():
            wheel.writestr(zipfile.ZipInfo(path, (1980, 1, 1, 0, 0, 0)), data)
    return name
