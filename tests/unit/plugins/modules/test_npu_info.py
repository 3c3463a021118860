# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import time

import pytest
import yaml
from ansible_collections.npuops.ktransformers.plugins.modules import npu_info

from tests.unit.plugins.module_utils.ascend.node_tree import NodeTree
from tests.unit.plugins.module_utils.ascend.run_module import call

TABLE = """\
| npu-smi 25.0.rc1.1     Version: 25.0.rc1.1 |
| NPU   Name  | Health | Power(W)    Temp(C)           Hugepages-Usage(page)|
| Chip        | Bus-Id | AICore(%)   Memory-Usage(MB)  HBM-Usage(MB)        |
| 3     910B4 | Alarm  | 93.6        32                0    / 0             |
| 0     | 0000:82:00.0 | 0           0    / 0          3381 / 65536         |
"""


@pytest.fixture
def tree(tmp_path):
    return NodeTree(tmp_path / "node")


def ask(tree, **options):
    answer = call("npu_info", {**tree.options, "ascend_root": str(tree.ascend), "npu_smi": f"{tree.root}/bin/npu-smi", **options})
    assert (answer["changed"], answer.get("failed")) == (False, None)
    return answer["npu"]


def test_a_bare_machine(tree):
    npu = ask(tree, disk_paths=[str(tree.root / "mnt/weights")])
    assert (npu["found"], npu["count"], npu["devices"], npu["nodes"], npu["product"]) == (False, 0, [], [], None)
    assert npu["reason"] == f"none of the 0 PCI devices in {tree.root}/sys/bus/pci/devices is an Ascend NPU (vendor 0x19e5, class 0x1200)"
    assert [npu[part]["reason"].split(" (")[0] for part in ("driver", "firmware", "nnal")] == [
        "no driver is installed",
        "no firmware is installed",
        "no NNAL is installed",
    ]
    assert npu["smi"]["reason"] == f"npu-smi was not found ({tree.root}/bin/npu-smi); the driver brings it"
    assert npu["disks"][0]["free_mb"] > 0


def test_a_finished_node(tree):
    tree.npus()
    tree.driver()
    tree.firmware()
    tree.toolkit()
    tree.kernels()
    tree.nnal()
    tree.write("proc/modules", "drv_pcie_host 1048576 1 - Live 0x0 (OE)\nnvme 1 0 - Live 0x0\n")
    tree.program("bin/npu-smi", f"cat <<'END'\n{TABLE}END")
    npu = ask(tree)
    assert (npu["product"], npu["chip_family"], npu["count"], len(npu["nodes"])) == ("Atlas 800I A2", "910b", 8, 9)
    assert (npu["driver"]["version"], npu["driver"]["module_loaded"], npu["firmware"]["version"]) == ("25.0.rc1.1", True, "7.7.0.1.231")
    assert (npu["cann"]["latest"], npu["cann"]["trees"][0]["kernels"]) == ("8.1.RC1", {"version": "8.1.RC1", "chips": ["910b"]})
    assert (npu["nnal"]["version"], npu["reboot_required"], npu["reboot_reason"]) == ("8.1.RC1", False, None)
    assert npu["problems"] == [
        {
            "id": "ascend_health",
            "severity": "error",
            "observed": "NPU 3 chip 0 (910B4, 0000:82:00.0) is in health Alarm",
            "expected": "health OK",
            "repair": "see `npu-smi info -t health -i 3` and its error code",
        }
    ]


def test_a_hanging_npu_smi_costs_no_more_than_its_time(tree):
    tree.program("bin/npu-smi", "sleep 60")
    started = time.monotonic()
    npu = ask(tree, npu_smi_timeout=1)
    assert npu["smi"]["reason"] == f"{tree.root}/bin/npu-smi did not answer within 1 s and was killed"
    assert time.monotonic() - started < 50


def test_versions_that_do_not_work_together(tree):
    tree.driver(firmware="[7.8.0,8.9.9]")
    tree.firmware()
    home = tree.toolkit()
    record = next(home.glob("*-linux/ascend_toolkit_install.info"))
    record.write_text(record.read_text().replace("C21SPC001", "C30SPC001").replace("[V100R001C20],[V100R001C21]", "[V100R001C30]"))
    problems = {problem["id"]: problem["observed"] for problem in ask(tree)["problems"]}
    assert problems == {
        "ascend_pair_firmware": "driver 25.0.rc1.1 works with firmware 7.8.0 to 8.9.9, firmware 7.7.0.1.231 is installed",
        "ascend_pair_cann": "CANN 8.1.RC1 (V100R001C30) and driver 25.0.rc1.1 (V100R001C21) name each other in neither's compatible_version",
    }


def test_a_loaded_module_that_is_not_the_installed_one(tree):
    tree.write("sys/module/drv_pcie_host/srcversion", "AAAA\n")
    tree.write("lib/modules/5.15.0-25-generic/updates/drv_pcie_host.ko", "\x7fELF\0license=x\0srcversion=AAAA\0depends=\0")
    assert ask(tree)["reboot_required"] is False
    tree.write("lib/modules/5.15.0-25-generic/updates/drv_pcie_host.ko", "\x7fELF\0license=x\0srcversion=BBBB\0depends=\0")
    npu = ask(tree)
    assert (npu["reboot_required"], npu["reboot_reason"]) == (True, "the loaded kernel module drv_pcie_host (srcversion AAAA) is not the installed one (BBBB)")
    tree.write("lib/modules/5.15.0-25-generic/updates/drv_pcie_host.ko", "")
    assert ask(tree)["reboot_required"] is False


def test_the_documented_sample_has_the_real_shape(tree):
    tree.npus()
    tree.driver()
    tree.toolkit()
    npu = ask(tree)
    documented = yaml.safe_load(npu_info.RETURN)["npu"]["contains"]
    assert set(documented) == set(npu)
    for name in ("driver", "firmware", "cann", "nnal", "host", "smi"):
        assert set(documented[name]["sample"]) <= set(npu[name]), name
