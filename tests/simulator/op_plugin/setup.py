"""Builds torch_npu's wheel as SIMULATED by npuops: log lines like cmake's and make's, then a zip. Standard library only."""

import base64
import hashlib
import os
import platform
import sys
import time
import zipfile

HERE = os.path.dirname(os.path.abspath(__file__))
SOURCES = (
    "aten/common/TensorFactories",
    "core/npu/NPUCachingAllocator",
    "core/npu/NPUGraph",
    "framework/OpParamMaker",
    "op_plugin/ops/opapi/MatmulDequantKernelNpu",
    "op_plugin/ops/atb/FlashAttentionMlaKernelNpu",
    "op_plugin/ops/opapi/MatmulPpKernelNpu",
    "op_plugin/ops/opapi/TopkToppSamplingKernelNpu",
    "distributed/ProcessGroupHCCL",
    "profiler/npu_profiler",
)


def say(text):
    print(text, flush=True)


def prerequisites():
    import torch
    import yaml  # noqa: F401

    if torch.__version__.partition("+")[0] != "2.3.1":
        raise RuntimeError("torch 2.3.1 is required, %s is installed" % torch.__version__)
    return torch


def compile_sources(top, torch):
    jobs = os.environ.get("MAX_JOBS", str(os.cpu_count()))
    say(
        "-- The CXX compiler identification is GNU 10.2.0 (simulated)\n-- Detecting CXX compiler ABI info - done\n"
        "-- _GLIBCXX_USE_CXX11_ABI=%d\n-- Configuring done\n-- Generating done"
        % torch.compiled_with_cxx11_abi()
    )
    say("make -j %s" % jobs)
    broken = os.path.exists(os.path.join(top, "FAIL_BUILD"))
    for number, source in enumerate(SOURCES):
        percent = (number + 1) * 95 // len(SOURCES)
        say("[%3d%%] Building CXX object CMakeFiles/torch_npu.dir/torch_npu/csrc/%s.cpp.o" % (percent, source))
        time.sleep(0.08)
        if broken and number == 4:
            say(
                "%s/torch_npu/csrc/%s.cpp:42:18: error: 'npu_matmul_dequant' is not a member of 'op_api'\n"
                "   42 |     return op_api::npu_matmul_dequant(x1, x2);\n      |                  ^"
                % (HERE, source)
            )
    if broken:
        say("make[2]: *** [CMakeFiles/torch_npu.dir/build.make:76: CMakeFiles/torch_npu.dir/torch_npu/csrc/%s.cpp.o] Error 1" % SOURCES[4])
        say("make[1]: *** [CMakeFiles/Makefile2:118: CMakeFiles/torch_npu.dir/all] Error 2\nmake: *** [Makefile:156: all] Error 2")
        raise SystemExit(1)
    say("[100%] Linking CXX shared library libtorch_npu.so\n[100%] Built target torch_npu")


def write_wheel(dist):
    with open(os.path.join(HERE, "version.txt")) as stream:
        version = stream.read().strip()
    tag = "cp%d%d" % sys.version_info[:2]
    tag = "%s-%s-linux_%s" % (tag, tag, platform.machine())
    info = "torch_npu-%s.dist-info" % version
    content = {}
    for package in ("torch_npu", "torchair"):
        for folder, _, names in sorted(os.walk(os.path.join(HERE, package))):
            for name in sorted(names):
                if name.endswith(".py"):
                    with open(os.path.join(folder, name), "rb") as stream:
                        content[os.path.relpath(os.path.join(folder, name), HERE)] = stream.read()
    content[info + "/METADATA"] = (
        "Metadata-Version: 2.1\nName: torch_npu\nVersion: %s\nSummary: Simulated by npuops, built from the simulated op-plugin.\nRequires-Dist: torch ==2.3.1\n"
        % version
    ).encode()
    content[info + "/WHEEL"] = ("Wheel-Version: 1.0\nGenerator: npuops-simulator\nRoot-Is-Purelib: false\nTag: %s\n" % tag).encode()
    record = "".join(
        "%s,sha256=%s,%d\n" % (path, base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode(), len(data))
        for path, data in content.items()
    )
    content[info + "/RECORD"] = (record + info + "/RECORD,,\n").encode()
    os.makedirs(dist, exist_ok=True)
    name = "torch_npu-%s-%s.whl" % (version, tag)
    with zipfile.ZipFile(os.path.join(dist, name + ".part"), "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in content.items():
            entry = zipfile.ZipInfo(path, (2025, 6, 12, 0, 0, 0))
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, data)
    os.replace(os.path.join(dist, name + ".part"), os.path.join(dist, name))
    say("running bdist_wheel\ncreating '%s/%s' and adding the package to it" % (dist, name))


def main():
    top = sys.argv[1]
    compile_sources(top, prerequisites())
    write_wheel(os.path.join(top, "dist"))


main()
