# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether the node waits for a reboot.

Two witnesses: a note that an installation leaves, <state_dir>/reboot-owed.json, with the boot id of that time (as long as the node
runs that boot, the reboot is owed, also after a failed run); and the kernel, where the loaded driver module is another one than the
installed file (drivers of other hands leave no note).
"""
from __future__ import annotations

import json
import mmap
import os

from ansible_collections.npuops.ktransformers.plugins.module_utils.ascend.node import boot_id
from ansible_collections.npuops.ktransformers.plugins.module_utils.ascend.records import read_text

FILE = "reboot-owed.json"


def read(state_dir: str) -> dict | None:
    """What is recorded, or None where nothing is or it cannot be understood."""
    text = read_text(os.path.join(state_dir, FILE))[0]
    try:
        record = json.loads(text or "null")
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def owed(state_dir: str, proc_root: str = "/proc") -> str | None:
    """Why this node must be rebooted, or None when it need not."""
    record = read(state_dir)
    if record is None or not record.get("boot_id") or record["boot_id"] != boot_id(proc_root):
        return None
    return str(record.get("reason") or "an installation asked for it")


def _source_version(path: str) -> str | None:
    """The srcversion that a module file carries in its .modinfo section (a C text "srcversion=…")."""
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            start = data.find(b"\0srcversion=")
            end = data.find(b"\0", start + 1)
            return data[start + len(b"\0srcversion="):end].decode("ascii", "replace") if start >= 0 and end > start else None
    except (OSError, ValueError):  # ValueError: an empty file cannot be mapped
        return None


def outdated_module(sysfs_root: str, proc_root: str, modules_root: str) -> str | None:
    """Why the loaded driver isn't the installed one, or None when it is or nothing can be said (a compressed module, another place)."""
    for module in ("drv_pcie_host", "drv_vpcie"):
        loaded = (read_text(os.path.join(sysfs_root, "module", module, "srcversion"))[0] or "").strip()
        kernel = (read_text(os.path.join(proc_root, "sys", "kernel", "osrelease"))[0] or "").strip()
        if not loaded or not kernel:
            continue
        for folder in ("updates", "updates/dkms", "extra"):
            installed = _source_version(os.path.join(modules_root, kernel, folder, f"{module}.ko"))
            if installed and installed != loaded:
                return f"the loaded kernel module {module} (srcversion {loaded}) is not the installed one ({installed})"
            if installed:
                return None
    return None


def owe(state_dir: str, proc_root: str, reason: str, kind: str, version: str | None) -> None:
    """Record that this boot must end. What this boot already owes stays in the reason. Raises OSError."""
    earlier = owed(state_dir, proc_root)
    if earlier and reason not in earlier:
        reason = f"{earlier}; {reason}"
    write(state_dir, {"boot_id": boot_id(proc_root), "reason": earlier if earlier and reason in earlier else reason, "kind": kind, "version": version})


def write(state_dir: str, record: dict | None) -> None:
    """Put a record in place, or take it away. Raises OSError."""
    path = os.path.join(state_dir, FILE)
    if record is None:
        if os.path.lexists(path):
            os.unlink(path)
        return
    os.makedirs(state_dir, mode=0o755, exist_ok=True)
    draft = f"{path}.{os.getpid()}"
    with open(draft, "w", encoding="utf-8") as file:
        json.dump(record, file, indent=1, sort_keys=True)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    os.chmod(draft, 0o644)
    os.replace(draft, path)
