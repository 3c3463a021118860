# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest
from ansible_collections.npuops.ktransformers.plugins.module_utils.ascend import pci

HUAWEI = "0x19e5"


@pytest.mark.parametrize(
    "ids, product, family",
    [
        pytest.param(("0xd802", HUAWEI, "0x3002"), "Atlas 800I A2", "910b", id="800I-A2"),
        pytest.param(("0xd802", HUAWEI, "0x3004"), "Atlas 800I A2", "910b", id="800I-A2-b"),
        pytest.param(("0xd802", HUAWEI, "0x3005"), "Atlas 800I A2", "910b", id="800I-A2-c"),
        pytest.param(("0xd802", HUAWEI, "0x4000"), "Atlas 300I A2", "910b", id="300I-A2"),
        pytest.param(("0xd802", HUAWEI, "0x3400"), "Atlas 800T A2", "910b", id="800T-A2"),
        pytest.param(("0xd802", "0x0200", "0x0100"), "Atlas 800T A2", "910b", id="900-A2"),
        pytest.param(("0xd802", HUAWEI, "0x6000"), "Atlas 300T A2", "910b", id="300T-A2"),
        pytest.param(("0xd803", HUAWEI, "0x3001"), "Atlas 900 A3 Pod", "a3", id="900-A3"),
        pytest.param(("0xd803", HUAWEI, "0x3003"), "Atlas 800I A3", "a3", id="800I-A3"),
        pytest.param(("0xd500", "0x0200", "0x0110"), "Atlas 300I Duo", "310p", id="300I-Duo"),
        pytest.param(("0xd500", "0x0200", "0x0100"), "Atlas 300I Pro", "310p", id="300I-Pro"),
        pytest.param(("0xd801", "0x0200", "0x0100"), "Atlas 300T 9000", "910", id="910A"),
        pytest.param(("0xd105", "0x1234", None), "Atlas 200I A2", "310b", id="200I-A2"),
        pytest.param(("0xd802", HUAWEI, "0x9999"), None, "910b", id="unknown-board-of-a-known-chip"),
        pytest.param(("0xdead", HUAWEI, "0x3004"), None, None, id="unknown-accelerator"),
    ],
)
def test_products(tree, ids, product, family):
    device, subsystem_vendor, subsystem_device = ids
    tree.pci("0000:01:00.0", device=device, subsystem_vendor=subsystem_vendor, subsystem_device=subsystem_device or "0x0000")
    devices, reason = pci.scan(tree.roots.sysfs)
    assert reason is None
    assert devices[0]["product"] == product
    assert pci.summary(devices) == (product, family)


def test_eight_npus_in_bus_order_among_other_devices(tree):
    tree.npus(8)
    tree.pci("0000:03:00.0", device="0x1711", **{"class": "0x030000"})  # the BMC's display, also Huawei's
    tree.pci("0000:04:00.0", device="0x0200", **{"class": "0x020000"})  # a network card of Huawei's
    tree.pci("0000:05:00.0", vendor="0x8086", device="0x1521", **{"class": "0x020000"})
    devices, reason = pci.scan(tree.roots.sysfs)
    assert reason is None
    assert [device["pci_address"][5:7] for device in devices] == ["01", "02", "41", "42", "81", "82", "c1", "c2"]
    assert devices[7] == {
        "pci_address": "0000:c2:00.0",
        "vendor_id": HUAWEI,
        "device_id": "0xd802",
        "subsystem_vendor_id": HUAWEI,
        "subsystem_device_id": "0x3004",
        "product": "Atlas 800I A2",
        "numa_node": 7,
    }


def test_two_kinds_of_cards_are_both_named(tree):
    tree.pci("0000:01:00.0")
    tree.pci("0000:02:00.0", device="0xd500", subsystem_vendor="0x0200", subsystem_device="0x0110")
    assert pci.summary(pci.scan(tree.roots.sysfs)[0]) == ("Atlas 300I Duo and Atlas 800I A2", "310p and 910b")


def test_unreadable_details_are_none(tree):
    tree.pci("0000:01:00.0", numa_node="-1", subsystem_device="")
    for name in ("subsystem_vendor", "class"):
        (tree.root / "sys/bus/pci/devices/0000:01:00.0" / name).unlink()
    device = pci.scan(tree.roots.sysfs)[0][0]
    assert (device["numa_node"], device["subsystem_vendor_id"], device["subsystem_device_id"], device["product"]) == (None, None, None, None)


def test_reasons(tree, tmp_path):
    folder = f"{tree.roots.sysfs}/bus/pci/devices"
    tree.pci("0000:05:00.0", vendor="0x8086")
    assert pci.scan(tree.roots.sysfs) == ([], f"none of the 1 PCI devices in {folder} is an Ascend NPU (vendor 0x19e5, class 0x1200)")
    assert pci.scan(str(tmp_path / "no")) == ([], f"PCI devices cannot be listed in {tmp_path}/no/bus/pci/devices: No such file or directory")
