# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which Ascend product a PCI device is, read from sysfs without root and without lspci.

The table is that of the vendor's own installer, https://pypi.org/project/ascend-deployer/ (module_utils/common_info.py, card_map).
"""
from __future__ import annotations

import os

HUAWEI = "0x19e5"
_ACCELERATOR_CLASS = "0x12"

# chip family, as the vendor's package names spell it, by PCI device id
FAMILIES = {
    "0xd100": "310",
    "0xd105": "310b",
    "0xd107": "310b",
    "0xd500": "310p",
    "0xd801": "910",
    "0xd802": "910b",
    "0xd803": "a3",
    "0xd806": "950",
}

# (device, subsystem vendor, subsystem devices) -> product
_PRODUCTS = (
    ("0xd802", HUAWEI, ("0x3002", "0x3004", "0x3005"), "Atlas 800I A2"),
    ("0xd802", HUAWEI, ("0x4000",), "Atlas 300I A2"),
    ("0xd802", HUAWEI, ("0x3000", "0x3001", "0x3003", "0x3400", "0x3401", "0x3402", "0x3403"), "Atlas 800T A2"),
    ("0xd802", "0x0200", ("0x0100",), "Atlas 800T A2"),
    ("0xd802", HUAWEI, ("0x6000",), "Atlas 300T A2"),
    ("0xd803", HUAWEI, ("0x3000", "0x3001", "0x3002"), "Atlas 900 A3 Pod"),
    ("0xd803", "0x0200", ("0x0100",), "Atlas 900 A3 Pod"),
    ("0xd803", HUAWEI, ("0x3003",), "Atlas 800I A3"),
    ("0xd500", "0x0200", ("0x0100",), "Atlas 300I Pro"),
    ("0xd500", "0x0200", ("0x0110",), "Atlas 300I Duo"),
    ("0xd801", "0x0200", ("0x0100",), "Atlas 300T 9000"),
    ("0xd105", None, None, "Atlas 200I A2"),
    ("0xd107", None, None, "Atlas 200I A2"),
)


def product_of(device: str, subsystem_vendor: str | None, subsystem_device: str | None) -> str | None:
    """The product's name, or None for a card that isn't in the table."""
    for known_device, known_vendor, known_subsystems, product in _PRODUCTS:
        if device != known_device or (known_vendor and subsystem_vendor != known_vendor):
            continue
        if known_subsystems is None or subsystem_device in known_subsystems:
            return product
    return None


def _read_id(folder: str, name: str) -> str | None:
    try:
        with open(os.path.join(folder, name), encoding="ascii", errors="replace") as file:
            return file.read(64).strip().lower() or None
    except OSError:
        return None


def _read_node(folder: str) -> int | None:
    # The kernel writes -1 where it doesn't know the node.
    try:
        node = int(_read_id(folder, "numa_node") or "")
    except ValueError:
        return None
    return node if node >= 0 else None


def scan(sysfs_root: str = "/sys") -> tuple[list[dict], str | None]:
    """The Ascend devices of this node in bus order, and the reason why there are none (or None).

    A Huawei device counts when its id is known or its class is "processing accelerator": Kunpeng servers
    carry many other Huawei devices (bridges, network cards, the BMC's display).
    """
    parent = os.path.join(sysfs_root, "bus", "pci", "devices")
    try:
        addresses = sorted(os.listdir(parent))
    except OSError as exc:
        return [], f"PCI devices cannot be listed in {parent}: {exc.strerror}"
    devices = []
    for address in addresses:
        folder = os.path.join(parent, address)
        if _read_id(folder, "vendor") != HUAWEI:
            continue
        device = _read_id(folder, "device")
        pci_class = _read_id(folder, "class") or ""
        if device is None or not (device in FAMILIES or pci_class.startswith(_ACCELERATOR_CLASS)):
            continue
        subsystem_vendor, subsystem_device = _read_id(folder, "subsystem_vendor"), _read_id(folder, "subsystem_device")
        devices.append({
            "pci_address": address,
            "vendor_id": HUAWEI,
            "device_id": device,
            "subsystem_vendor_id": subsystem_vendor,
            "subsystem_device_id": subsystem_device,
            "product": product_of(device, subsystem_vendor, subsystem_device),
            "numa_node": _read_node(folder),
        })
    if not devices:
        return [], f"none of the {len(addresses)} PCI devices in {parent} is an Ascend NPU (vendor {HUAWEI}, class 0x1200)"
    return devices, None


def summary(devices: list[dict]) -> tuple[str | None, str | None]:
    """Product and chip family of all devices together; several kinds are joined by " and ", unknown ones are left out."""
    products = sorted({device["product"] for device in devices if device["product"]})
    families = sorted({FAMILIES[device["device_id"]] for device in devices if device["device_id"] in FAMILIES})
    return " and ".join(products) or None, " and ".join(families) or None
