# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest
from ansible_collections.npuops.ktransformers.plugins.module_utils.ascend import records

from tests.unit.plugins.module_utils.ascend.node_tree import ARCH


def test_a_whole_driver(tree):
    tree.driver()
    assert records.read_driver(tree.roots.ascend, tree.roots.etc) == {
        "version": "25.0.rc1.1",
        "reason": None,
        "state": "installed",
        "inner_version": "V100R001C21SPC002B220",
        "path": f"{tree.ascend}/driver",
        "complete": True,
        "user": "HwHiAiUser",
        "group": "HwHiAiUser",
        "install_for_all": False,
        "install_path": str(tree.ascend),
        "record_reason": None,
        "compatible_firmware": ["7.0.0", "7.7.99"],
        "compatible_version": ["V100R001C20", "V100R001C21"],
        "interfaces": [],
    }


def no_driver(tree):
    pass


def interrupted(tree):
    tree.driver()
    (tree.ascend / "driver/version.info").unlink()


def recorded_only(tree):
    tree.driver_record()


def files_only(tree):
    tree.install("driver/lib64/driver/libascend_hal.so")


def half_removed(tree):
    tree.driver()
    tree.write("etc/ascend_install.info", "UserName=HwHiAiUser\nUserGroup=HwHiAiUser\nFirmware_Install_Path_Param=/usr/local/Ascend\n")


def empty_version(tree):
    tree.driver()
    (tree.ascend / "driver/version.info").chmod(0o644)
    tree.install("driver/version.info", "Version=\n")


@pytest.mark.parametrize(
    "lay, version, state, reason",
    [
        (no_driver, None, "absent", "no driver is installed ({ascend}/driver/version.info is missing)"),
        (
            interrupted,
            None,
            "partial",
            "{etc}/ascend_install.info records a driver in {ascend}, but {ascend}/driver/version.info is missing: an installation or removal was interrupted",
        ),
        (
            recorded_only,
            None,
            "partial",
            "{etc}/ascend_install.info records a driver in {ascend}, but {ascend}/driver/version.info is missing: an installation or removal was interrupted",
        ),
        (files_only, None, "partial", "{ascend}/driver is there without version.info: an installation or removal was interrupted"),
        (
            half_removed,
            "25.0.rc1.1",
            "partial",
            "{etc}/ascend_install.info has no driver (Driver_Install_Path_Param is missing), though {ascend}/driver/version.info is there: "
            "a removal was interrupted",
        ),
        (empty_version, None, "partial", "{ascend}/driver/version.info has no line Version="),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_driver_that_is_not_whole(tree, lay, version, state, reason):
    lay(tree)
    driver = records.read_driver(tree.roots.ascend, tree.roots.etc)
    assert (driver["version"], driver["state"], driver["complete"]) == (version, state, False)
    assert driver["reason"] == reason.format(ascend=tree.ascend, etc=tree.roots.etc)


def test_a_driver_in_another_place_is_found_by_its_record(tree):
    other = tree.root / "opt/Ascend"
    tree.write("etc/ascend_install.info", f"Driver_Install_Path_Param={other}\nDriver_Install_For_All=yes\n")
    tree.write("opt/Ascend/driver/version.info", "Version=25.2.0\n")
    driver = records.read_driver(tree.roots.ascend, tree.roots.etc)
    assert (driver["version"], driver["path"], driver["install_for_all"], driver["complete"]) == ("25.2.0", f"{other}/driver", True, True)


def test_a_driver_without_a_readable_record_is_whole(tree):
    tree.driver()
    (tree.root / "etc/ascend_install.info").unlink()
    driver = records.read_driver(tree.roots.ascend, tree.roots.etc)
    assert (driver["complete"], driver["user"], driver["record_reason"]) == (True, None, f"{tree.roots.etc}/ascend_install.info: No such file or directory")


def test_firmware(tree):
    path = f"{tree.ascend}/firmware/version.info"
    assert records.read_firmware(tree.roots.ascend) == {
        "version": None,
        "reason": f"no firmware is installed ({path} is missing)",
        "state": "absent",
        "package_version": None,
        "compatible_drivers": [],
    }
    tree.firmware()
    assert records.read_firmware(tree.roots.ascend) == {
        "version": "7.7.0.1.231",
        "reason": None,
        "state": "installed",
        "package_version": "25.0.rc1.1",
        "compatible_drivers": [["24.1", "24.1."], ["25.0", "25.0."]],
    }


def test_the_old_layout(tree):
    home = tree.toolkit()
    tree.kernels()
    tree.link("ascend-toolkit/8.1", "8.1.RC1")
    cann = records.read_cann(tree.roots.ascend)
    assert (cann["latest"], cann["reason"], cann["layout"]) == ("8.1.RC1", None, "ascend-toolkit")
    assert cann["trees"] == [
        {
            "version": "8.1.RC1",
            "path": str(home),
            "toolkit": "8.1.RC1",
            "toolkit_state": "installed",
            "toolkit_reason": None,
            "inner_version": "V100R001C21SPC001B238",
            "compatible_version": ["V100R001C20", "V100R001C21"],
            "arch": ARCH,
            "kernels": {"version": "8.1.RC1", "chips": ["910b"]},
            "kernels_state": "installed",
            "kernels_reason": None,
            "asks_of_driver": [],
            "unmet": [],
        }
    ]


def test_the_new_layout(tree):
    home = tree.cann85()
    cann = records.read_cann(tree.roots.ascend)
    assert (cann["latest"], cann["layout"], len(cann["trees"])) == ("8.5.0", "cann", 1)
    found = cann["trees"][0]
    assert (found["path"], found["toolkit"], found["kernels"], found["toolkit_state"]) == (
        str(home),
        "8.5.0",
        {"version": "8.5.0", "chips": ["910b"]},
        "installed",
    )


def test_several_versions_newest_first(tree):
    tree.toolkit("8.0.RC3")
    tree.toolkit("8.1.RC1", latest=False)
    cann = records.read_cann(tree.roots.ascend)
    assert ([found["version"] for found in cann["trees"]], cann["latest"]) == (["8.1.RC1", "8.0.RC3"], "8.0.RC3")
    assert records.find_tree(cann, "latest")["version"] == "8.0.RC3"
    assert records.find_tree(cann, "8.1.rc1")["version"] == "8.1.RC1"
    assert records.find_tree(cann, "8.2.RC1") is None


def test_both_layouts_side_by_side(tree):
    tree.toolkit("8.1.RC1", latest=False)
    tree.cann85("8.5.0")
    cann = records.read_cann(tree.roots.ascend)
    assert ([found["version"] for found in cann["trees"]], cann["latest"], cann["layout"]) == (["8.5.0", "8.1.RC1"], "8.5.0", "cann")


def test_latest_pointing_nowhere(tree):
    tree.cann85()
    tree.link("ascend-toolkit/latest", "../gone")
    cann = records.read_cann(tree.roots.ascend)
    assert (cann["latest"], cann["layout"]) == (None, None)
    assert cann["reason"] == f"{tree.ascend}/ascend-toolkit/latest points to ../gone, which does not exist"


def test_latest_is_told_by_its_parts_when_its_record_is_gone(tree):
    tree.toolkit()
    (tree.ascend / f"ascend-toolkit/latest/{ARCH}-linux/ascend_toolkit_install.info").unlink()
    assert records.read_cann(tree.roots.ascend)["latest"] == "8.1.RC1"


def test_no_cann(tree):
    assert records.read_cann(tree.roots.ascend) == {"latest": None, "reason": f"no CANN is installed below {tree.ascend}", "layout": None, "trees": []}


def test_a_toolkit_with_parts_gone(tree):
    home = tree.toolkit()
    (home / "hccl/version.info").unlink()
    (home / "hccl").rmdir()
    found = records.read_cann(tree.roots.ascend)["trees"][0]
    assert (found["toolkit"], found["toolkit_state"], found["toolkit_reason"]) == ("8.1.RC1", "partial", f"these parts are missing below {home}: hccl")


def test_a_half_removed_toolkit(tree):
    home = tree.toolkit()
    (home / f"{ARCH}-linux/ascend_toolkit_install.info").unlink()
    found = records.read_cann(tree.roots.ascend)["trees"][0]
    assert (found["toolkit"], found["toolkit_state"]) == (None, "partial")
    assert found["toolkit_reason"] == f"{home} has no ascend_toolkit_install.info, though compiler, hccl, opp, runtime, toolkit are there"


def test_kernels_that_are_not_whole(tree):
    home = tree.toolkit()
    tree.kernels()
    (home / "opp_kernel/version.info").unlink()
    found = records.read_cann(tree.roots.ascend)["trees"][0]
    assert (found["kernels"], found["kernels_state"]) == (None, "partial")
    assert found["kernels_reason"] == f"parts of a kernels package are below {home}, but opp_kernel/version.info is missing"


def test_kernels_for_two_chips(tree):
    tree.toolkit()
    tree.kernels()
    tree.kernels(chip="ascend910_93")
    assert records.read_cann(tree.roots.ascend)["trees"][0]["kernels"] == {"version": "8.1.RC1", "chips": ["910b", "a3"]}


def test_nnal(tree):
    tree.nnal()
    assert records.read_nnal(tree.roots.ascend) == {
        "version": "8.1.RC1",
        "path": f"{tree.ascend}/nnal/atb/8.1.RC1",
        "reason": None,
        "state": "installed",
        "complete": True,
        "cxx_abis": [0, 1],
        "versions": ["8.1.RC1"],
    }


@pytest.mark.parametrize(
    "gone, state, version, reason",
    [
        ("", "absent", None, "no NNAL is installed ({parent}/latest is missing)"),
        ("latest", "partial", None, "{parent} holds 8.1.RC1, but {parent}/latest is missing: an installation or removal was interrupted"),
        ("set_env.sh", "partial", "8.1.RC1", "{parent}/set_env.sh is missing: an installation or removal was interrupted"),
        ("8.1.RC1/version.info", "partial", None, "{parent}/latest/version.info: No such file or directory"),
    ],
)
def test_nnal_that_is_not_whole(tree, gone, state, version, reason):
    if gone:
        tree.nnal()
        (tree.ascend / "nnal/atb" / gone).unlink()
    nnal = records.read_nnal(tree.roots.ascend)
    assert (nnal["state"], nnal["version"], nnal["complete"]) == (state, version, False)
    assert nnal["reason"] == reason.format(parent=f"{tree.ascend}/nnal/atb")


def test_nnal_without_libraries(tree):
    tree.nnal(abis=())
    nnal = records.read_nnal(tree.roots.ascend)
    assert (nnal["state"], nnal["reason"]) == ("partial", f"there is no libatb.so below {tree.ascend}/nnal/atb/latest/atb")


def test_records_survive_bytes_that_are_no_text(tree):
    (tree.install("firmware/version.info")).write_bytes(b"\xff\xfe=\x00\nVersion=7.7.0.1.231\n=\n")
    assert records.read_firmware(tree.roots.ascend)["version"] == "7.7.0.1.231"
