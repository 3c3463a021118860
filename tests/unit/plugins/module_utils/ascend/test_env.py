# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import os
import subprocess
import sys

import pytest
from ansible_collections.npuops.ktransformers.plugins.module_utils.ascend import env
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.plugins.module_utils.ascend.node_tree import ARCH

SYSTEM_PATH = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"]


@pytest.fixture
def whole(tree):
    tree.driver()
    tree.toolkit()
    tree.nnal()
    return tree


def test_what_the_scripts_set_repaired(whole):
    root = whole.roots.ascend
    home = f"{root}/ascend-toolkit/latest"
    answer = env.assemble(root, cxx_abi=0)
    assert (answer["found"], answer["reason"], answer["version"], answer["problems"]) == (True, None, "8.1.RC1", [])
    assert (answer["toolkit_home"], answer["nnal_home"]) == (home, f"{root}/nnal/atb/latest/atb/cxx_abi_0")
    assert answer["paths"]["LD_LIBRARY_PATH"] == [
        f"{root}/driver/lib64/common",
        f"{root}/driver/lib64/driver",
        f"{root}/driver/lib64",
        f"{root}/nnal/atb/latest/atb/cxx_abi_0/lib",
        f"{home}/lib64",
    ]
    assert answer["paths"]["PYTHONPATH"] == [f"{home}/python/site-packages"]
    assert answer["paths"]["PATH"] == [f"{home}/bin", *SYSTEM_PATH]
    assert answer["environment"] == {
        "ASCEND_TOOLKIT_HOME": home,
        "ASCEND_HOME_PATH": home,
        "ASCEND_OPP_PATH": f"{home}/opp",
        "ATB_HOME_PATH": answer["nnal_home"],
        "ATB_SHARE_MEMORY_NAME_SUFFIX": "",
        **{name: ":".join(entries) for name, entries in answer["paths"].items()},
    }
    assert answer["left_out"] == {"ASDOPS_LOG_PATH": "it points to the home of whoever sources the script; each program finds its own"}


def test_nothing_of_the_caller_leaks_in(whole, monkeypatch):
    monkeypatch.setenv("LD_LIBRARY_PATH", "/elsewhere")
    monkeypatch.setenv("ASCEND_CUSTOM", "1")
    monkeypatch.setenv("BASH_ENV", "/dev/full")
    environment = env.assemble(whole.roots.ascend)["environment"]
    assert "ASCEND_CUSTOM" not in environment and "/elsewhere" not in environment["LD_LIBRARY_PATH"]


def test_a_version_beside_latest(whole):
    whole.toolkit("8.2.RC1", latest=False)
    answer = env.assemble(whole.roots.ascend, version="8.2.RC1", cxx_abi=1)
    assert (answer["version"], answer["toolkit_home"]) == ("8.2.RC1", f"{whole.ascend}/ascend-toolkit/8.2.RC1")
    assert answer["nnal_home"].endswith("cxx_abi_1")


def test_the_new_layout(tree):
    tree.driver()
    tree.cann85()
    answer = env.assemble(tree.roots.ascend)
    assert (answer["version"], answer["toolkit_home"], answer["nnal_home"]) == ("8.5.0", f"{tree.ascend}/cann", None)


def test_the_pythons_folder_comes_first_and_extra_before_all(whole):
    answer = env.assemble(
        whole.roots.ascend,
        python="/opt/conda/envs/py311/bin/python",
        extra={"LD_LIBRARY_PATH": "/opt/conda/envs/py311/lib", "TASK_QUEUE_ENABLE": "0"},
    )
    assert answer["paths"]["PATH"][0] == "/opt/conda/envs/py311/bin"
    assert answer["paths"]["LD_LIBRARY_PATH"][0] == "/opt/conda/envs/py311/lib"
    assert answer["environment"]["TASK_QUEUE_ENABLE"] == "0"


def test_without_an_abi_the_script_decides(whole):
    assert env.assemble(whole.roots.ascend)["nnal_home"].endswith("cxx_abi_1")


def problems(tree, **options):
    return {
        found["id"]: (found["severity"], found["observed"], found["expected"], found["repair"])
        for found in env.assemble(tree.roots.ascend, **options)["problems"]
    }


def test_each_missing_library_names_its_folder(tree):
    home = tree.toolkit()
    (home / f"{ARCH}-linux/lib64/libhccl.so").unlink()
    root = tree.roots.ascend
    assert problems(tree, cxx_abi=0) == {
        "ascend_env_libhccl": (
            "error",
            "libhccl.so is in none of the 1 folders of LD_LIBRARY_PATH",
            f"libhccl.so in {root}/ascend-toolkit/latest/lib64 (the toolkit brings it)",
            "install the CANN toolkit 8.1.RC1 again",
        ),
        "ascend_env_libascend_hal": (
            "error",
            "libascend_hal.so is in none of the 1 folders of LD_LIBRARY_PATH",
            f"libascend_hal.so in {root}/driver/lib64/driver (the driver brings it)",
            "install the driver, or mount its folder into this container",
        ),
        "ascend_env_libatb": (
            "error",
            "libatb.so is in none of the 1 folders of LD_LIBRARY_PATH",
            f"libatb.so in {root}/nnal/atb/latest/atb/cxx_abi_0/lib (NNAL brings it)",
            "install Ascend-cann-nnal_8.1.RC1",
        ),
    }


def imports(tree, *names, python=sys.executable):
    answer = env.assemble(tree.roots.ascend, cxx_abi=0, python=python, imports=list(names))
    return [(problem["id"], problem["observed"], problem["expected"], problem["repair"]) for problem in answer["problems"]]


ACL = "ascend-toolkit/8.1.RC1/python/site-packages/acl/__init__.py"


def test_a_module_that_can_be_imported(whole):
    whole.install(ACL, "import json\n")
    whole.link("ascend-toolkit/latest/python", "../8.1.RC1/python")
    assert imports(whole, "acl") == []


def test_a_module_that_is_not_there(whole):
    folder = f"{whole.ascend}/ascend-toolkit/latest/python/site-packages"
    assert imports(whole, "acl") == [(
        "ascend_env_import", f"{sys.executable} says to import acl: ModuleNotFoundError: No module named 'acl'", f"{folder}/acl, and {folder} in PYTHONPATH",
        "install the CANN toolkit again",
    )]


@pytest.mark.parametrize("lines, expected, repair", [
    pytest.param(
        "raise ImportError('libascend_hal.so: cannot open shared object file: No such file or directory')",
        "libascend_hal.so in {ascend}/driver/lib64/driver, and that folder in LD_LIBRARY_PATH",
        "add {ascend}/driver/lib64/driver to LD_LIBRARY_PATH (cann_env_extra)", id="a-library-beside-the-path",
    ),
    pytest.param(
        "raise ImportError('libc_sec.so.1: cannot open shared object file: No such file or directory')",
        "libc_sec.so.1 in {ascend}/driver/lib64/driver", "install the driver again", id="a-library-of-the-driver",
    ),
    pytest.param(
        "raise ImportError('libge_runner.so: cannot open shared object file: No such file or directory')",
        "libge_runner.so in {ascend}/ascend-toolkit/latest/lib64", "install the CANN toolkit again", id="a-library-of-the-toolkit",
    ),
    pytest.param(
        "import decorator_that_is_missing", "package decorator_that_is_missing in the environment of {python}",
        "run the playbook with --tags conda_py311, which installs what CANN's Python parts need", id="a-package-of-tbe",
    ),
    pytest.param("raise RuntimeError('x')", "no error", "run npu-exec {python} -c 'import acl' and look at all of it", id="something-else"),
])
def test_a_module_that_cannot_be_imported_names_the_missing_path(whole, lines, expected, repair):
    whole.install(ACL, lines + "\n")
    whole.link("ascend-toolkit/latest/python", "../8.1.RC1/python")
    names = {"ascend": whole.ascend, "python": sys.executable}
    assert [found[2:] for found in imports(whole, "acl")] == [(expected.format(**names), repair.format(**names))]


def test_a_python_that_is_not_there_yet_is_not_tried(whole):
    assert imports(whole, "acl", python=f"{whole.root}/opt/python") == []


def test_an_abi_that_the_script_does_not_take(whole):
    whole.install(
        "nnal/atb/set_env.sh",
        f"export ATB_HOME_PATH={whole.ascend}/nnal/atb/latest/atb/cxx_abi_1\nexport LD_LIBRARY_PATH=$ATB_HOME_PATH/lib:$LD_LIBRARY_PATH\n",
    )
    assert list(problems(whole, cxx_abi=0)) == ["ascend_env_cxx_abi"]


@pytest.mark.parametrize(
    "version, reason",
    [
        ("latest", "no CANN is installed below {ascend}"),
        ("8.1.RC1", "CANN 8.1.RC1 is not installed below {ascend} (installed: none)"),
    ],
)
def test_no_cann(tree, version, reason):
    answer = env.assemble(tree.roots.ascend, version=version)
    assert (answer["found"], answer["reason"], answer["environment"], answer["env_file"]) == (False, reason.format(ascend=tree.ascend), {}, "")


def test_a_script_that_is_gone(tree):
    tree.toolkit()
    (tree.ascend / "ascend-toolkit/set_env.sh").unlink()
    assert env.assemble(tree.roots.ascend)["reason"] == f"{tree.ascend}/ascend-toolkit/set_env.sh is missing: the toolkit's installation was interrupted"


def test_a_script_that_ends_the_shell(tree):
    tree.toolkit()
    script = tree.install("ascend-toolkit/set_env.sh", "exit 3\n")
    with pytest.raises(env.EnvironmentProblem) as refused:
        env.assemble(tree.roots.ascend)
    assert str(refused.value) == f"sourcing {script} ended the shell (rc 3); run it by hand in `bash --noprofile --norc` to see why."


def test_a_script_that_hangs(tree):
    tree.toolkit()
    script = tree.install("ascend-toolkit/set_env.sh", "sleep 60\n")
    with pytest.raises(env.EnvironmentProblem) as refused:
        env.assemble(tree.roots.ascend, timeout=0.3)
    assert str(refused.value) == f"sourcing {script} in a clean bash failed: bash did not answer within 0.3 s and was killed; is bash installed?"


def test_values_that_a_file_cannot_hold_are_left_out(tree):
    tree.toolkit()
    with open(tree.ascend / "ascend-toolkit/set_env.sh", "a", encoding="utf-8") as script:
        script.write("export TWO_LINES=$'a\\nb'\n")
    answer = env.assemble(tree.roots.ascend)
    assert "TWO_LINES" not in answer["environment"]
    assert answer["left_out"] == {"TWO_LINES": "its value has control characters, which an environment file cannot hold"}


def test_the_file_names_its_origin(whole):
    lines = env.assemble(whole.roots.ascend)["env_file"].splitlines()
    assert lines[:2] == [
        "# Environment of CANN 8.1.RC1",
        "# Written by npuops.ktransformers from the vendor's set_env.sh: change the inventory, not this file.",
    ]
    assert lines[2:] == sorted(lines[2:]) and f'ASCEND_HOME_PATH="{whole.ascend}/ascend-toolkit/latest"' in lines


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126), max_size=40))
def test_bash_reads_back_any_value(value):
    file = env.env_file({"VALUE": value}, "test")
    read = subprocess.run(["bash", "--norc", "-c", f'{file}\nprintf %s "$VALUE"'], capture_output=True, check=True, env={"PATH": os.environ["PATH"]})
    assert read.stdout.decode() == value


def test_paths_are_cleaned():
    assert env.split_path("/a:/b::/a:") == ["/a", "/b"]
