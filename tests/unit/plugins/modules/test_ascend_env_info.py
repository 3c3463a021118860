# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest

from tests.unit.plugins.module_utils.ascend.node_tree import NodeTree
from tests.unit.plugins.module_utils.ascend.run_module import call


@pytest.fixture
def tree(tmp_path):
    tree = NodeTree(tmp_path / "node")
    tree.driver()
    tree.toolkit()
    tree.nnal()
    return tree


def test_the_environment(tree):
    answer = call("ascend_env_info", {"ascend_root": str(tree.ascend), "cxx_abi": 0, "extra": {"TASK_QUEUE_ENABLE": 0}}, check=True)
    assert (answer["changed"], answer["found"], answer["problems"], answer["version"]) == (False, True, [], "8.1.RC1")
    assert answer["environment"]["TASK_QUEUE_ENABLE"] == "0"
    assert answer["paths"]["LD_LIBRARY_PATH"][0] == f"{tree.ascend}/driver/lib64/common"
    assert 'TASK_QUEUE_ENABLE="0"' in answer["env_file"].splitlines()


def test_a_driver_in_another_place(tree):
    tree.write("opt/driver/lib64/driver/libascend_hal.so", "")
    answer = call("ascend_env_info", {"ascend_root": str(tree.ascend), "cxx_abi": 0, "driver_path": f"{tree.root}/opt/driver"})
    assert answer["paths"]["LD_LIBRARY_PATH"][:2] == [f"{tree.root}/opt/driver/lib64/driver", f"{tree.root}/opt/driver/lib64"]


def test_nothing_there(tmp_path):
    answer = call("ascend_env_info", {"ascend_root": str(tmp_path)})
    assert (answer.get("failed"), answer["found"], answer["reason"]) == (None, False, f"no CANN is installed below {tmp_path}")


def test_a_broken_script(tree):
    script = tree.install("ascend-toolkit/set_env.sh", "exit 1\n")
    answer = call("ascend_env_info", {"ascend_root": str(tree.ascend)})
    assert (answer["failed"], answer["msg"]) == (
        True,
        f"sourcing {script} ended the shell (rc 1); run it by hand in `bash --noprofile --norc` to see why.",
    )


def test_files_it_is_written_down_in(tree):
    tree.write("etc/npu.env", "x")
    there, none = f"{tree.root}/etc/npu.env", f"{tree.root}/etc/none"
    answer = call("ascend_env_info", {"ascend_root": str(tree.ascend), "files": [there, none]})
    assert answer["files"][there].startswith("2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881 06") and answer["files"][none] == ""
