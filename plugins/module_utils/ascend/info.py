# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Everything that can be learned about a node's NPUs without root and without changing anything, in one structure."""
from __future__ import annotations

import os
import shutil

from ansible_collections.npuops.ktransformers.plugins.module_utils.ascend import node, npu_smi, pci, reboot, records, run, system
from ansible_collections.npuops.ktransformers.plugins.module_utils.ascend.problem import problem

_SMI_PLACES = ("/usr/local/bin/npu-smi", "/usr/local/sbin/npu-smi")
_DRIVER_LIBRARIES = ("lib64", "lib64/common", "lib64/driver")


def find_smi(chosen: str) -> tuple[str | None, str | None]:
    """The path of npu-smi, or None and why there is none. A chosen path is taken as it is."""
    candidates = [chosen] if chosen else [*_SMI_PLACES, shutil.which("npu-smi") or ""]
    for path in candidates:
        if path and os.path.isdir(path):
            return None, (
                f"{path} is a folder (a container's bind mount makes one where the file is missing); remove it and install the driver again"
            )
        if path and os.path.isfile(path):
            return (path, None) if os.access(path, os.X_OK) else (None, f"{path} may not be executed by this user")
    return None, f"npu-smi was not found ({chosen or 'looked in /usr/local/bin, /usr/local/sbin and PATH'}); the driver brings it"


def _smi_environment(driver_path: str) -> dict[str, str]:
    libraries = ":".join(os.path.join(driver_path, folder) for folder in _DRIVER_LIBRARIES)
    return {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "LD_LIBRARY_PATH": libraries}


def query_smi(chosen: str, timeout: float, driver_path: str, asked: bool = True) -> dict:
    """What npu-smi says, with a reason where it says nothing."""
    result: dict = {
        "available": False, "path": None, "reason": None, "npu_smi_version": None, "driver_version": None, "devices": [], "processes": [],
    }
    if not asked:
        result["reason"] = "npu-smi was not asked (query_smi is false)"
        return result
    result["path"], result["reason"] = find_smi(chosen)
    if result["path"] is None:
        return result
    outcome = run.capture([result["path"], "info"], timeout, _smi_environment(driver_path))
    if outcome.reason:
        result["reason"] = outcome.reason
        return result
    answer = npu_smi.parse_info(outcome.output)
    if "error" in answer:
        result["reason"] = f"{answer['error']} (npu-smi returned {outcome.rc})"
        return result
    result.update(answer, available=True)
    return result


def health_problems(devices: list[dict]) -> list[dict]:
    """One problem for each chip that npu-smi calls anything but OK."""
    return [
        problem(
            "health", f"NPU {device['npu_id']} chip {device['chip_id']} ({device['name']}, {device['bus_id']}) is in health {device['health']}", "health OK",
            f"see `npu-smi info -t health -i {device['npu_id']}` and its error code", "warning" if device["health"] == "Warning" else "error",
        )
        for device in devices if device["health"] not in ("OK", None)
    ]


def _module_loaded(proc_root: str) -> bool | None:
    loaded = node.modules(proc_root)
    return None if loaded is None else bool({"drv_pcie_host", "drv_vpcie"} & set(loaded))


def _host(sysfs_root: str, proc_root: str, etc_root: str) -> dict:
    version, reason = system.libstdcxx(etc_root)
    return dict(
        node.host(sysfs_root, proc_root, etc_root), glibcxx=version, glibcxx_reason=reason, clock=system.clock(proc_root, etc_root),
        automatic_updates=system.automatic_updates(etc_root),
    )


def gather(
    sysfs_root: str = "/sys", proc_root: str = "/proc", dev_root: str = "/dev", etc_root: str = "/etc", ascend_root: str = "/usr/local/Ascend",
    state_dir: str = "/var/lib/npuops", npu_smi_path: str = "", npu_smi_timeout: float = 20, query: bool = True, disk_paths: tuple[str, ...] = (),
    ports: tuple[int, ...] = (),
) -> dict:
    """The answer of module npu_info. Whatever cannot be read is None, with a reason beside it; nothing here raises for a broken node."""
    devices, reason = pci.scan(sysfs_root)
    product, family = pci.summary(devices)
    driver = dict(records.read_driver(ascend_root, etc_root), module_loaded=_module_loaded(proc_root))
    firmware, cann = records.read_firmware(ascend_root), records.read_cann(ascend_root)
    smi = query_smi(npu_smi_path, npu_smi_timeout, driver["path"] or os.path.join(ascend_root, "driver"), query)
    # /lib lies beside /etc, wherever that is.
    modules_root = os.path.join(os.path.dirname(os.path.abspath(etc_root)), "lib", "modules")
    owed = reboot.owed(state_dir, proc_root) or reboot.outdated_module(sysfs_root, proc_root, modules_root)
    return {
        "found": bool(devices),
        "reason": reason,
        "product": product,
        "chip_family": family,
        "count": len(devices),
        "devices": devices,
        "nodes": node.device_nodes(dev_root, etc_root),
        "driver": driver,
        "firmware": firmware,
        "cann": cann,
        "nnal": records.read_nnal(ascend_root),
        "smi": smi,
        "problems": records.pairing_problems(driver, firmware, cann) + health_problems(smi["devices"]),
        "reboot_required": owed is not None,
        "reboot_reason": owed,
        "host": _host(sysfs_root, proc_root, etc_root),
        "ports": system.listeners(ports, proc_root),
        "disks": [node.disk(path, proc_root) for path in disk_paths],
    }
