# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest
from ansible_collections.npuops.ktransformers.plugins.module_utils import glibcxx, python_env
from ansible_collections.npuops.ktransformers.plugins.module_utils.python_env import PythonEnvError


def run(command, variables):
    done = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


LOCK = """\
# CPython 3.11, aarch64
--no-binary=none
numpy==1.26.4 --hash=sha256:7ab5 --hash=sha256:8bc6  # why
Typing_Extensions==4.16.0 \\
    --hash=sha256:0a1b
tomli==2.0.1 ; python_version < "3.11" --hash=sha256:0c1d
torch==2.3.1+cpu --hash=sha256:49cc
"""


def test_read_lock():
    assert [tuple(lock) for lock in python_env.read_lock(LOCK, "requirements.lock")] == [
        ("numpy", "1.26.4", "numpy==1.26.4", "numpy==1.26.4 --hash=sha256:7ab5 --hash=sha256:8bc6"),
        ("typing-extensions", "4.16.0", "Typing_Extensions==4.16.0", "Typing_Extensions==4.16.0 --hash=sha256:0a1b"),
        ("tomli", "2.0.1", 'tomli==2.0.1; python_version < "3.11"', 'tomli==2.0.1 ; python_version < "3.11" --hash=sha256:0c1d'),
        ("torch", "2.3.1+cpu", "torch==2.3.1+cpu", "torch==2.3.1+cpu --hash=sha256:49cc"),
    ]


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("numpy==1.26.4", id="no-hash"),
        pytest.param("numpy>=1.26 --hash=sha256:7ab5", id="no-pin"),
        pytest.param("https://example.org/numpy.whl --hash=sha256:7ab5", id="url"),
    ],
)
def test_a_lock_without_pin_and_hash_is_refused(line):
    with pytest.raises(PythonEnvError) as error:
        python_env.read_lock(line, "requirements.lock")
    assert str(error.value) == f"requirements.lock has the line '{line}', expected name==version --hash=sha256:…; make the lock again."


@pytest.mark.parametrize(
    "python, reason",
    [
        pytest.param("nothing", "{path} does not exist", id="missing"),
        pytest.param(
            "#!/bin/sh\necho 'error while loading shared libraries: libz.so.1' >&2\nexit 127\n",
            "{path} does not run: error while loading shared libraries: libz.so.1",
            id="broken",
        ),
        pytest.param("#!/bin/sh\nexit 0\n", "{path} does not run: no output", id="silent"),
        pytest.param('#!/bin/sh\necho \'{"error": "no-pip"}\'\n', "{path} has no pip", id="no-pip"),
    ],
)
def test_no_environment(tmp_path, python, reason):
    path = tmp_path / "python"
    if python != "nothing":
        path.write_text(python)
        path.chmod(0o755)
    env = python_env.probe(run, str(path), ["numpy==1.26.4"])
    assert (env["found"], env["reason"]) == (False, reason.format(path=path))
    assert python_env.differences(env) == []


@pytest.fixture(scope="module")
def pip_version():
    return run([sys.executable, "-I", "-c", "import pip; print(pip.__version__)"], {})[1].strip()


def probe(requirements=(), constraints=(), lock=""):
    return python_env.probe(run, sys.executable, requirements, constraints, python_env.read_lock(lock, "lock"))


@pytest.mark.parametrize(
    "requirements, constraints, lock, found",
    [
        pytest.param(["pip"], [], "", [], id="met"),
        pytest.param(["pip==0.1"], [], "", [("pip", "==0.1", True)], id="wrong-version"),
        pytest.param(["npuops-nothing>=2"], [], "", [("npuops-nothing", ">=2", False)], id="missing"),
        pytest.param(['npuops-nothing; platform_machine == "riscv64"'], [], "", [], id="marker-of-another-machine"),
        pytest.param([], ["npuops-nothing<2"], "", [], id="a-constraint-asks-for-nothing"),
        pytest.param([], ["Pip<1"], "", [("pip", "<1", True)], id="constraint-broken"),
        pytest.param(
            [], [], "pip==0.2 --hash=sha256:00\nnpuops_nothing==1 --hash=sha256:00", [("npuops-nothing", "==1", False), ("pip", "==0.2", True)], id="lock"
        ),
        pytest.param(["pip<1"], [], "pip==0.2 --hash=sha256:00", [("pip", "==0.2", True)], id="the-lock-is-more-exact"),
    ],
)
def test_differences(pip_version, requirements, constraints, lock, found):
    expected = [{"name": name, "wanted": wanted, "found": pip_version if there else None} for name, wanted, there in found]
    assert python_env.differences(probe(requirements, constraints, lock)) == expected


def test_excluded_names_are_somebody_elses():
    env = probe(["npuops-nothing"], [], "Torch_npu==2.3.1 --hash=sha256:00")
    assert [item["name"] for item in python_env.differences(env, ["torch.npu"])] == ["npuops-nothing"]
    assert python_env.lock_problems(env, ["npuops_nothing"]) == []


def test_a_lock_that_does_not_fit_the_requirements():
    env = probe(
        ["numpy==1.26.4", "scipy", "pip"], ["torch==2.3.1"], "numpy==2.0.1 --hash=sha256:00\ntorch==2.3.1+cpu --hash=sha256:00\npip==24.0 --hash=sha256:00"
    )
    assert python_env.lock_problems(env) == ["it has no scipy", "it has numpy 2.0.1, ==1.26.4 is wanted"]


def test_a_requirement_that_pip_does_not_understand():
    with pytest.raises(PythonEnvError, match=r"^'numpy=1\.26' is no requirement that pip understands \(.*\); correct it\.$"):
        probe(["numpy=1.26"])


def test_the_environment_tells_about_itself():
    env = probe()
    assert (env["found"], env["prefix"], env["machine"]) == (True, sys.prefix, os.uname().machine)
    assert env["version"] == ".".join(map(str, sys.version_info[:3]))
    assert env["packages"]["pip"]["version"]


TORCH_VERSION = "__version__ = '2.3.1+cpu'\ncuda: Optional[str] = None\nhip: Optional[str] = None\n"
TORCH_CUDA = "__version__ = '2.3.1'\ncuda: Optional[str] = '12.1'\n"


@pytest.mark.parametrize(
    "version_py, config, expected",
    [
        pytest.param(TORCH_VERSION, 'set(TORCH_CXX_FLAGS "-D_GLIBCXX_USE_CXX11_ABI=0")', {"cuda": None, "cxx11_abi": 0}, id="cpu"),
        pytest.param(TORCH_CUDA, 'set(TORCH_CXX_FLAGS "-D_GLIBCXX_USE_CXX11_ABI=1")', {"cuda": "12.1", "cxx11_abi": 1}, id="cuda"),
        pytest.param(TORCH_VERSION, None, {"cuda": None, "cxx11_abi": None}, id="no-config"),
    ],
)
def test_read_torch(tmp_path, version_py, config, expected):
    cmake = tmp_path / "torch/share/cmake/Torch"
    cmake.mkdir(parents=True)
    (tmp_path / "torch/version.py").write_text(version_py)
    if config:
        (cmake / "TorchConfig.cmake").write_text(config)
    assert python_env.read_torch(str(tmp_path), {"torch": {"version": "2.3.1"}}) == {"version": "2.3.1", **expected}
    assert python_env.read_torch(str(tmp_path), {}) is None


def test_conda_packages(tmp_path):
    (tmp_path / "conda-meta").mkdir()
    for name in ("libstdcxx-ng-13.2.0-h7e041cc_5.json", "python-3.11.7-0.json", "history"):
        (tmp_path / "conda-meta" / name).touch()
    assert python_env.conda_packages(str(tmp_path)) == {"libstdcxx-ng": "13.2.0", "python": "3.11.7"}


# -- GLIBCXX, against real libraries: those of the interpreter that runs the tests


@pytest.fixture(scope="module")
def libstdcxx():
    return probe()["libstdcxx"]["path"]


def test_glibcxx_of_the_loaded_library(libstdcxx):
    assert libstdcxx and glibcxx.version_key(glibcxx.offered(libstdcxx)) >= (3, 4, 19)
    assert probe()["libstdcxx"]["glibcxx"] == glibcxx.offered(libstdcxx)


def test_glibcxx_that_an_extension_needs():
    import numpy

    version, path = glibcxx.most_demanding(os.path.dirname(numpy.__file__))
    assert glibcxx.version_key(version) >= (3, 4) and path.endswith(".so")
    names = (
        subprocess.run(["strings", "-a", path], capture_output=True, text=True).stdout.split() if os.path.exists("/usr/bin/strings") else [f"GLIBCXX_{version}"]
    )
    assert f"GLIBCXX_{version}" in names


@pytest.mark.skipif(not shutil.which("gcc"), reason="no gcc here")
def test_an_extension_that_wants_a_newer_libstdcxx_than_python_loads(tmp_path):
    """As a compiler newer than the environment's library builds it: real ELF files, and the loader's own refusal."""
    (tmp_path / "new.c").write_text("int npuops_new(void) { return 0; }\n")
    (tmp_path / "new.map").write_text("GLIBCXX_3.4.30 {};\nGLIBCXX_3.4.99 { npuops_new; } GLIBCXX_3.4.30;\n")
    (tmp_path / "ext.c").write_text("int npuops_new(void);\nint npuops_ext(void) { return npuops_new(); }\n")
    library, extension = tmp_path / "lib/libstdc++.so.6", tmp_path / "site-packages/cpuinfer_ext.so"
    library.parent.mkdir(), extension.parent.mkdir()
    build = ["gcc", "-shared", "-fPIC", "-o"]
    script = f"-Wl,--version-script={tmp_path}/new.map"
    subprocess.run([*build, library, tmp_path / "new.c", "-Wl,-soname,libstdc++.so.6", script], check=True)
    subprocess.run([*build, extension, tmp_path / "ext.c", library], check=True)
    assert glibcxx.offered(str(library)) == "3.4.99"
    assert glibcxx.needed(str(extension)) == "3.4.99"
    assert glibcxx.needed(str(library)) is None, "what a library defines is not what it needs"

    env = python_env.with_needs({**probe(), "site_packages": str(extension.parent)})["libstdcxx"]
    assert (env["needed"], env["needed_by"]) == ("3.4.99", str(extension))
    assert glibcxx.version_key(env["glibcxx"]) < glibcxx.version_key(env["needed"])
    load = [sys.executable, "-c", f"import ctypes; ctypes.CDLL('libstdc++.so.6'); ctypes.CDLL('{extension}')"]
    refused = subprocess.run(load, capture_output=True, text=True, check=False)
    assert refused.returncode == 1 and "version `GLIBCXX_3.4.99' not found" in refused.stderr


@pytest.mark.parametrize(
    "content", [b"", b"\x7fELF", b"\x7fELF\x02\x01" + b"\xff" * 80, b"text that names GLIBCXX_3.4.99\0" * 9], ids=["empty", "short", "damaged", "text"]
)
def test_what_is_no_library_needs_nothing(tmp_path, content):
    (tmp_path / "a.so").write_bytes(content)
    assert glibcxx.needed(str(tmp_path / "a.so")) is None
    assert glibcxx.most_demanding(str(tmp_path)) == (None, None)
