"""A role's variables as Ansible would see them: defaults, vars, and what a test gives."""

from __future__ import annotations

from pathlib import Path

from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import init_plugin_loader
from ansible.template import Templar, trust_as_template

CHECKOUT = Path(__file__).resolve().parents[3]


class Role:
    """The variables of one role. `given` beats its defaults, as an inventory does."""

    def __init__(self, name: str) -> None:
        init_plugin_loader([str(CHECKOUT / "collections")])
        self.folder = CHECKOUT / "roles" / name
        self.loader = DataLoader()
        self.loader.set_basedir(str(self.folder))
        self.variables = {}
        for part in ("defaults", "vars"):
            self.variables.update(self.loader.load_from_file(str(self.folder / part / "main.yml"), trusted_as_template=True))

    def value(self, expression: str, **given):
        """What `{{ expression }}` is."""
        variables = {**self.variables, "inventory_hostname": "node-1", "ansible_connection": "ssh", **given}
        variables["ansible_search_path"] = [str(self.folder)]
        return Templar(self.loader, variables=variables).template(trust_as_template("{{ " + expression + " }}"))

    def failed(self, checks: str, **given) -> dict[str, dict]:
        """Of a list of preflight checks those that did not pass, by id."""
        return {check["id"]: check for check in self.value(checks, **given) if str(check["ok"]).lower() != "true"}


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
        "reboot_required": False, "reboot_reason": None, "disks": [],
        "host": {
            "architecture": "aarch64", "kernel": "5.15.0-25-generic", "os_id": "ubuntu", "os_name": "Ubuntu", "os_version": "22.04",
            "memory_total_mb": 1546000, "boot_id": "6f0f2c1e",
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
