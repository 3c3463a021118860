"""Plays a few tasks over hosts that are all this computer, and brings back what they found. For tests of roles."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import yaml

CHECKOUT = Path(__file__).resolve().parents[3]


def play(base: Path, hosts: dict[str, dict], tasks: list[dict], arguments: tuple[str, ...] = ()) -> dict:
    """Run `tasks` on `hosts` (name → variables) of the group npu; the fact `result` of each host, by its name."""
    done = run(base, hosts, tasks, arguments)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    return {host: json.loads((base / f"{host}.json").read_text()) for host in hosts}


def run(base: Path, hosts: dict[str, dict], tasks: list[dict], arguments: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    everywhere = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, "ansible_remote_tmp": str(base / "tmp")}
    (base / "inventory.yml").write_text(yaml.safe_dump({"npu": {"hosts": hosts, "vars": everywhere}}, sort_keys=False))
    note = {
        "ansible.builtin.copy": {"dest": f"{base}/{{{{ inventory_hostname }}}}.json", "content": "{{ result | to_json }}", "mode": "0644"},
        "check_mode": False,
    }
    plays = [{"hosts": "npu", "gather_facts": False, "tasks": [*tasks, {"name": "Note what was found", **note}]}]
    (base / "play.yml").write_text(yaml.safe_dump(plays, sort_keys=False))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    environment |= {
        "ANSIBLE_CONFIG": str(CHECKOUT / "ansible.cfg"),
        "ANSIBLE_HOME": str(base / "home"),
        "ANSIBLE_COLLECTIONS_PATH": str(CHECKOUT / "collections"),
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_FORKS": "2",
        "COLUMNS": "400",
    }
    command = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", str(base / "inventory.yml"), str(base / "play.yml"), *arguments]
    return subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=False)


def role(name: str, entry: str, **variables) -> dict:
    """A task that runs an entry of a role."""
    return {
        "name": f"{name} {entry}",
        "ansible.builtin.include_role": {"name": f"npuops.ktransformers.{name}", "tasks_from": entry, "public": True},
        "vars": variables,
    }


def keep(expression: str) -> dict:
    return {"name": "Keep the result", "ansible.builtin.set_fact": {"result": f"{{{{ {expression} }}}}"}}


def lay_media(folder: Path, files: dict[str, bytes]) -> Path:
    """A media directory with these files and its manifest."""
    entries = []
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        entries.append({"path": name, "sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "version": "1", "arch": "noarch", "origin": "test"})
    (folder / "manifest.yml").write_text(yaml.safe_dump({"files": entries}))
    return folder
