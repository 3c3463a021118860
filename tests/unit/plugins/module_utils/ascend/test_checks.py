# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import os
import shutil
from dataclasses import replace

import pytest
from ansible_collections.npuops.ktransformers.plugins.module_utils.ascend import driver_checks, node
from ansible_collections.npuops.ktransformers.plugins.module_utils.ascend.checks import refusals
from ansible_collections.npuops.ktransformers.plugins.module_utils.ascend.plan import Wish, make
from ansible_collections.npuops.ktransformers.plugins.module_utils.ascend.problem import Runner

from tests.unit.plugins.module_utils.ascend.node_tree import (
    ARCH,
    DRIVER_PACKAGE,
    FIRMWARE_PACKAGE,
    HDK_ARCH,
    KERNELS_PACKAGE,
    NNAL_PACKAGE,
    TOOLKIT_PACKAGE,
)

ROOT = Runner(uid=0, machine=ARCH)
OTHER_ARCH = {"x86_64": "aarch64"}.get(ARCH, "x86_64")
DPKG = "".join(
    f"Package: {name}\nStatus: install ok installed\nDescription: x\n more\n\n"
    for name in (
        "dkms",
        "gcc",
        "make",
        "linux-headers-5.15.0-25-generic",
        "pciutils",
        "net-tools",
    )
)


@pytest.fixture
def ready(tree):
    """A node that takes a driver."""
    tree.npus()
    tree.write("var/lib/dpkg/status", DPKG)
    return tree


def wish(tree, name, kind=None, there=True, **options):
    kind = kind or next(kind for kind in ("driver", "firmware", "toolkit", "kernels", "nnal") if kind in name)
    src = tree.package(name) if there else f"{tree.root}/media/{name}"
    return Wish(kind=kind, src=src, accept_eula=True, npu_smi=f"{tree.root}/no-npu-smi", **options)


def problems(tree, wanted, runner=ROOT):
    return {
        found["id"].replace("ascend_", ""): (found["severity"], found["observed"], found["expected"], found["repair"])
        for found in refusals(make(wanted, tree.roots), tree.roots, runner)
    }


@pytest.mark.parametrize("name", [DRIVER_PACKAGE, TOOLKIT_PACKAGE])
def test_nothing_is_in_the_way_of_a_ready_node(ready, name):
    assert problems(ready, wish(ready, name)) == {}


def test_all_reasons_come_at_once(tree):
    tree.pci("0000:01:00.0", device="0xd500", subsystem_vendor="0x0200", subsystem_device="0x0110")
    tree.write("etc/passwd", "root:x:0:0::/:/bin/sh\n")
    tree.write("var/lib/dpkg/status", "")
    found = problems(
        tree, replace(wish(tree, f"Ascend-hdk-910b-npu-driver_25.0.rc1.1_linux-{OTHER_ARCH.replace('_', '-')}.run", there=False), accept_eula=False)
    )
    assert {"eula", "arch", "chip", "no_file", "no_user", "build_tools"} <= set(found)
    assert all(severity == "error" for severity, *unused_rest in found.values())


def test_licence(ready):
    assert problems(ready, replace(wish(ready, TOOLKIT_PACKAGE), accept_eula=False)) == {
        "eula": (
            "error",
            f"the licence of {TOOLKIT_PACKAGE} is not accepted",
            "accept_eula is true",
            "read the licence on https://www.hiascend.com/ and set npu_accept_eula: true",
        ),
    }


def test_another_architecture(ready):
    name = f"Ascend-cann-toolkit_8.1.RC1_linux-{OTHER_ARCH}.run"
    assert problems(ready, wish(ready, name)) == {
        "arch": ("error", f"{name} is for {OTHER_ARCH}, this node is {ARCH}", f"a package for {ARCH}", f"put the {ARCH} package into the media"),
    }


def test_another_chip(ready):
    name = f"Ascend-cann-kernels-310p_8.1.RC1_linux-{ARCH}.run"
    ready.toolkit()
    assert problems(ready, wish(ready, name)) == {
        "chip": ("error", f"{name} is for chip 310p, this node has 910b", "a package for 910b", "choose the package by the chip that npu_info reports"),
    }


def test_no_npu_is_no_reason_against_cann_and_a_warning_for_the_driver(tree):
    tree.write("var/lib/dpkg/status", DPKG)
    tree.toolkit()
    assert problems(tree, wish(tree, KERNELS_PACKAGE)) == {}
    assert problems(tree, wish(tree, DRIVER_PACKAGE))["no_npu"][0] == "warning"


def test_downgrade(ready):
    ready.driver("25.2.0")
    wanted = wish(ready, DRIVER_PACKAGE)
    assert problems(ready, wanted)["downgrade"] == (
        "error",
        "driver 25.2.0 is installed and newer than 25.0.rc1.1",
        "25.0.rc1.1 or an older version",
        "choose 25.2.0 or newer, or set force: true to go back to 25.0.rc1.1",
    )
    assert problems(ready, replace(wanted, force=True)) == {}


def test_an_older_cann_beside_a_newer_one_is_no_downgrade(ready):
    ready.toolkit("8.2.RC1")
    assert problems(ready, wish(ready, TOOLKIT_PACKAGE)) == {}


def test_the_file(ready):
    missing = wish(ready, TOOLKIT_PACKAGE, there=False)
    assert problems(ready, missing) == {
        "no_file": ("error", f"{missing.src} is not on this node", "the package's file", "send it first (module npuops.ktransformers.media)"),
    }
    assert problems(ready, missing, replace(ROOT, check_mode=True)) == {}


def test_a_wrong_checksum(ready):
    wanted = wish(ready, TOOLKIT_PACKAGE, sha256="0" * 64)
    found = problems(ready, wanted)["sha256"]
    assert (
        found[0] == "error"
        and found[1].startswith(f"{wanted.src} has sha256 ")
        and found[2:] == (f"sha256 {'0' * 64}", f"remove {wanted.src} and send it again")
    )
    right = found[1].rpartition(" ")[2]
    assert problems(ready, replace(wanted, sha256=right.upper())) == {}


def test_a_package_that_finds_itself_damaged(ready):
    src = ready.package(TOOLKIT_PACKAGE, check="echo 'Error in SHA256 checksums: 0 is different from 1'; exit 2")
    found = problems(ready, Wish(kind="toolkit", src=src, accept_eula=True))
    assert found == {
        "integrity": ("error", f"{src} --check says: Error in SHA256 checksums: 0 is different from 1", "a whole package", f"remove {src} and send it again")
    }
    assert problems(ready, Wish(kind="toolkit", src=src, accept_eula=True), replace(ROOT, check_mode=True)) == {}


@pytest.mark.parametrize("name", [DRIVER_PACKAGE, FIRMWARE_PACKAGE])
def test_root_is_needed_for_the_hdk(ready, name):
    ready.driver("25.0.rc1")
    found = problems(ready, wish(ready, name), Runner(1000, ARCH))
    assert found["root"][2:] == ("root", "run this task with become: true")


def test_cann_needs_no_root(ready):
    assert problems(ready, wish(ready, TOOLKIT_PACKAGE), Runner(os.geteuid() or 1000, ARCH)) == {}


def test_a_path_that_is_closed_to_others(ready):
    (ready.root / "usr").chmod(0o750)
    try:
        assert problems(ready, wish(ready, DRIVER_PACKAGE)) == {
            "path_mode": (
                "error",
                f"{ready.root}/usr has mode 0750",
                "mode 0755, so that every user can reach the driver's libraries",
                f"chmod 755 {ready.root}/usr",
            ),
        }
    finally:
        (ready.root / "usr").chmod(0o755)


def test_a_file_system_that_cannot_be_written(ready, monkeypatch):
    wanted = wish(ready, TOOLKIT_PACKAGE)
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: real(path, mode) if mode == os.R_OK else False)
    assert problems(ready, wanted, Runner(1000, ARCH)) == {
        "unwritable": (
            "error",
            f"{ready.root}/usr/local may not be written by uid 1000",
            "a writable install_path",
            "choose another one, or become root",
        ),
    }

    class ReadOnly:
        f_flag = os.ST_RDONLY

    monkeypatch.setattr(os, "statvfs", lambda path: ReadOnly)
    monkeypatch.setattr(os.path, "ismount", lambda path: path == str(ready.root))
    monkeypatch.setattr(node, "free_mb", lambda path: 10000)
    assert problems(ready, wanted, Runner(1000, ARCH)) == {
        "read_only": (
            "error",
            f"{ready.root}/usr/local is on {ready.root}, which is mounted read-only",
            "a writable file system",
            f"mount -o remount,rw {ready.root}",
        ),
    }


def test_a_full_disk(ready, monkeypatch):
    monkeypatch.setattr(node, "free_mb", lambda path: 300)
    found = problems(ready, wish(ready, DRIVER_PACKAGE))
    assert found == {"disk": ("error", "300 MB are free on the file system of /tmp", "301 MB for driver 25.0.rc1.1", "make room on /tmp")}
    assert problems(ready, wish(ready, TOOLKIT_PACKAGE)) == {}  # some bytes of a package


@pytest.mark.parametrize("name", [KERNELS_PACKAGE, NNAL_PACKAGE])
def test_the_toolkit_comes_first(ready, name):
    ready.toolkit("8.0.RC3")
    wanted = wish(ready, name)
    assert problems(ready, wanted) == {
        "toolkit_first": (
            "error",
            f"toolkit 8.1.RC1 is not installed below {ready.ascend} (installed: 8.0.RC3)",
            "the toolkit of the same version, 8.1.RC1",
            "install Ascend-cann-toolkit_8.1.RC1 first",
        ),
    }
    assert problems(ready, wanted, replace(ROOT, check_mode=True)) == {}
    ready.toolkit()
    assert problems(ready, wanted) == {}


def test_nnal_by_another_user_than_the_toolkits(ready):
    ready.toolkit()
    found = problems(ready, wish(ready, NNAL_PACKAGE), Runner(os.geteuid() + 1, ARCH))
    assert "toolkit_owner" not in found  # the tree is the test's own
    os_stat = os.stat

    class Foreign:
        st_uid = 4242

    def stat(path, *arguments, **options):
        return Foreign if str(path).endswith("ascend-toolkit/8.1.RC1") else os_stat(path, *arguments, **options)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "stat", stat)
        found = problems(ready, wish(ready, NNAL_PACKAGE), Runner(1000, ARCH))
    assert found["toolkit_owner"][1] == f"{ready.ascend}/ascend-toolkit/8.1.RC1 belongs to uid 4242, NNAL would be installed by uid 1000"


def test_the_driver_comes_before_the_firmware(ready):
    wanted = wish(ready, FIRMWARE_PACKAGE)
    assert problems(ready, wanted) == {
        "driver_first": (
            "error",
            f"there is no whole driver: no driver is installed ({ready.ascend}/driver/version.info is missing)",
            "the driver that goes with this firmware",
            "install the driver first",
        ),
    }
    assert problems(ready, wanted, replace(ROOT, check_mode=True)) == {}
    ready.driver()
    assert problems(ready, wanted) == {}


def test_users(ready):
    wanted = wish(ready, DRIVER_PACKAGE)
    ready.write("etc/group", "root:x:0:\nusers:x:1000:\n")
    assert problems(ready, wanted) == {
        "not_in_group": ("error", "HwHiAiUser is in users", "HwHiAiUser in group HwHiAiUser", "groupadd -f HwHiAiUser && usermod -aG HwHiAiUser HwHiAiUser"),
    }
    ready.write("etc/passwd", "root:x:0:0::/:/bin/sh\n")
    assert problems(ready, wanted)["no_user"][3] == ("groupadd -f HwHiAiUser && useradd -g HwHiAiUser -d /home/HwHiAiUser -m -s /bin/bash HwHiAiUser")
    assert problems(ready, wanted, replace(ROOT, check_mode=True)) == {}
    assert list(problems(ready, replace(wanted, username="root", usergroup="root"))) == ["root_user"]
    assert problems(ready, replace(wanted, username="root", usergroup="root", install_for_all=True)) == {}


def test_an_overwrite_by_another_user(ready):
    ready.driver_record(user="someone")
    assert problems(ready, wish(ready, DRIVER_PACKAGE))["other_user"][1:] == (
        f"the driver's record in {ready.roots.etc}/ascend_install.info belongs to someone:someone",
        "HwHiAiUser:HwHiAiUser",
        "set install_username: someone and install_usergroup: someone, or uninstall the driver first",
    )


def test_an_upgrade_keeps_the_user_and_the_access(ready):
    ready.driver("25.0.rc1", user="someone", for_all="yes")
    found = problems(ready, wish(ready, DRIVER_PACKAGE))
    assert set(found) == {"no_user", "install_for_all"}
    assert found["no_user"][1] == f"there is no user someone in {ready.roots.etc}/passwd"
    assert found["install_for_all"] == (
        "warning",
        "the driver was installed for all users, which an upgrade keeps",
        "a driver for its own user and group only",
        "uninstall and install the driver to change it, or set install_for_all: true",
    )


def test_build_tools(ready):
    ready.write(
        "var/lib/dpkg/status",
        DPKG.replace("Package: dkms\nStatus: install ok installed", "Package: dkms\nStatus: deinstall ok config-files").replace(
            "headers-5.15.0-25", "headers-5.15.0-130"
        ),
    )
    wanted = wish(ready, DRIVER_PACKAGE)
    assert problems(ready, wanted) == {
        "build_tools": (
            "error",
            "not installed: dkms, linux-headers-5.15.0-25-generic",
            "what building the kernel modules for 5.15.0-25-generic needs",
            "apt-get install dkms linux-headers-5.15.0-25-generic, or set kernel_modules: prebuilt when the package's ready-made modules fit this kernel",
        ),
    }
    assert problems(ready, wanted, replace(ROOT, check_mode=True))["build_tools"][0] == "warning"
    assert problems(ready, replace(wanted, kernel_modules="prebuilt")) == {}


def test_build_tools_of_an_rpm_system(ready, monkeypatch):
    shutil.rmtree(ready.root / "var")
    rpm = ready.program("bin/rpm", "printf '%s\\n' dkms-3.0-1.noarch gcc-10.3-1.aarch64 kernel-devel-5.15.0-25-generic.aarch64")
    monkeypatch.setattr(driver_checks.shutil, "which", lambda name, path=None: rpm if name == "rpm" else f"/bin/{name}" if name != "lspci" else None)
    found = problems(ready, wish(ready, DRIVER_PACKAGE))
    assert found["build_tools"][1] == "not installed: make, kernel-headers-5.15.0-25-generic"
    assert found["tools"] == ("error", "not installed: pciutils", "the programs that the driver's installer calls", "dnf install pciutils")


def test_only_one_folder_of_the_path_may_be_missing(ready):
    (ready.root / "usr/local").rmdir()
    assert problems(ready, wish(ready, DRIVER_PACKAGE))["parent_path"][1:] == (
        f"{ready.root}/usr/local does not exist",
        "only the last folder of install_path may be missing",
        f"mkdir -p -m 755 {ready.root}/usr/local",
    )


def test_old_firmware_needs_a_step_between(ready):
    ready.driver("22.0.4")
    ready.firmware("1.11.10.5.220", drivers="")
    assert problems(ready, wish(ready, DRIVER_PACKAGE))["old_firmware"][3] == "install driver 23.0.RC1 first, then this one"
    assert problems(ready, wish(ready, f"Ascend-hdk-910b-npu-driver_23.0.rc1_linux-{HDK_ARCH}.run")) == {}


def test_pairs_that_do_not_work_together_are_warned_of(ready):
    ready.driver()
    ready.firmware()
    found = problems(ready, wish(ready, "Ascend-hdk-910b-npu-firmware_7.8.0.2.212.run"))
    assert found == {
        "pair_firmware": (
            "warning",
            "driver 25.0.rc1.1 works with firmware 7.0.0 to 7.7.99",
            "a driver for firmware 7.8.0.2.212",
            "upgrade the driver next, to the version of the same HDK",
        ),
    }
    found = problems(ready, wish(ready, f"Ascend-hdk-910b-npu-driver_25.3.rc1_linux-{HDK_ARCH}.run"))
    assert found == {
        "pair_driver": (
            "warning",
            "firmware 7.7.0.1.231 works with drivers 24.1, 25.0",
            "a firmware for driver 25.3.rc1",
            "upgrade the firmware first, to the version of the same HDK",
        ),
    }


def test_the_table_of_pairs(ready):
    ready.driver("24.1.0")
    old = {
        "pair_hdk": (
            "warning",
            "CANN 8.1.RC1 was published with HDK 25.0.RC1 (driver 25.0.rc1.1), this node has or gets driver 24.1.0",
            "driver 25.0.rc1.1 or newer",
            "choose driver and CANN of one stack (npu_stack), or upgrade driver and firmware first",
        ),
    }
    assert problems(ready, wish(ready, TOOLKIT_PACKAGE)) == old
    # A driver that this run will bring counts before it is there, and only then.
    planned = wish(ready, TOOLKIT_PACKAGE, driver_version="25.0.rc1.1")
    assert problems(ready, planned, replace(ROOT, check_mode=True)) == {}
    assert problems(ready, planned) == old
    ready.toolkit("8.3.RC1")
    found = problems(ready, wish(ready, DRIVER_PACKAGE))["pair_hdk"]
    assert found[:3] == (
        "warning",
        "CANN 8.3.RC1 is installed, which was published with HDK 25.3.RC1 (driver 25.3.rc1)",
        "driver 25.3.rc1 or newer, not 25.0.rc1.1",
    )


def test_a_file_in_the_place_of_a_folder(ready):
    path = ready.write("opt/file", "")
    found = refusals(make(wish(ready, TOOLKIT_PACKAGE), replace(ready.roots, ascend=f"{path}/Ascend")), replace(ready.roots, ascend=f"{path}/Ascend"), ROOT)
    assert [(one["id"], one["observed"]) for one in found] == [("ascend_no_folder", f"{path} is no folder")]


def test_busy_npus(ready):
    ready.driver("25.0.rc1")
    ready.write("proc/4711/comm", "python3\n")
    (ready.root / "proc/4711/fd").mkdir()
    (ready.root / "proc/4711/fd/9").symlink_to("/dev/davinci3")
    wanted = wish(ready, DRIVER_PACKAGE)
    assert problems(ready, wanted) == {
        "busy": (
            "error",
            "the NPUs are in use by python3 (4711)",
            "no process on the NPUs while the driver is changed",
            "stop these programs or containers, or set force: true and reboot afterwards",
        ),
    }
    assert problems(ready, wanted, replace(ROOT, check_mode=True))["busy"][0] == "warning"
    assert problems(ready, replace(wanted, force=True)) == {}
    assert "busy" in problems(ready, Wish(kind="driver", state="absent", src=wanted.src, npu_smi=wanted.npu_smi))


def test_busy_npus_that_only_npu_smi_knows_of(ready):
    ready.driver("25.0.rc1")
    smi = ready.program(
        "bin/npu-smi",
        "cat <<'END'\n| npu-smi 1 Version: 2 |\n| NPU Chip | Process id | Process name | Process memory(MB) |\n"
        + "\n".join(f"| 0 0 | {pid} | worker | 1 |" for pid in range(100, 110))
        + "\nEND",
    )
    found = problems(ready, replace(wish(ready, DRIVER_PACKAGE), npu_smi=smi))["busy"][1]
    assert found == "the NPUs are in use by " + ", ".join(f"worker ({pid})" for pid in range(100, 108)) + " and 2 more"


def test_a_record_that_sends_cann_elsewhere(ready):
    ready.write("etc/Ascend/ascend_cann_install.info", "Install_Path=/opt/Ascend\n")
    wanted = wish(ready, TOOLKIT_PACKAGE)
    assert problems(ready, wanted)["other_path"][1] == (
        f"{ready.roots.etc}/Ascend/ascend_cann_install.info says that CANN is in /opt/Ascend, and every later package follows it"
    )
    assert problems(ready, wanted, Runner(1000, ARCH)) == {}
    ready.write("etc/Ascend/ascend_cann_install.info", f"Install_Path={ready.ascend}\n")
    assert problems(ready, wanted) == {}


def test_a_removal_without_a_script(ready):
    ready.driver()
    assert list(problems(ready, Wish(kind="driver", state="absent", npu_smi=f"{ready.root}/no"))) == ["no_uninstaller"]


def test_latest_that_stands_for_another_version(ready):
    ready.toolkit("8.2.RC1")
    ready.toolkit("8.1.RC1", latest=False)
    assert problems(ready, wish(ready, TOOLKIT_PACKAGE)) == {
        "latest": (
            "warning",
            "toolkit 8.1.RC1 is installed, but latest stands for 8.2.RC1",
            "latest stands for 8.1.RC1",
            "install the toolkit again once with force: true, which makes latest point to it",
        ),
    }
