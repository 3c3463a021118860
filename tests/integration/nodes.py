"""Run the collection's playbooks on a simulated node, as a user types them."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
INVENTORY = CHECKOUT / "inventories" / "rehearsal"


@dataclass(frozen=True)
class Run:
    """What a playbook run printed and how it ended."""

    rc: int
    output: str

    def recap(self, key: str) -> int:
        """Sum of one number of the recap over all hosts, `changed` for example."""
        found = re.findall(rf"^\S+\s+: ok=.*\b{key}=(\d+)", self.output, re.MULTILINE)
        assert found, self.output[-3000:]
        return sum(map(int, found))

    def flat(self) -> str:
        """The output on one line, for messages that Ansible folded."""
        return re.sub(r"\s+", " ", self.output)


@dataclass(frozen=True)
class Node:
    """A simulated node below `root`, and how to deploy it."""

    root: Path

    @property
    def path(self) -> Path:
        return self.root / "node"

    def play(
        self, *arguments: str, playbook: str | Path = "site.yml", inventory: str | Path = INVENTORY, extra: dict[str, str] | None = None, umask: int = -1
    ) -> Run:
        """Run a playbook; `extra` are more variables of the environment, `umask` that of a hardened computer."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
        environment |= {
            "ANSIBLE_CONFIG": str(CHECKOUT / "ansible.cfg"),
            "ANSIBLE_HOME": str(self.root / "ansible-home"),
            "ANSIBLE_NOCOLOR": "1",
            "COLUMNS": "400",
            **(extra or {}),
        }
        command = [str(Path(sys.executable).parent / "ansible-playbook"), str(playbook), "-i", str(inventory), "-e", f"rehearsal_root={self.root}", *arguments]
        done = subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, timeout=900, check=False, umask=umask)
        return Run(done.returncode, done.stdout + done.stderr)

    def snapshot(self) -> dict[str, str]:
        """Every file of the node with mode and digest (or target of a link), to show that nothing changed."""
        found = {}
        for folder, folders, files in os.walk(self.path):
            for name in folders + files:
                path = Path(folder, name)
                if path.is_symlink():
                    found[str(path.relative_to(self.path))] = f"link {os.readlink(path)}"
                elif path.is_file():
                    found[str(path.relative_to(self.path))] = f"{path.stat().st_mode:o} {hashlib.sha256(path.read_bytes()).hexdigest()}"
                else:
                    found[str(path.relative_to(self.path))] = f"{path.stat().st_mode:o}"
        return found


def simulate(root: Path, *options: str) -> Node:
    command = [sys.executable, str(CHECKOUT / "tests" / "simulator" / "build.py"), "--root", str(root), *options]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return Node(root)
