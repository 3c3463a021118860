"""A role's variables as Ansible would see them: defaults, vars, and what a test gives.

Ansible's own importer of collections and the plain one that the other tests use cannot share a process, so the templates are
rendered by a worker: this file, run as a script, which reads and answers lines of JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[3]


class Role:
    """The variables of one role. `given` beats its defaults, as an inventory does."""

    _worker: subprocess.Popen | None = None

    def __init__(self, name: str) -> None:
        self.name = name
        self.folder = CHECKOUT / "roles" / name

    def value(self, expression: str, **given):
        """What `{{ expression }}` is."""
        if Role._worker is None:
            Role._worker = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        given = {"inventory_hostname": "node-1", "ansible_connection": "ssh", **given}
        Role._worker.stdin.write(json.dumps([self.name, expression, given]) + "\n")
        Role._worker.stdin.flush()
        answer = json.loads(Role._worker.stdout.readline())
        assert "error" not in answer, answer["error"]
        return answer["value"]

    def failed(self, checks: str, **given) -> dict[str, dict]:
        """Of a list of preflight checks those that did not pass, by id."""
        return {check["id"]: check for check in self.value(checks, **given) if str(check["ok"]).lower() != "true"}


def work() -> None:
    """Render what is asked for until the test run ends."""
    from ansible.parsing.dataloader import DataLoader
    from ansible.plugins.loader import init_plugin_loader
    from ansible.template import Templar, trust_as_template

    init_plugin_loader([str(CHECKOUT / "collections")])
    known: dict[str, tuple[DataLoader, dict]] = {}
    for line in sys.stdin:
        name, expression, given = json.loads(line)
        if name not in known:
            loader, variables = DataLoader(), {}
            for part in ("defaults", "vars"):
                variables.update(loader.load_from_file(str(CHECKOUT / "roles" / name / part / "main.yml"), trusted_as_template=True))
            variables["ansible_search_path"] = [str(CHECKOUT / "roles" / name)]
            known[name] = loader, variables
        loader, variables = known[name]
        try:
            answer = {"value": Templar(loader, variables={**variables, **given}).template(trust_as_template("{{ " + expression + " }}"))}
        except Exception as exc:  # whatever it is, the test shall show it
            answer = {"error": f"{type(exc).__name__}: {exc}"}
        print(json.dumps(answer), flush=True)


def npu(**changes) -> dict:
    """npu_info's answer for an Atlas 800I A2 on which everything of the guide is installed; `changes` replace parts of it."""
    devices = [
        {"pci_address": f"0000:{bus}:00.0", "vendor_id": "0x19e5", "device_id": "0xd802", "subsystem_vendor_id": "0x19e5", "subsystem_device_id": "0x3005"}
        for bus in ("01", "02", "41", "42", "81", "82", "c1", "c2")
    ]
    answer = {
        "found": True, "reason": None, "product": "Atlas 800I A2", "chip_family": "910b", "count": 8, "devices": devices,
        "nodes": [{"path": f"/dev/davinci{number}", "mode": "0660", "owner": "HwHiAiUser", "group": "HwHiAiUser"} for number in range(8)],
        "driver": {"version": "25.0.rc1.1", "reason": None, "complete": True, "path": "/usr/local/Ascend/driver", "group": "HwHiAiUser"},
        "firmware": {"version": "7.7.0.1.231", "reason": None},
        "cann": {"latest": "8.1.RC1", "reason": None, "layout": "ascend-toolkit", "trees": [tree()]},
        "nnal": {"version": "8.1.RC1", "path": "/usr/local/Ascend/nnal/atb/8.1.RC1", "reason": None, "complete": True},
        "smi": {"available": True, "reason": None, "devices": [{"npu_id": number, "health": "OK"} for number in range(8)], "processes": []},
        "reboot_required": False, "reboot_reason": None, "disks": [], "ports": [], "problems": [],
        "host": {
            "architecture": "aarch64", "kernel": "5.15.0-25-generic", "os_id": "ubuntu", "os_name": "Ubuntu", "os_version": "22.04",
            "memory_total_mb": 1546000, "boot_id": "6f0f2c1e", "glibc": "2.35", "glibcxx": "3.4.30",
            "clock": {"synchronized": True, "source": "chronyd", "reason": None}, "automatic_updates": {"enabled": False, "by": None},
        },
    }
    for key, value in changes.items():
        answer[key] = {**answer[key], **value} if isinstance(answer[key], dict) else value
    return {"npu": answer}


def tree(version: str = "8.1.RC1", **changes) -> dict:
    """One installed CANN of npu_info's list."""
    return {
        "version": version, "path": f"/usr/local/Ascend/ascend-toolkit/{version}", "toolkit": version, "toolkit_reason": None, "toolkit_state": "installed",
        "kernels": {"version": version, "chips": ["910b"]}, "kernels_reason": None, "kernels_state": "installed", **changes,
    }


NO_DRIVER = {
    "driver": {"version": None, "reason": "no driver is installed", "complete": False, "path": None, "group": None},
    "firmware": {"version": None, "reason": "no firmware is installed"},
    "smi": {"available": False, "reason": "npu-smi was not found", "devices": []},
    "nodes": [],
}
NO_CANN = {
    "cann": {"latest": None, "reason": "no CANN is installed below /usr/local/Ascend", "layout": None, "trees": []},
    "nnal": {"version": None, "path": None, "reason": "no NNAL is installed", "complete": False},
}


if __name__ == "__main__":
    work()
