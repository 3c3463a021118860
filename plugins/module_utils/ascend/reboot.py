# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A reboot that an installation owes, kept on the node so that it outlives a failed run.

<state_dir>/reboot-owed.json holds the boot id at the time of the installation: as long as the node runs that boot, the reboot is owed.
"""
from __future__ import annotations

import json
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
