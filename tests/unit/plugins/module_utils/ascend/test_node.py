# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import os
import subprocess
import time

import pytest
from ansible_collections.npuops.ktransformers.plugins.module_utils.ascend import info, node, reboot, run


def test_device_nodes_are_told_by_name(tree):
    tree.npus(2)
    tree.write("dev/davinci10", "", 0o666)
    tree.write("dev/davincix", "")
    (tree.root / "dev/davinci9").mkdir()
    found = node.device_nodes(tree.roots.dev, tree.roots.etc)
    assert [(os.path.basename(item["path"]), item["mode"]) for item in found] == [
        ("davinci0", "0660"),
        ("davinci1", "0660"),
        ("davinci10", "0666"),
        ("davinci_manager", "0660"),
    ]


def test_owners_come_from_the_trees_own_passwd(tree):
    tree.npus(1)
    uid, gid = os.stat(tree.root / "dev/davinci0").st_uid, os.stat(tree.root / "dev/davinci0").st_gid
    tree.write("etc/passwd", f"broken line\nsomebody:x:{uid}:{gid}::/:/bin/sh\n")
    tree.write("etc/group", f"some:x:{gid}:\n")
    assert [(item["owner"], item["group"]) for item in node.device_nodes(tree.roots.dev, tree.roots.etc)][0] == ("somebody", "some")


def test_no_dev_folder(tmp_path):
    assert node.device_nodes(str(tmp_path / "no"), str(tmp_path)) == []


@pytest.mark.parametrize(
    "group, groups",
    [
        ("HwHiAiUser:x:1000:\nother:x:7:\n", ["HwHiAiUser"]),
        ("wheel:x:10:HwHiAiUser,me\nHwHiAiUser:x:1000:\n", ["HwHiAiUser", "wheel"]),
        ("", []),
    ],
)
def test_groups(tree, group, groups):
    tree.write("etc/group", group)
    assert node.groups_of(tree.roots.etc, "HwHiAiUser") == groups
    assert node.groups_of(tree.roots.etc, "nobody-here") == []


def hold(tree, pid, name, *targets):
    tree.write(f"proc/{pid}/comm", f"{name}\n")
    folder = tree.root / f"proc/{pid}/fd"
    folder.mkdir(parents=True)
    for number, target in enumerate(targets):
        (folder / str(number)).symlink_to(target)


def test_holders(tree):
    dev = tree.roots.dev
    hold(tree, 4711, "python3", f"{dev}/davinci0", f"{dev}/davinci1", f"{dev}/davinci_manager", "socket:[1]")
    hold(tree, 12, "bash", f"{dev}/null", "/elsewhere/davinci0")
    hold(tree, 13, "ignored", f"{dev}/davinci0")
    tree.write("proc/self", "")
    assert node.holders(tree.roots.proc, dev, ignore=(13,)) == (
        [{"pid": 4711, "name": "python3", "nodes": [f"{dev}/davinci0", f"{dev}/davinci1", f"{dev}/davinci_manager"]}],
        None,
    )


def test_host(tree):
    tree.write("etc/os-release", 'NAME="Ubuntu"\nID=ubuntu\nVERSION_ID="22.04"\n')
    tree.write("proc/meminfo", "MemTotal:       1582280704 kB\nMemAvailable:   1500000000 kB\n")
    tree.write("proc/cpuinfo", "processor\t: 0\n\nprocessor\t: 1\n")
    for number in range(8):
        (tree.root / f"sys/devices/system/node/node{number}").mkdir(parents=True)
    answer = node.host(tree.roots.sysfs, tree.roots.proc, tree.roots.etc)
    glibc = answer.pop("glibc")
    assert glibc is None or glibc[0].isdigit()
    assert answer == {
        "architecture": os.uname().machine,
        "kernel": "5.15.0-25-generic",
        "os_id": "ubuntu",
        "os_name": "Ubuntu",
        "os_version": "22.04",
        "cpu_count": 2,
        "numa_nodes": 8,
        "memory_total_mb": 1545196,
        "memory_available_mb": 1464843,
        "boot_id": "11111111-2222-3333-4444-555555555555",
    }


def test_a_host_that_shows_nothing(tmp_path):
    answer = node.host(str(tmp_path), str(tmp_path), str(tmp_path))
    assert {name for name, value in answer.items() if value is None} >= {"os_id", "os_name", "os_version", "numa_nodes", "memory_total_mb", "boot_id"}
    assert answer["kernel"] == os.uname().release


def test_disks_are_answered_for_the_nearest_parent(tree):
    tree.write("proc/mounts", f"/dev/sda / ext4 rw 0 0\nweights {tree.root}/mnt\\040x xfs rw 0 0\nnewer {tree.root}/mnt\\040x btrfs rw 0 0\n")
    (tree.root / "mnt x").mkdir()
    answer = node.disk(f"{tree.root}/mnt x/DeepSeek/merged", tree.roots.proc)
    assert (answer["path"], answer["mount"], answer["fstype"]) == (f"{tree.root}/mnt x/DeepSeek/merged", f"{tree.root}/mnt x", "btrfs")
    assert 0 < answer["free_mb"] <= answer["total_mb"]
    assert node.disk(str(tree.root), tree.roots.proc)["fstype"] == "ext4"


def test_a_reboot_is_owed_until_the_node_has_rebooted(tree):
    state, proc = tree.roots.state, tree.roots.proc
    assert reboot.owed(state, proc) is None
    reboot.owe(state, proc, "driver asks", "driver", "25.0.rc1.1")
    reboot.owe(state, proc, "firmware asks", "firmware", "7.7.0.1.231")
    reboot.owe(state, proc, "firmware asks", "firmware", "7.7.0.1.231")
    assert reboot.owed(state, proc) == "driver asks; firmware asks"
    assert reboot.read(state) == {
        "boot_id": "11111111-2222-3333-4444-555555555555",
        "reason": "driver asks; firmware asks",
        "kind": "firmware",
        "version": "7.7.0.1.231",
    }
    tree.write("proc/sys/kernel/random/boot_id", "99999999-2222-3333-4444-555555555555\n")
    assert reboot.owed(state, proc) is None
    reboot.owe(state, proc, "another", "driver", None)
    assert reboot.owed(state, proc) == "another"
    reboot.write(state, None)
    assert (reboot.read(state), os.listdir(state)) == (None, [])


@pytest.mark.parametrize("text", ["", "{", "[]", '{"reason": "x"}', '{"boot_id": ""}'])
def test_a_broken_note_owes_nothing(tree, text):
    tree.write("var/lib/npuops/reboot-owed.json", text)
    assert reboot.owed(tree.roots.state, tree.roots.proc) is None


def test_a_program_that_hangs_is_killed_with_its_children(tmp_path):
    mark = tmp_path / "pid"
    started = time.monotonic()
    outcome = run.capture(["bash", "-c", f"sleep 300 & echo $! > {mark}; echo begun; trap '' TERM; wait"], 0.5)
    assert (outcome.rc, outcome.output, outcome.reason) == (None, "begun\n", "bash did not answer within 0.5 s and was killed")
    assert time.monotonic() - started < 60
    for unused_try in range(50):
        if subprocess.run(["ps", "-o", "stat=", "-p", mark.read_text().strip()], capture_output=True, text=True).stdout.strip()[:1] in ("", "Z"):
            break
        time.sleep(0.05)
    else:
        raise AssertionError("the child is still running")


def test_a_grandchild_that_keeps_the_output_open_does_not_hold_the_caller():
    started = time.monotonic()
    outcome = run.capture(["bash", "-c", "sleep 60 & echo done"], 300)
    assert (outcome.rc, outcome.output) == (0, "done\n") and time.monotonic() - started < 50


def test_a_program_that_is_missing():
    outcome = run.capture(["/no/such/program"], 1)
    assert (outcome.rc, outcome.reason) == (None, "/no/such/program could not be started: No such file or directory")


TABLE = """\
| npu-smi 25.0.rc1.1     Version: 25.0.rc1.1 |
| NPU   Name  | Health | Power(W)    Temp(C)           Hugepages-Usage(page)|
| Chip        | Bus-Id | AICore(%)   Memory-Usage(MB)  HBM-Usage(MB)        |
| 0     910B4 | OK     | 93.6        32                0    / 0             |
| 0     | 0000:C1:00.0 | 0           0    / 0          3381 / 65536         |
"""


def smi(tree, body, timeout=20.0):
    return info.query_smi(tree.program("bin/npu-smi", body), timeout, tree.roots.ascend + "/driver")


def test_npu_smi_answers(tree):
    answer = smi(tree, f'echo "$LD_LIBRARY_PATH" > {tree.root}/libraries\n[ "$*" = info ] || exit 1\ncat <<\'END\'\n{TABLE}END')
    assert (answer["available"], answer["reason"], answer["npu_smi_version"]) == (True, None, "25.0.rc1.1")
    assert (answer["devices"][0]["health"], answer["devices"][0]["hbm_total_mb"], answer["processes"]) == ("OK", 65536, [])
    libraries = (tree.root / "libraries").read_text().strip().split(":")
    assert libraries == [f"{tree.ascend}/driver/{folder}" for folder in ("lib64", "lib64/common", "lib64/driver")]


@pytest.mark.parametrize(
    "body, reason",
    [
        pytest.param(
            "echo 'dcmi module initialize failed. ret is -8005'; exit 255", "dcmi module initialize failed. ret is -8005 (npu-smi returned 255)", id="refuses"
        ),
        pytest.param("exit 0", "npu-smi printed nothing (npu-smi returned 0)", id="silent"),
        pytest.param("head -c 3000 /dev/zero; echo; echo \u4e2d\u6587", "\u4e2d\u6587 (npu-smi returned 0)", id="garbage"),
    ],
)
def test_npu_smi_says_no(tree, body, reason):
    answer = smi(tree, body)
    assert (answer["available"], answer["reason"], answer["devices"]) == (False, reason, [])


def test_npu_smi_hangs(tree):
    answer = smi(tree, "sleep 60", timeout=0.3)
    assert (answer["available"], answer["reason"]) == (False, f"{tree.root}/bin/npu-smi did not answer within 0.3 s and was killed")


def test_npu_smi_is_a_folder_or_missing_or_not_executable(tree):
    path = tree.root / "usr/local/bin/npu-smi"
    assert info.find_smi(str(path)) == (None, f"npu-smi was not found ({path}); the driver brings it")
    path.mkdir(parents=True)
    assert info.find_smi(str(path)) == (
        None,
        f"{path} is a folder (a container's bind mount makes one where the file is missing); remove it and install the driver again",
    )
    path.rmdir()
    path.write_text("")
    path.chmod(0o644)
    assert info.find_smi(str(path)) == (None, f"{path} may not be executed by this user")


def test_npu_smi_is_not_asked(tree):
    assert info.query_smi("", 1, "", asked=False)["reason"] == "npu-smi was not asked (query_smi is false)"


def test_a_bare_node_and_a_whole_one_have_one_shape(tree):
    roots = tree.roots
    places = {
        "sysfs_root": roots.sysfs,
        "proc_root": roots.proc,
        "dev_root": roots.dev,
        "etc_root": roots.etc,
        "ascend_root": roots.ascend,
        "state_dir": roots.state,
    }
    bare = info.gather(query=False, disk_paths=("/mnt/x",), **places)
    tree.npus()
    tree.driver()
    tree.firmware()
    tree.toolkit()
    tree.kernels()
    tree.nnal()
    reboot.owe(roots.state, roots.proc, "firmware asks", "firmware", "7")
    whole = info.gather(query=False, disk_paths=("/mnt/x",), **places)

    def shape(value):
        return {name: shape(item) for name, item in value.items()} if isinstance(value, dict) else None

    assert shape(bare) == shape(whole)
    assert (bare["found"], bare["count"], bare["product"], bare["chip_family"], bare["reboot_required"]) == (False, 0, None, None, False)
    assert (whole["found"], whole["count"], whole["product"], whole["chip_family"]) == (True, 8, "Atlas 800I A2", "910b")
    assert (whole["reboot_required"], whole["reboot_reason"]) == (True, "firmware asks")


def test_gathering_looks_at_little(tree):
    tree.npus()
    for number in range(200):
        tree.pci(f"0001:{number:02x}:00.0", device="0xa120", **{"class": "0x060400"})
    tree.driver()
    tree.toolkit()
    roots = tree.roots
    started = time.process_time()
    info.gather(roots.sysfs, roots.proc, roots.dev, roots.etc, roots.ascend, roots.state, query=False)
    # Of CPU, and generously: a look at every file of a tree takes more.
    assert time.process_time() - started < 2
